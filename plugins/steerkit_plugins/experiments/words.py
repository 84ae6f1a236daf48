"""Words that figures of several experiments share."""

from __future__ import annotations

from steerkit.steps.results import Results


def strength_label(results: Results) -> str:
    """Label of an axis of added norms: how they follow from the strength."""
    lengths = {
        "raw": "the vector's length",
        "mean-norm": "the mean activation's length",
        "residual-norm": "the activations' mean length",
    }
    if results.scale not in lengths:
        return "strength (L2 norm added)"
    return f"L2 norm added (strength × {lengths[results.scale]})"


def pages(what: str, results: Results) -> str:
    """A figure's heading: what it is, and how many prompts and which intervals."""
    n = max((int(row["n_prompts"]) for row in results.rows), default=0)
    return f"{what} (n = {n} {results.split} prompts, {results.level} intervals)"
