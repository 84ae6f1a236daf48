"""Additive activation statistics: float64 sums and counts that pieces and batches add up.

For each window with statistics of its own: sums by weighting, group, layer and offset. Groups, of spans:

- ``all``: every labelled span of the window's eligible ones;
- a label, e.g. ``backtracking``: spans with it;
- ``rest:LABEL``: spans without it;
- ``with:LABEL``: every span of the traces that have the label anywhere.

Weightings: ``span`` (a span counts 1) and ``trace`` (1/n of its trace and group, so that the sum over the
number of traces is Eq. 3's mean of means, arXiv 2507.12638).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    """Window means of single spans, streamed to safetensors shards: what sums can't give."""

    files: tuple[Path, ...]

    def read(self, layer_index: int) -> tuple[Tensor, list[str], list[str]]:
        """[S, H] float32 window means at one layer, each span's label, and each span's trace id.

        Raises:
            SteerkitError: no span was eligible, so there is none to read; or a file is damaged.
        """
        import torch
        from safetensors import SafetensorError, safe_open

        if not self.files:
            raise SteerkitError("no span has a whole window: there are no raw windows to read")
        parts, labels, traces = [], [], []
        for path in self.files:
            try:
                with safe_open(path, "pt") as file:
                    parts.append(file.get_slice("windows")[:, layer_index])
                    meta = file.metadata()
                labels += loads(meta["labels"])
                traces += loads(meta["traces"])
                if not len(labels) == len(traces) == sum(map(len, parts)):
                    raise ValueError("not a label and a trace for each window")
            except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
                raise SteerkitError(f"{path}: not a file of raw windows ({error}); delete it and run again") from error
        return torch.cat(parts), labels, traces


@dataclass(frozen=True)
class ActivationStatistics:
    """All windows' statistics of one model over a set of traces. ``a + b`` merges pieces of whole traces.

    Attributes:
        windows: range → its statistics.
        meta: provenance: model, weights fingerprint, traces fingerprint, extractor.
    """

    windows: dict[tuple[int, int], WindowStatistics]
    meta: dict[str, Any] = field(default_factory=dict)

    def at(self, window: tuple[int, int], pool: tuple[int, int] | None = None) -> WindowStatistics:
        """Statistics for a window over its own eligible spans, or over those of a wider range `pool`.

        Raises:
            SteerkitError: no such range was extracted, or it does not hold the window.
        """
        from dataclasses import replace

        wanted = pool or window
        inside = wanted == window or wanted[0] <= window[0] <= window[1] <= wanted[1]
        if wanted not in self.windows or not inside:
            have = ", ".join(f"{a}..{b}" for a, b in self.windows)
            raise SteerkitError(
                f"window {window[0]}..{window[1]} was not extracted; there is {have}. "
                "Name it in the recipe (extractor.windows, or inside extractor.sweep) and extract again"
            )
        return replace(self.windows[wanted], window=window)

    def __add__(self, other: ActivationStatistics) -> ActivationStatistics:
        from dataclasses import replace

        if set(self.windows) != set(other.windows):
            raise SteerkitError("statistics of different windows can't be added")
        merged = {}
        for key, a in self.windows.items():
            b = other.windows[key]
            if a.layers != b.layers or a.labels != b.labels or a.sums.shape != b.sums.shape:
                raise SteerkitError(f"statistics of window {key} differ in layers, labels or width: not addable")
            merged[key] = replace(
                a,
                sums=a.sums + b.sums,
                counts=a.counts + b.counts,
                squares=None if a.squares is None or b.squares is None else a.squares + b.squares,
                dropped={k: a.dropped.get(k, 0) + b.dropped.get(k, 0) for k in {**a.dropped, **b.dropped}},
                tokens=a.tokens + b.tokens,
                norms=a.norms + b.norms,
                traces=a.traces + b.traces,
                raw=None if a.raw is None or b.raw is None else RawWindows(a.raw.files + b.raw.files),
            )
        return ActivationStatistics(merged, self.meta)

    def save(self, path: Path) -> None:
        """One safetensors file, whole or not at all; raw windows stay in their own shards."""
        from steerkit.store.files import save_tensors

        tensors, heads = {}, []
        for index, (key, item) in enumerate(self.windows.items()):
            for name in ("sums", "counts", "squares", "tokens", "norms"):
                value = getattr(item, name)
                if value is not None:
                    tensors[f"{index}.{name}"] = value.contiguous()
            raw = [os.path.relpath(file, path.parent) for file in item.raw.files] if item.raw else None
            heads.append(
                {
                    "range": key,
                    "layers": item.layers,
                    "labels": item.labels,
                    "dropped": item.dropped,
                    "traces": item.traces,
                    "raw": raw,
                }
            )
        save_tensors(path, tensors, {"windows": json.dumps(heads), "meta": json.dumps(self.meta)})

    @classmethod
    def load(cls, path: Path) -> ActivationStatistics:
        """Read what `save` wrote.

        Raises:
            SteerkitError: the file is missing or not such a file.
        """
        from safetensors import SafetensorError, safe_open

        windows = {}
        try:
            with safe_open(path, "pt") as file:
                heads, meta = (loads(file.metadata()[name]) for name in ("windows", "meta"))
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
                for index, head in enumerate(heads):
                    _check_shapes(_named(shapes, index), head)
                tensors = {key: file.get_tensor(key) for key in shapes}
            for index, head in enumerate(heads):
                key = (head["range"][0], head["range"][1])
                windows[key] = WindowStatistics(
                    range=key,
                    window=key,
                    layers=tuple(head["layers"]),
                    labels=tuple(head["labels"]),
                    dropped=head["dropped"],
                    traces=head["traces"],
                    raw=None if head["raw"] is None else RawWindows(tuple(path.parent / name for name in head["raw"])),
                    **_named(tensors, index),
                )
        except (OSError, SafetensorError, LookupError, TypeError, AttributeError, ValueError) as error:
            raise SteerkitError(f"{path}: not a statistics file ({error}); delete it and run again") from error
        return cls(windows, meta)


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], head: Mapping[str, Any]) -> None:
    """Raises: ValueError when a window's tensors aren't of its layers, groups and offsets."""
    layers, groups, width = len(head["layers"]), len(groups_of(head["labels"])), shapes["tokens"][-1]
    offsets = shapes["sums"][3:4]
    if offsets not in ((1,), (head["range"][1] - head["range"][0] + 1,)):
        raise ValueError(f"sums of {offsets} offsets for the window {head['range']}")
    sums = (len(WEIGHTINGS), groups, layers, *offsets, width)
    wanted = {"sums": sums, "squares": sums, "counts": sums[:2], "tokens": (layers, width), "norms": (layers,)}
    for name, shape in shapes.items():
        if wanted.get(name) != shape:
            raise ValueError(f"{name} has the shape {shape}, not {wanted.get(name)}")


def _named(tensors: Mapping[str, Any], index: int) -> dict[str, Any]:
    prefix = f"{index}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
