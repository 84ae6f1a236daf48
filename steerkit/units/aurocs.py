"""AUROC of many units at once, with standard errors over traces; two readings of the traces, whatever their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steerkit.units.marks import Marks

ROWS = 2**15
"""Tokens that are counted together."""


@dataclass(frozen=True)
class Aurocs:
    """AUROC of U units over the tokens of traces; NaN where there is no hit, or nothing else.

    Attributes:
        value: [U].
        error: [U] standard error, over traces; NaN for fewer than two traces with a hit.
        traces: those with a hit.
        hits: tokens that are one.
    """

    value: np.ndarray
    error: np.ndarray
    traces: int
    hits: int


def unit_aurocs(values: Mapping[str, np.ndarray], marks: Mapping[str, Marks], traces: Sequence[str]) -> Aurocs:
    """Probability that a unit's number at a hit is above that at another candidate, ties half, for every unit.

    Memory grows with the hits alone. Standard errors are those of clustered data (Obuchowski 1997): tokens of one
    trace are not independent.

    Args:
        values: trace → [T, U]; each is read twice.
        marks: of the same traces.
    """
    m = np.array([int(marks[t].hits.sum()) for t in traces])
    n = np.array([int((marks[t].candidates & ~marks[t].hits).sum()) for t in traces])
    if not m.sum() or not n.sum():
        nan = np.full(values[traces[0]].shape[1] if traces else 0, np.nan)
        return Aurocs(nan, nan, int((m > 0).sum()), int(m.sum()))
    hits = np.concatenate([values[t][marks[t].hits] for t, k in zip(traces, m, strict=True) if k])
    order = np.argsort(hits, axis=0, kind="stable")
    ranked = np.take_along_axis(hits, order, axis=0)
    counted, lost = _count(values, marks, traces, ranked)
    won = _won(counted, ranked) / n.sum()  # [M, U] share of other tokens that lie below each hit
    value = won.mean(axis=0)
    owner = np.repeat(np.arange(len(traces)), m)[order]
    sums = np.stack([np.bincount(owner[:, u], won[:, u], len(traces)) for u in range(len(value))], axis=1)
    # What each trace's hits, and its other tokens, are above what is expected of them.
    error = clustered_error(sums - m[:, None] * value, lost - n[:, None] * value, m, n)
    return Aurocs(value, error, int((m > 0).sum()), int(m.sum()))


def _count(
    values: Mapping[str, np.ndarray], marks: Mapping[str, Marks], traces: Sequence[str], ranked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[2 M + 1, U] other tokens by the sum of the hits below, and the hits below or equal; [C, U] by trace, the shares
    of hits that lie above them."""
    m, units = ranked.shape
    counted, above = np.zeros((2 * m + 1, units)), np.zeros((len(traces), units))
    columns = np.ascontiguousarray(ranked.T)
    for rows, of in _others(values, marks, traces):
        for unit, numbers in enumerate(np.ascontiguousarray(rows.T)):
            both = _below(columns[unit], numbers)
            counted[:, unit] += np.bincount(both, minlength=2 * m + 1)
            above[:, unit] += np.bincount(of, 1 - both / (2 * m), len(traces))
    return counted, above


def _others(
    values: Mapping[str, np.ndarray], marks: Mapping[str, Marks], traces: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Candidates that are no hits [N, U], some traces at a time, and the number of each one's trace."""
    rows: list[np.ndarray] = []
    of: list[np.ndarray] = []
    for number, trace in enumerate(traces):
        own = values[trace][marks[trace].candidates & ~marks[trace].hits]
        rows.append(own)
        of.append(np.full(len(own), number))
        if sum(map(len, rows)) >= ROWS or number + 1 == len(traces):
            yield np.concatenate(rows), np.concatenate(of)
            rows, of = [], []


def _won(counted: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """[M, U] how many other tokens lie below each hit, ties half.

    A hit's own sum of hits below and below or equal is k. Tokens with a smaller sum lie below it, and those with the
    same one tie with it.
    """
    total = np.cumsum(counted, axis=0)
    found = np.empty(ranked.shape)
    for unit in range(ranked.shape[1]):
        k = _below(ranked[:, unit], ranked[:, unit])
        found[:, unit] = total[k, unit] - counted[k, unit] / 2
    return found


def _below(hits: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """[N] how many of sorted hits [M] lie below each number, and how many below or equal, added."""
    left = np.searchsorted(hits, numbers)
    tied = hits[np.minimum(left, len(hits) - 1)] == numbers
    found: np.ndarray = 2 * left
    found[tied] = left[tied] + np.searchsorted(hits, numbers[tied], "right")
    return found


def clustered_error(hits: np.ndarray, others: np.ndarray, m: np.ndarray, n: np.ndarray) -> np.ndarray:
    """[U] standard errors of AUROCs over traces (Obuchowski 1997, Biometrics 53:567).

    Args:
        hits, others: [C, U] sums over a trace's hits and other tokens, less their expectation.
        m, n: [C] how many there are.
    """

    def scaled(traces: int) -> float:
        return traces / (traces - 1) if traces > 1 else float("nan")

    variance = (
        scaled(int((m > 0).sum())) * (hits**2).sum(axis=0) / m.sum() ** 2
        + scaled(int((n > 0).sum())) * (others**2).sum(axis=0) / n.sum() ** 2
        + scaled(int((m + n > 0).sum())) * 2 * (hits * others).sum(axis=0) / (m.sum() * n.sum())
    )
    found: np.ndarray = np.sqrt(np.maximum(variance, 0))
    return found
