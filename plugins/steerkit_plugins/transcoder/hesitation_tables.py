"""Tables of the features that were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steerkit.findings import Table
from steerkit.report import words

Chosen = Mapping[str, Any]
"""By model: what the step `hesitation-features` says of it."""


def _counts(own: Mapping[str, Any], way: str) -> np.ndarray:
    """[blocks] chosen features."""
    return np.array([len(block) for block in own["ways"][way]["chosen"]])


def shares(chosen: Chosen) -> dict[str, dict[str, float]]:
    """Way → model → share of alive features that were chosen."""
    found: dict[str, dict[str, float]] = {}
    for model, own in chosen.items():
        for way in own["ways"]:
            found.setdefault(way, {})[model] = _share(_counts(own, way).sum(), sum(own["alive"])) or 0.0
    return found


def chosen_table(chosen: Chosen, called: Mapping[str, str]) -> Table:
    """A row a model and way: how many, which share, what they and the matched ones contribute."""
    rows = []
    for model, own in chosen.items():
        total = sum(own["contribution"])
        for way, which in own["ways"].items():
            count, alive = int(_counts(own, way).sum()), sum(own["alive"])
            theirs = [_share(sum(draw), total) for draw in which["matched_contribution"]]
            rows.append(
                (
                    f"{model}, {called[way]}",
                    f"{count:,} of {alive:,}",
                    words.percent(_share(count, alive)),
                    words.percent(_share(sum(which["chosen_contribution"]), total)),
                    ", ".join(map(words.percent, theirs)),
                    words.percent(_shared(own, way)),
                )
            )
    return Table(
        title="Chosen features",
        headings=(
            "adapter",
            "chosen of alive",
            "% of alive",
            "% of contribution",
            "matched ones, % of contribution by draw",
            "also chosen in the other way, %",
        ),
        rows=tuple(rows),
        note="Contribution: mean f · ‖W_dec‖ over tokens. Alive: active at any of them.",
    )


def block_table(chosen: Chosen, called: Mapping[str, str]) -> Table:
    """A row a way and block, means over models."""
    rows = []
    first = next(iter(chosen.values()))
    for way in first["ways"]:
        for number, layer in enumerate(first["layers"]):
            own = [
                (_counts(each, way)[number], each["alive"][number], each["ways"][way], each["contribution"][number])
                for each in chosen.values()
            ]
            parts = [(_share(n, alive), _share(w["chosen_contribution"][number], c)) for n, alive, w, c in own]
            rows.append(
                (
                    called[way],
                    str(layer),
                    words.number(float(np.mean([n for n, *_ in own])), 1),
                    *(words.percent(_mean([part[at] for part in parts])) for at in (0, 1)),
                )
            )
    return Table(
        title="Chosen features by block",
        headings=("chosen", "block", "features", "% of the block's alive ones", "% of the block's contribution"),
        rows=tuple(rows),
        left=2,
        note="Means over the trained adapters.",
        folded=True,
    )


def _shared(own: Mapping[str, Any], way: str) -> float | None:
    """Share of the features chosen in a way that are chosen in another one, too."""
    sets = {
        name: {(block, number) for block, numbers in enumerate(which["chosen"]) for number in numbers}
        for name, which in own["ways"].items()
    }
    others = set[tuple[int, int]]().union(*(chosen for name, chosen in sets.items() if name != way))
    return _share(len(sets[way] & others), len(sets[way])) if len(sets) > 1 else None


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
