"""Additive activation statistics: what pieces and batches add up, window by window, and its file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from steerkit.data.drawn_statistics import DrawnStatistics
from steerkit.data.windows import WEIGHTINGS, RawWindows, WindowStatistics, groups_of
from steerkit.errors import SteerkitError
from steerkit.store.strict_json import loads

DRAWN = "drawn"
"""What the draws' tensors in a file are called."""


@dataclass(frozen=True)
class ActivationStatistics:
    """All windows' statistics of one model over a set of traces. ``a + b`` merges pieces of whole traces; ``a += b``
    does so in a's memory.

    Attributes:
        windows: range → its statistics.
        meta: provenance: model, weights fingerprint, traces fingerprint, extractor.
        drawn: sums of pseudo-labels and folds, where they were asked for.
    """

    windows: dict[tuple[int, int], WindowStatistics]
    meta: dict[str, Any] = field(default_factory=dict)
    drawn: DrawnStatistics | None = None

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
        found = deepcopy(self)
        found += other
        return found

    def __iadd__(self, other: ActivationStatistics) -> Self:
        """Add in place. Raises: SteerkitError when they are of other windows, layers, labels or draws."""
        from dataclasses import replace

        if set(self.windows) != set(other.windows):
            raise SteerkitError("statistics of different windows can't be added")
        for key, a in self.windows.items():
            b = other.windows[key]
            if a.layers != b.layers or a.labels != b.labels or a.sums.shape != b.sums.shape:
                raise SteerkitError(f"statistics of window {key} differ in layers, labels or width: not addable")
        drawn = self.drawn
        if drawn is not None and other.drawn is not None:
            drawn += other.drawn
        merged = {}
        for key, a in self.windows.items():
            b = other.windows[key]
            merged[key] = replace(
                a,
                sums=a.sums.add_(b.sums),
                counts=a.counts.add_(b.counts),
                squares=None if a.squares is None or b.squares is None else a.squares.add_(b.squares),
                dropped={k: a.dropped.get(k, 0) + b.dropped.get(k, 0) for k in {**a.dropped, **b.dropped}},
                tokens=a.tokens.add_(b.tokens),
                norms=a.norms.add_(b.norms),
                traces=a.traces + b.traces,
                raw=None if a.raw is None or b.raw is None else RawWindows(a.raw.files + b.raw.files),
            )
        return replace(self, windows=merged, drawn=None if other.drawn is None else drawn)

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
        head = {"windows": json.dumps(heads), "meta": json.dumps(self.meta)}
        if self.drawn is not None:
            tensors |= {f"{DRAWN}.{name}": value for name, value in self.drawn.tensors().items()}
            head[DRAWN] = json.dumps(self.drawn.head())
        save_tensors(path, tensors, head)

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
                draws = loads(file.metadata().get(DRAWN, "null"))
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
                for index, head in enumerate(heads):
                    _check_shapes(_named(shapes, str(index)), head)
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
                    **_named(tensors, str(index)),
                )
            drawn = None if draws is None else DrawnStatistics.of_file(draws, _named(tensors, DRAWN))
        except (OSError, SafetensorError, LookupError, TypeError, AttributeError, ValueError) as error:
            raise SteerkitError(f"{path}: not a statistics file ({error}); delete it and run again") from error
        return cls(windows, meta, drawn)


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


def _named(tensors: Mapping[str, Any], whose: str) -> dict[str, Any]:
    prefix = f"{whose}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
