"""Which unit tells that a labelled sentence begins: chosen on one half of the traces, tested on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.stats.auroc_contrast import auroc_contrast
from steerkit.stats.intervals import Estimate, holm
from steerkit.units.aurocs import Aurocs, unit_aurocs
from steerkit.units.marks import Marks


@dataclass(frozen=True)
class Detected:
    """What the units tell.

    Attributes:
        choosing: [U] AUROC of each on the choosing half; below 0.5 where its negative tells.
        testing: [U] the same on the testing half; NaN without a hit there.
        best: the unit (its column) that is furthest from 0.5 on the choosing half.
        sign: 1, or -1 where its negative tells.
        tested: AUROC of ``sign · unit`` on the testing half, with a bootstrap interval over traces.
        p: [U] of each unit on the testing half telling nothing in the direction that it has on the choosing half,
            corrected over units (Holm 1979); NaN with fewer than two traces with a hit.
    """

    choosing: np.ndarray
    testing: np.ndarray
    best: int
    sign: int
    tested: Estimate
    p: np.ndarray


def halves(traces: Sequence[str], seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """(choosing, testing): the traces dealt into two halves; their order does not matter."""
    names = sorted(set(traces))
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = frozenset(names[place] for place in order[: (len(names) + 1) // 2])
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

    Args:
        values: trace → [T, U].
        marks: of the same traces.
        seed: of the bootstrap.

    Raises:
        SteerkitError: the halves share a trace, or the choosing one has no hit, or nothing else.
    """
    if choosing & testing:
        raise SteerkitError(f"detection: {len(choosing & testing)} traces are in both halves")
    chosen, tested = (unit_aurocs(values, marks, sorted(half)) for half in (choosing, testing))
    return detected(
        chosen,
        tested,
        lambda unit: {name: values[name][:, unit] for name in testing},
        marks,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def detected(
    chosen: Aurocs,
    tested: Aurocs,
    numbers: Callable[[int], Mapping[str, np.ndarray]],
    marks: Mapping[str, Marks],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Detected:
    """The best unit on the choosing half, tested on the other one.

    Args:
        chosen, tested: AUROCs of all units on the halves.
        numbers: a unit → trace → [T] its numbers in the testing half.

    Raises:
        SteerkitError: the choosing half has no hit, or nothing else.
    """
    if not len(chosen.value) or np.isnan(chosen.value).any():
        raise SteerkitError(
            f"detection: the choosing half has {chosen.hits} hits, or no other token; a unit can only be chosen with "
            "both: use more traces"
        )
    best, signs = int(np.argmax(np.abs(chosen.value - 0.5))), np.where(chosen.value >= 0.5, 1, -1)
    sign = int(signs[best])
    scores = {name: sign * own for name, own in numbers(best).items()}
    return Detected(
        choosing=chosen.value,
        testing=tested.value,
        best=best,
        sign=sign,
        tested=contrast([(1.0, scores)], marks, confidence=confidence, resamples=resamples, seed=seed),
        p=np.array(holm(_p_values(tested, signs).tolist())),
    )


def contrast(
    terms: Sequence[tuple[float, Mapping[str, np.ndarray]]],
    marks: Mapping[str, Marks],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Σ weight · AUROC of scores, trace → [T], over the candidates of the traces that all have.

    ``[(1, scores)]`` is an AUROC, ``[(1, a), (-1, b)]`` a paired difference; intervals as of
    `steerkit.stats.auroc_contrast`.
    """
    traces = sorted(set.intersection(*(set(scores) for _, scores in terms)))
    inside = [marks[trace].candidates for trace in traces]
    own = [(weight, [scores[t][which] for t, which in zip(traces, inside, strict=True)]) for weight, scores in terms]
    hits = [marks[trace].hits[which] for trace, which in zip(traces, inside, strict=True)]
    return auroc_contrast(own, hits, confidence=confidence, resamples=resamples, seed=seed)


def lift(
    values: Mapping[str, np.ndarray],
    marks: Mapping[str, Marks],
    traces: Set[str],
    unit: int,
    sign: int,
    strongest: int,
) -> float:
    """The share of hits among the candidates where ``sign · unit`` is largest, over their share among all.

    Args:
        strongest: how many of the candidates; those that tie with the last one count with the weight that is left.

    Returns:
        NaN when there is no hit.
    """
    names = sorted(traces)
    score = np.concatenate([sign * values[t][marks[t].candidates, unit] for t in names] or [np.zeros(0)])
    hit = np.concatenate([marks[t].hits[marks[t].candidates] for t in names] or [np.zeros(0, bool)])
    if not hit.any():
        return float("nan")
    most = min(strongest, len(score))
    last = np.partition(score, len(score) - most)[len(score) - most]
    above, equal = score > last, score == last
    weight = above + equal * (most - above.sum()) / equal.sum()
    return float((weight @ hit) / most / hit.mean())


def _p_values(tested: Aurocs, signs: np.ndarray) -> np.ndarray:
    """[U] p of AUROC 0.5 against the direction `signs`: t tests with the standard errors over traces.

    Never below 2⁻ⁿ for n traces with a hit, the least that a test which turns round whole traces could give: where a
    unit is right everywhere, its standard error is 0 and tells nothing.
    """
    from scipy.special import stdtr

    if tested.traces < 2:
        return np.full(len(tested.value), np.nan)
    away = signs * (tested.value - 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(away == 0, 0.0, away / tested.error)
    found: np.ndarray = np.maximum(stdtr(tested.traces - 1, -t), 0.5**tested.traces)
    return found
