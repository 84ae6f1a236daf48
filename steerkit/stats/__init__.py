"""Numbers from numbers: intervals, agreement, AUROC, counter-based noise. Knows no file and no torch at import."""
