"""Pseudo-labels, random weights and folds of the same windows: what a direction is held against.

Which spans count as having the label is drawn anew, many times, and every draw is summed in the forward that sums the
judge's own labels. None of it counts in the groups of `steerkit.data.windows`. A draw's name is its kind and number,
``within-03``:

- ``within``: the label's spans of each trace are drawn among its eligible ones, as many as there are. What is left of
  a direction then is the trace's. The two sides of a pair (`steerkit.data.pairs`) count as one trace: they are swapped.
- ``over``: the same over all traces together. What is left is what a difference of means has by chance.
- ``elsewhere``: of each trace as many windows at the same place of a sentence that the label does not follow.
- ``covariance``: no label, but a standard normal weight for each window: the weighted sum is a draw from the normal
  distribution that has the windows' covariance.
- ``isotropic``: a random direction, the same in all directions; nothing is summed for it.

A trace's draws depend on the seed, its id and its spans alone (``over`` also on the other traces), and the first draws
of a kind are the same however many there are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steerkit.data.pairs import pair_of
from steerkit.errors import SteerkitError, nearest
from steerkit.stats.noise import key_of

WITHIN, OVER, ELSEWHERE, COVARIANCE, ISOTROPIC = KINDS = ("within", "over", "elsewhere", "covariance", "isotropic")
IN_WORDS = {
    WITHIN: "labels shuffled within each trace",
    OVER: "labels shuffled over all traces",
    ELSEWHERE: "windows of the same traces that the label does not follow",
    COVARIANCE: "directions drawn from the windows' covariance",
    ISOTROPIC: "isotropic random directions",
}


def draw_name(kind: str, number: int) -> str:
    """``within-03``."""
    return f"{kind}-{number:02}"


def kind_of(name: str) -> tuple[str, int]:
    """The kind and number of a draw. Raises: SteerkitError when it is no draw's name."""
    found = re.fullmatch(r"([a-z]+)-(\d{2,})", name)
    if not found or found[1] not in KINDS:
        kind = name.partition("-")[0]
        raise SteerkitError(f"{name!r} is no draw, which is called KIND-00, KIND-01, ...; {nearest(kind, KINDS)}")
    return found[1], int(found[2])


@dataclass(frozen=True)
class TraceSpans:
    """A trace's spans, as draws are made of them: which are eligible for the window, and which have the label."""

    trace: str
    eligible: np.ndarray  # [S] bool
    positive: np.ndarray  # [S] bool


@dataclass(frozen=True)
class Drawn:
    """A trace's part of the draws: J pseudo-labellings and K weightings of its S spans, and the fold it is in."""

    positive: np.ndarray  # [J, S] bool
    weights: np.ndarray  # [K, S] float64
    fold: int


@dataclass(frozen=True)
class Draws:
    """Draws of one label and window over a set of traces.

    Attributes:
        names: the pseudo-labellings.
        weighted: the draws that have weights in place of labels.
        folds: number of folds of whole traces; 0 for none.
        of: trace id → its part.
    """

    label: str
    window: tuple[int, int]
    names: tuple[str, ...]
    weighted: tuple[str, ...]
    folds: int
    of: Mapping[str, Drawn]

    def only(self, traces: Iterable[str]) -> Draws:
        """The part of some of the traces."""
        return replace(self, of={trace: self.of[trace] for trace in traces})


def draw(
    traces: Sequence[TraceSpans],
    names: Collection[str],
    *,
    label: str,
    window: tuple[int, int],
    folds: int = 0,
    seed: int = 0,
) -> Draws:
    """Pseudo-labels, weights and folds of traces, as functions of the seed, the traces' ids and their spans.

    Args:
        names: of the draws, `draw_name`.
        label: whose spans are drawn. window: inclusive token offsets that the spans are eligible for.
        folds: at most as many as there are traces, pairs counted once; those that have the label are dealt out first,
            so that every fold has as many of them as another, or one more or less.

    Raises:
        SteerkitError: a name is no draw's.
    """
    wanted = sorted({kind_of(name) for name in names})
    numbers = {kind: [number for k, number in wanted if k == kind] for kind in KINDS}
    labelled = [kind for kind in (WITHIN, OVER, ELSEWHERE) if numbers[kind]]
    pairs = _pairs(traces)
    wholes = [_joined(name, sides) for name, sides in pairs.items()]
    folds = min(folds, len(wholes))
    dealt = _folds(wholes, folds, seed)
    ranks = _over(wholes, numbers[OVER], seed) if numbers[OVER] else {}
    of = {}
    for each in wholes:
        parts = [ranks[each.trace] if kind == OVER else _within(each, kind, numbers[kind], seed) for kind in labelled]
        positive = np.concatenate([np.zeros((0, len(each.eligible)), bool), *parts])
        weights = _random(each, COVARIANCE, numbers[COVARIANCE], seed, normal=True)
        begin = 0
        for side in pairs[each.trace]:
            own = slice(begin, begin := begin + len(side.eligible))
            of[side.trace] = Drawn(positive[:, own], weights[:, own], dealt.get(each.trace, 0))
    return Draws(
        label=label,
        window=window,
        names=tuple(draw_name(kind, number) for kind in labelled for number in numbers[kind]),
        weighted=tuple(draw_name(COVARIANCE, number) for number in numbers[COVARIANCE]),
        folds=folds,
        of=of,
    )


def _pairs(traces: Iterable[TraceSpans]) -> dict[str, list[TraceSpans]]:
    """Pair → its sides; a trace that is no side of one stands alone, under its own id."""
    found: dict[str, list[TraceSpans]] = {}
    for each in traces:
        found.setdefault(pair_of(each.trace), []).append(each)
    return found


def _joined(name: str, sides: Sequence[TraceSpans]) -> TraceSpans:
    """The sides' spans as those of one trace."""
    eligible, positive = (
        np.concatenate([getattr(side, field) for side in sides]) for field in ("eligible", "positive")
    )
    return TraceSpans(name, eligible, positive)


def _within(each: TraceSpans, kind: str, numbers: Sequence[int], seed: int) -> np.ndarray:
    """[J, S] bool: as many of a trace's eligible spans as have the label, drawn at random.

    Spans that are not eligible keep their labels, so that the trace keeps its counts.
    """
    have = each.eligible & each.positive
    among = each.eligible & ~each.positive if kind == ELSEWHERE else each.eligible
    count = min(int(have.sum()), int(among.sum()))
    random = np.where(among, _random(each, kind, numbers, seed), np.inf)
    drawn = np.zeros(random.shape, bool)
    np.put_along_axis(drawn, np.argsort(random, axis=1, kind="stable")[:, :count], True, axis=1)
    found: np.ndarray = drawn | (each.positive & ~each.eligible)
    return found


def _over(traces: Sequence[TraceSpans], numbers: Sequence[int], seed: int) -> dict[str, np.ndarray]:
    """Trace → [J, S] bool: as many of all traces' eligible spans as have the label."""
    random = np.concatenate(
        [np.where(each.eligible, _random(each, OVER, numbers, seed), np.inf) for each in traces], axis=1
    )
    count = sum(int((each.eligible & each.positive).sum()) for each in traces)
    drawn = np.zeros(random.shape, bool)
    np.put_along_axis(drawn, np.argsort(random, axis=1, kind="stable")[:, :count], True, axis=1)
    ends = np.cumsum([len(each.eligible) for each in traces])[:-1]
    parts = np.split(drawn, ends, axis=1)
    return {e.trace: part | (e.positive & ~e.eligible) for e, part in zip(traces, parts, strict=True)}


def _random(each: TraceSpans, kind: str, numbers: Sequence[int], seed: int, *, normal: bool = False) -> np.ndarray:
    """[J, S] float64 random numbers of a trace's draws."""
    if not numbers:
        return np.zeros((0, len(each.eligible)))
    rng = np.random.Generator(np.random.Philox(key_of(seed, "draws", kind, each.trace)))
    shape = (max(numbers) + 1, len(each.eligible))
    found: np.ndarray = (rng.standard_normal(shape) if normal else rng.random(shape))[list(numbers)]
    return found


def _folds(traces: Sequence[TraceSpans], folds: int, seed: int) -> dict[str, int]:
    """Trace → its fold."""
    if not folds:
        return {}
    has = {each.trace: bool((each.eligible & each.positive).any()) for each in traces}
    order = sorted(has, key=lambda trace: (not has[trace], key_of(seed, "fold", trace)))
    return {trace: number % folds for number, trace in enumerate(order)}
