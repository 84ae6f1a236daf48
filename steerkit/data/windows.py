"""What a fitter is given: float64 sums and counts of one window, by weighting, group, layer and offset.

Groups, of spans:

- ``all``: every labelled span of the window's eligible ones;
- a label, e.g. ``backtracking``: spans with it;
- ``rest:LABEL``: spans without it;
- ``with:LABEL``: every span of the traces that have the label anywhere.

Weightings: ``span`` (a span counts 1) and ``trace`` (1/n of its trace and group, so that the sum over the
number of traces is Eq. 3's mean of means, arXiv 2507.12638).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steerkit.errors import SteerkitError, nearest
from steerkit.store.strict_json import loads

if TYPE_CHECKING:
    from torch import Tensor

Weighting = Literal["trace", "span"]
WEIGHTINGS: tuple[Weighting, ...] = ("trace", "span")


def groups_of(labels: Sequence[str]) -> list[str]:
    """Names of the groups, in the order of the sums' second axis."""
    return ["all", *labels, *(f"rest:{name}" for name in labels), *(f"with:{name}" for name in labels)]


@dataclass(frozen=True)
class WindowStatistics:
    """Sums over the spans eligible for one range of offsets; what a fitter is given.

    Attributes:
        range: the first and last offset of the sums; a span counts when all of them lie inside its sequence.
        window: the offsets that `mean` averages over, inside `range`.
        layers: 0-based decoder blocks, the order of the sums' layer axis.
        labels: labels with groups of their own.
        sums: [2 weightings, G groups, L layers, O offsets, H] float64. O is 1 when every position counts once.
        squares: the same of squared activations, or None.
        counts: [2, G] float64: traces with an eligible span of the group (trace), such spans (span).
        dropped: label → spans dropped because the range runs off their sequence.
        tokens: [L, H] float64 sums over traces of the mean activation of the trace's thinking tokens.
        norms: [L] float64 sums over traces of the mean L2 norm of these tokens' activations.
        traces: number of traces read that have tokens of their own.
        raw: reads every eligible span's window mean, or None when no fitter asked for it.
    """

    range: tuple[int, int]
    window: tuple[int, int]
    layers: tuple[int, ...]
    labels: tuple[str, ...]
    sums: Tensor
    counts: Tensor
    dropped: dict[str, int]
    tokens: Tensor
    norms: Tensor
    traces: int
    squares: Tensor | None = None
    raw: RawWindows | None = None

    @property
    def once(self) -> bool:
        """Whether overlapping windows count each position once (sums have no offset axis then)."""
        return self.sums.shape[3] == 1 and self.range[0] != self.range[1]

    def group(self, name: str) -> int:
        names = groups_of(self.labels)
        if name not in names:
            raise SteerkitError(f"the statistics have no group {name!r}; {nearest(name, names)}")
        return names.index(name)

    def count(self, group: str, weighting: Weighting = "trace") -> int:
        """Traces (or spans) that a group's mean is over."""
        return int(self.counts[WEIGHTINGS.index(weighting), self.group(group)])

    def mean(self, group: str, weighting: Weighting = "trace") -> Tensor:
        """[L, H] float64 mean activation of a group over `window`: MeanAct of Eq. 3.

        Raises:
            SteerkitError: no span of the group is eligible.
        """
        return self._moment(self.sums, group, weighting)

    def mean_square(self, group: str, weighting: Weighting = "trace") -> Tensor:
        """[L, H] float64 mean squared activation of a group over `window`."""
        if self.squares is None:
            raise SteerkitError("sums of squares were not collected: declare `needs = frozenset({'squares'})`")
        return self._moment(self.squares, group, weighting)

    def tokens_mean(self) -> Tensor:
        """[L, H] mean over traces of the mean activation of all their tokens ("every thinking token")."""
        return self.tokens / max(self.traces, 1)

    def residual_norm(self) -> Tensor:
        """[L] mean over traces of the mean L2 norm of a token's activation."""
        return self.norms / max(self.traces, 1)

    def _moment(self, sums: Tensor, group: str, weighting: Weighting) -> Tensor:
        w, g = WEIGHTINGS.index(weighting), self.group(group)
        count = float(self.counts[w, g])
        if count == 0:
            raise SteerkitError(
                f"no span of group {group!r} has a whole window {self.range[0]}..{self.range[1]} in any of "
                f"{self.traces} traces; use more traces, another window, or look at the judge's labels"
            )
        if self.once:
            return sums[w, g, :, 0] / count
        first = self.window[0] - self.range[0]
        return sums[w, g, :, first : first + self.window[1] - self.window[0] + 1].mean(1) / count


@dataclass(frozen=True)
class RawWindows:
    """Window means of single spans, streamed to safetensors shards: what sums can't give.

    Attributes:
        files: the shards.
        draw: whose pseudo-labels stand in for the judge's labels (`steerkit.data.draws`); empty: the judge's.
        folds: whose traces there are; None: all traces.
    """

    files: tuple[Path, ...]
    draw: str = ""
    folds: tuple[int, ...] | None = None

    def read(self, layer_index: int) -> tuple[Tensor, list[str], list[str]]:
        """[S, H] float32 window means at one layer, each span's label, and each span's trace id.

        The labels of a draw are two: the label that it is of, and ``rest:LABEL``.

        Raises:
            SteerkitError: no span was eligible, so there is none to read; or a file is damaged, or has no such draw.
        """
        import torch
        from safetensors import SafetensorError, safe_open

        if not self.files:
            raise SteerkitError("no span has a whole window: there are no raw windows to read")
        parts, labels, traces = [], [], []
        for path in self.files:
            try:
                with safe_open(path, "pt") as file:
                    means = file.get_slice("windows")[:, layer_index]
                    own, whose, chosen = self._labels(file), loads(file.metadata()["traces"]), self._chosen(file)
                if not len(own) == len(whose) == len(means):
                    raise ValueError("not a label and a trace for each window")
            except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
                raise SteerkitError(f"{path}: not a file of raw windows ({error}); delete it and run again") from error
            if chosen is not None:
                means, own, whose = means[chosen], [own[i] for i in chosen], [whose[i] for i in chosen]
            parts.append(means)
            labels += own
            traces += whose
        return torch.cat(parts), labels, traces

    def _labels(self, file: Any) -> list[str]:
        """Each span's label in a shard."""
        head = file.metadata()
        if not self.draw:
            return [*loads(head["labels"])]
        label, number = loads(head["label"]), loads(head["draws"]).index(self.draw)
        return [label if positive else f"rest:{label}" for positive in file.get_slice("drawn")[:, number].tolist()]

    def _chosen(self, file: Any) -> list[int] | None:
        """Which of a shard's spans are of the folds; None: all are."""
        if self.folds is None:
            return None
        return [i for i, fold in enumerate(file.get_tensor("folds").tolist()) if fold in self.folds]
