"""Forwards that read: batches, positions, additive sums."""
