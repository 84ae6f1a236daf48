"""AUROC of units that are 0 nearly everywhere: of what is active alone, zeros are ties below it.

The same numbers as `steerkit.units.aurocs.unit_aurocs` gives of all tokens; work and memory go with what is active.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from steerkit.units.active_store import ActiveStore
from steerkit.units.aurocs import Aurocs, clustered_error
from steerkit.units.detection import Detected, detected
from steerkit.units.marks import Marks

CELLS = 2**22
"""Numbers of a table of traces by units that is held at once."""
MOST = 4096
"""Units that are read together."""


@dataclass(frozen=True)
class Question:
    """Which rows of a store count, and which of them are hits.

    Attributes:
        candidates, hits: [N] bool.
    """

    candidates: np.ndarray
    hits: np.ndarray


@dataclass(frozen=True)
class ActiveAurocs(Aurocs):
    """AUROC of units, and what their being active says.

    Attributes:
        lift: [U] share of hits among the candidates where a unit is active, over their share among all; NaN where it is
            active at none.
    """

    lift: np.ndarray


def question(store: ActiveStore, marks: Mapping[str, Marks], traces: Set[str]) -> Question:
    """The rows of some traces that marks count."""
    candidates, hits = np.zeros(len(store.tokens), bool), np.zeros(len(store.tokens), bool)
    ends = np.cumsum(store.lengths)
    for trace, length, end in zip(store.traces, store.lengths, ends, strict=True):
        if trace in traces:
            rows = slice(end - length, end)
            candidates[rows] = marks[trace].candidates[store.tokens[rows]]
            hits[rows] = marks[trace].hits[store.tokens[rows]]
    return Question(candidates, hits & candidates)


def active_aurocs(store: ActiveStore, questions: Sequence[Question]) -> list[ActiveAurocs]:
    """What the units tell, for each question; what is active is read once."""
    of = store.of
    most = max(1, min(MOST, CELLS // max(len(store.traces), 1)))
    parts: list[list[ActiveAurocs]] = [[] for _ in questions]
    for first, end in store.blocks(most):
        unit, row, value = store.entries(first, end)
        order = np.lexsort((value, unit))
        entries = unit[order] - first, row[order], value[order]
        for own, asked in zip(parts, questions, strict=True):
            own.append(_of_units(*entries, end - first, of, len(store.traces), asked))
    return [_joined(own) for own in parts]


def detect_active(
    store: ActiveStore,
    marks: Mapping[str, Marks],
    found: tuple[Aurocs, Aurocs],
    testing: Set[str],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Detected:
    """The best unit on the choosing half, tested on the other, as `steerkit.units.detection.detect`.

    Args:
        found: AUROCs of the units on the choosing half, and on the testing half.

    Raises:
        SteerkitError: the choosing half has no hit, or nothing else.
    """
    return detected(
        *found,
        lambda unit: column(store, unit, {name: len(marks[name].candidates) for name in testing}),
        marks,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def column(store: ActiveStore, unit: int, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Trace → [T] a unit's numbers at the tokens that have rows, 0 at others.

    Args:
        lengths: T of the traces that are wanted.
    """
    _, row, value = store.entries(unit, unit + 1)
    whole = np.zeros(len(store.tokens), np.float32)
    whole[row] = value
    found, ends = {trace: np.zeros(length, np.float32) for trace, length in lengths.items()}, np.cumsum(store.lengths)
    for trace, length, end in zip(store.traces, store.lengths, ends, strict=True):
        if trace in found:
            found[trace][store.tokens[end - length : end]] = whole[end - length : end]
    return found


def _of_units(
    unit: np.ndarray, row: np.ndarray, value: np.ndarray, units: int, of: np.ndarray, traces: int, asked: Question
) -> ActiveAurocs:
    """Of what is active, ordered by unit and then by value."""
    m = np.bincount(of[asked.hits], minlength=traces)
    n = np.bincount(of[asked.candidates & ~asked.hits], minlength=traces)
    if not m.sum() or not n.sum():
        nan = np.full(units, np.nan)
        return ActiveAurocs(nan, nan, int((m > 0).sum()), int(m.sum()), nan)
    own = asked.candidates[row]
    unit, row, value = unit[own], row[own], value[own]
    hit, trace = asked.hits[row], of[row]
    hits_below, hits_here, p = _ranks(unit, value, hit, units)
    others_below, others_here, q = _ranks(unit, value, ~hit, units)
    zeros = n.sum() - q  # others at which a unit is 0
    won = (zeros[unit] + others_below + others_here / 2) / n.sum()  # share of others below each active hit
    tied = zeros / 2 / n.sum()  # and below one that is 0
    above = (p[unit] - hits_below - hits_here / 2) / m.sum()  # share of hits above each active other
    over = (p + (m.sum() - p) / 2) / m.sum()  # and above one that is 0
    auroc = (np.bincount(unit[hit], won[hit], units) + (m.sum() - p) * tied) / m.sum()
    cell = trace * units + unit

    def by_trace(which: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        counted = np.bincount(cell[which], None if weights is None else weights[which], traces * units)
        return np.asarray(counted).reshape(traces, units)

    sums = by_trace(hit, won) + (m[:, None] - by_trace(hit)) * tied
    lost = by_trace(~hit, above) + (n[:, None] - by_trace(~hit)) * over
    error = clustered_error(sums - m[:, None] * auroc, lost - n[:, None] * auroc, m, n)
    with np.errstate(invalid="ignore"):
        lift = p / np.where(p + q, p + q, np.nan) / (m.sum() / (m.sum() + n.sum()))
    return ActiveAurocs(auroc, error, int((m > 0).sum()), int(m.sum()), lift)


def _ranks(
    unit: np.ndarray, value: np.ndarray, which: np.ndarray, units: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[n] how many of those in `which` lie below each entry of its unit, and how many have its value; [U] their number.

    Entries are ordered by unit and then by value.
    """
    new = np.ones(len(unit), bool)
    new[1:] = (unit[1:] != unit[:-1]) | (value[1:] != value[:-1])
    run = np.cumsum(new) - 1  # number of the run of equal values
    counted = np.bincount(run, which, int(run[-1]) + 1 if len(run) else 0)
    total = np.bincount(unit, which, units)
    before_unit = np.cumsum(total) - total
    below = (np.cumsum(counted) - counted)[run] - before_unit[unit]
    return below, counted[run], total


def _joined(parts: Sequence[ActiveAurocs]) -> ActiveAurocs:
    value, error, lift = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("value", "error", "lift")
    )
    return ActiveAurocs(value, error, parts[0].traces, parts[0].hits, lift)
