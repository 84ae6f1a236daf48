"""Units' numbers of whole traces on disk: safetensors files, written piece by piece and read trace by trace."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from steerkit.models.units import Unit

Scale = Literal["contribution", "raw"]
"""`contribution`: s · γ‖B‖, the length of what is added to the output, which does not depend on how the adapter is
split into A and B. `raw`: s = A x as it is."""

BLOCK = 2**24
"""Numbers of a block of rows: 64 MiB."""


@dataclass(frozen=True)
class Shard:
    """Some traces' numbers in memory: one file's contents.

    Attributes:
        norms: [U] float32, what s is multiplied by for the scale `contribution`.
        traces: ids.
        lengths: tokens of each.
        rows: [N, U] float32, the traces' tokens one after the other, raw.
    """

    units: tuple[Unit, ...]
    norms: np.ndarray
    traces: tuple[str, ...]
    lengths: tuple[int, ...]
    rows: np.ndarray

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all. float32: half precision ends at 65,504."""
        import torch

        from steerkit.store.files import save_tensors

        head = {"units": [unit.name for unit in self.units], "traces": self.traces, "lengths": self.lengths}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in self._arrays()}
        save_tensors(path, tensors, {"units": json.dumps(head)})

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        yield "rows", self.rows
        yield "norms", self.norms


class UnitStore:
    """The numbers of all traces of a model, in files that are read where they are needed.

    Attributes:
        files: in the order of storage.
        units: U of them, the columns.
        norms: [U] float32 γ‖B‖, what s is multiplied by for the scale `contribution`.
        traces: ids in the order of storage.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises: SteerkitError: a file is missing or damaged, files are of different units, or hold a trace twice."""
        if not files:
            raise SteerkitError("units: there is no file to read")
        self.files = tuple(files)
        heads = [_head(file) for file in self.files]
        self.units, self.norms = heads[0].units, heads[0].norms
        for file, head in zip(self.files, heads, strict=True):
            if head.units != self.units or not np.array_equal(head.norms, self.norms):
                raise SteerkitError(f"{file}: has other units than {self.files[0]}; files of one model belong together")
        self._places: dict[str, tuple[int, int, int]] = {}  # file, first row, row behind the last
        for number, head in enumerate(heads):
            ends = np.cumsum((0, *head.lengths)).tolist()
            for trace, first, end in zip(head.traces, ends, ends[1:], strict=False):
                if trace in self._places:
                    raise SteerkitError(f"{self.files[number]}: has trace {trace!r}, which another file has, too")
                self._places[trace] = number, first, end
        self.traces = tuple(self._places)

    @classmethod
    def at(cls, folder: Path) -> Self:
        """All files of a folder, by name."""
        return cls(sorted(folder.glob("*.safetensors")))

    def of(self, trace: str, scale: Scale = "contribution") -> np.ndarray:
        """[T, U] float32 of a trace's tokens, prompt and response. Raises: SteerkitError for a trace without."""
        if trace not in self._places:
            raise SteerkitError(f"units: no numbers are kept of trace {trace!r}")
        number, first, end = self._places[trace]
        return self._rows(number, first, end, scale)

    def blocks(self, scale: Scale = "contribution") -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """Ids of some whole traces and their rows [N, U] one after the other, until all have come."""
        most = max(BLOCK // max(len(self.units), 1), 1)
        traces: list[str] = []
        at = (0, 0, 0)  # file, first row, row behind the last
        for trace, (number, first, end) in self._places.items():
            if traces and (number != at[0] or end - at[1] > most):
                yield tuple(traces), self._rows(*at, scale)
                traces = []
            at = (number, at[1] if traces else first, end)
            traces.append(trace)
        if traces:
            yield tuple(traces), self._rows(*at, scale)

    def length(self, trace: str) -> int:
        """Tokens of a trace."""
        _, first, end = self._places[trace]
        return end - first

    def _rows(self, number: int, first: int, end: int, scale: Scale) -> np.ndarray:
        from safetensors import safe_open

        with safe_open(self.files[number], "np") as file:
            rows: np.ndarray = file.get_slice("rows")[first:end]
        return rows * self.norms if scale == "contribution" else rows


def _head(path: Path) -> Any:
    """A file's contents without its rows."""
    from safetensors import SafetensorError, safe_open

    from steerkit.models.units import unit_named
    from steerkit.store.strict_json import loads

    try:
        with safe_open(path, "np") as file:
            head = loads(file.metadata()["units"])
            units, lengths = tuple(map(unit_named, head["units"])), tuple(map(int, head["lengths"]))
            shape, norms = tuple(file.get_slice("rows").get_shape()), file.get_tensor("norms")
        if shape != (sum(lengths), len(units)) or len(norms) != len(units) or len(lengths) != len(head["traces"]):
            raise ValueError("its parts don't fit together")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise SteerkitError(f"{path}: is not a file of units' numbers ({error}); make it again") from error
    return Shard(units, norms, tuple(head["traces"]), lengths, np.zeros((0, len(units)), np.float32))
