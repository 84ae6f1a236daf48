"""Which unit tells that a labelled sentence begins: chosen on one half of the traces, tested on the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.stats.detection import auroc
from steerkit.stats.intervals import Estimate, holm
from steerkit.units.marks import Marks

ROWS = 2**15
"""Tokens that are counted together."""


@dataclass(frozen=True)
class Detected:
    """What the units tell.

    Attributes:
        choosing: [U] AUROC of each on the choosing half; below 0.5 where its negative tells.
        testing: [U] the same on the testing half.
        best: the unit (its column) that is furthest from 0.5 on the choosing half.
        sign: 1, or -1 where its negative tells.
        tested: AUROC of ``sign · unit`` on the testing half, with a bootstrap interval over traces.
        p: [U] of each unit on the testing half telling nothing in the direction that it has on the choosing half,
            corrected over units (Holm).
    """

    choosing: np.ndarray
    testing: np.ndarray
    best: int
    sign: int
    tested: Estimate
    p: np.ndarray


@dataclass(frozen=True)
class Aurocs:
    """AUROC of many units over the tokens of traces.

    Attributes:
        value: [U].
        error: [U] standard error, over traces.
        traces: those with a hit.
    """

    value: np.ndarray
    error: np.ndarray
    traces: int


def halves(traces: Sequence[str], seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """(choosing, testing): the traces dealt into two halves; their order does not matter."""
    names = sorted(set(traces))
    order = np.random.default_rng(seed).permutation(len(names))
    middle = (len(names) + 1) // 2
    chosen = frozenset(names[place] for place in order[:middle])
    return chosen, frozenset(names) - chosen


def detect(
    values: Mapping[str, np.ndarray],
    marks: Mapping[str, Marks],
    choosing: Set[str],
    testing: Set[str],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Detected:
    """How well each unit tells hits from other candidates, the best one chosen and tested on different traces.

    p is of a t test on the AUROC with its standard error over traces (Obuchowski 1997, for clustered data), one-sided
    in the direction that the unit has on the choosing half. It is never below 2⁻ⁿ for n traces with a hit, which is
    what a test that flips signs of whole traces could say at best.

    Args:
        values: trace → [T, U]; read twice, one trace after the other.
        marks: of the same traces.

    Raises:
        SteerkitError: a half has no hit, or nothing else.
    """
    from scipy.special import stdtr

    chosen, tested = (
        unit_aurocs(values, marks, sorted(half), name) for half, name in ((choosing, "choosing"), (testing, "testing"))
    )
    best = int(np.argmax(np.abs(chosen.value - 0.5)))
    signs = np.where(chosen.value >= 0.5, 1, -1)
    away = signs * (tested.value - 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(away == 0, 0.0, away / tested.error)
    p = np.maximum(1 - stdtr(max(tested.traces - 1, 1), t), 0.5**tested.traces)
    if tested.traces < 2:
        p = np.full(len(p), np.nan)
    sign = int(signs[best])
    estimate = tested_auroc(
        {name: sign * values[name][:, best] for name in sorted(testing)},
        marks,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    return Detected(chosen.value, tested.value, best, sign, estimate, np.array(holm(p.tolist())))


def tested_auroc(
    scores: Mapping[str, np.ndarray], marks: Mapping[str, Marks], *, confidence: float, resamples: int, seed: int
) -> Estimate:
    """AUROC of one score a token, [T] a trace, over the candidates, with a bootstrap interval over traces."""
    own = [(np.asarray(each)[marks[t].candidates], marks[t].hits[marks[t].candidates]) for t, each in scores.items()]
    return auroc([s for s, _ in own], [h for _, h in own], confidence=confidence, resamples=resamples, seed=seed)


def unit_aurocs(
    values: Mapping[str, np.ndarray], marks: Mapping[str, Marks], traces: Sequence[str], name: str = "given"
) -> Aurocs:
    """AUROC of every unit (ties half), in memory that grows with the hits alone.

    Args:
        name: of these traces, for errors.

    Raises:
        SteerkitError: there is no hit, or nothing else.
    """
    positive = [sum(int(marks[t].hits.sum()) for t in traces), 0]
    positive[1] = sum(int(marks[t].candidates.sum()) for t in traces) - positive[0]
    m, n = positive
    if not m or not n:
        raise SteerkitError(
            f"the {name} half of {len(traces)} traces has {m} hits and {n} other tokens; both are needed"
        )
    own = np.array([int(marks[t].hits.sum()) for t in traces])
    hits = np.concatenate([values[t][marks[t].hits] for t, k in zip(traces, own, strict=True) if k]).astype(np.float64)
    owner = np.repeat(np.arange(len(traces)), own)
    units = hits.shape[1]
    order = np.argsort(hits, axis=0, kind="stable")
    ranked = np.take_along_axis(hits, order, axis=0)
    below = np.zeros((2 * m + 1, units))  # of other tokens, by how many hits lie below (left) and up to (right) them
    above = np.zeros((len(traces), units))  # share of hits that lie above, summed over a trace's other tokens
    for rows, of in _others(values, marks, traces):
        for unit in range(units):
            left, right = (np.searchsorted(ranked[:, unit], rows[:, unit], side) for side in ("left", "right"))
            both = left + right
            below[:, unit] += np.bincount(both, minlength=2 * m + 1)
            above[:, unit] += np.bincount(of, 1 - both / (2 * m), len(traces))
    placed = _placements(below, ranked) / n  # [m, U] share of other tokens that lie below each hit, in `ranked` order
    value = placed.mean(axis=0)
    counts = np.array([int((marks[t].candidates & ~marks[t].hits).sum()) for t in traces])
    totals = np.zeros((len(traces), units))
    for unit in range(units):
        totals[:, unit] = np.bincount(owner[order[:, unit]], placed[:, unit], len(traces))
    return Aurocs(
        value,
        _clustered(value, totals - own[:, None] * value, above - counts[:, None] * value, own, counts),
        int((own > 0).sum()),
    )


def _others(
    values: Mapping[str, np.ndarray], marks: Mapping[str, Marks], traces: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Candidates that are no hits [N, U], some traces at a time, and the trace's number of each."""
    rows: list[np.ndarray] = []
    of: list[np.ndarray] = []
    for number, trace in enumerate(traces):
        own = values[trace][marks[trace].candidates & ~marks[trace].hits].astype(np.float64)
        rows.append(own)
        of.append(np.full(len(own), number))
        if sum(map(len, rows)) >= ROWS or number + 1 == len(traces):
            yield np.concatenate(rows), np.concatenate(of)
            rows, of = [], []


def _placements(below: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """[m, U] how many other tokens lie below each hit, ties half.

    `below[k]` counts tokens for which the hits below and the hits up to them are k together: a token with no tie at
    rank r has k = 2 r, one that ties with the hits l to r - 1 has k = l + r.
    """
    m, units = ranked.shape
    total = np.cumsum(below, axis=0)
    found = np.empty((m, units))
    for unit in range(units):
        left, right = (np.searchsorted(ranked[:, unit], ranked[:, unit], side) for side in ("left", "right"))
        both = left + right
        # Below a hit are the tokens whose k is less than its own l + r; those that tie with it have just this k.
        found[:, unit] = total[both, unit] - below[both, unit] / 2
    return found


def _clustered(value: np.ndarray, hits: np.ndarray, others: np.ndarray, m: np.ndarray, n: np.ndarray) -> np.ndarray:
    """[U] standard error of AUROCs of clustered data (Obuchowski 1997, Biometrics 53:567).

    Args:
        hits: [C, U] sums of a cluster's hits' placements, less their expectation.
        others: [C, U] the same of its other tokens.
        m, n: [C] how many there are.
    """

    def scaled(clusters: int) -> float:
        return clusters / (clusters - 1) if clusters > 1 else float("nan")

    both = scaled(len(m)) * (hits * others).sum(axis=0)
    variance = (
        scaled(int((m > 0).sum())) * (hits**2).sum(axis=0) / m.sum() ** 2
        + scaled(int((n > 0).sum())) * (others**2).sum(axis=0) / n.sum() ** 2
        + 2 * both / (m.sum() * n.sum())
    )
    found: np.ndarray = np.sqrt(np.maximum(variance, 0))
    return found
