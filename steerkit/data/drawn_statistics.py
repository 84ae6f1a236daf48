"""Sums of draws and folds (`steerkit.data.draws`): additive, and made into what a fitter is given.

Single windows, where a fitter reads them, are the same for every draw: they get its labels, or are those of some folds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from steerkit.data.windows import WEIGHTINGS, WindowStatistics, groups_of
from steerkit.errors import SteerkitError, nearest

if TYPE_CHECKING:
    from torch import Tensor

W = len(WEIGHTINGS)
GROUPS = 3
"""Groups of a pseudo-labelling that are its own: its label's spans, the rest, and all of the traces that have one."""


@dataclass(frozen=True)
class DrawnStatistics:
    """Sums of one window over the mean activations of its offsets.

    J pseudo-labellings, F folds, K weightings; L layers, width H. Rows of `sums`, in this order: of each
    pseudo-labelling [2 weightings, 3 groups], of each fold [2 weightings, 4 groups], of each weighting one.

    Attributes:
        names: of the pseudo-labellings.
        weighted: of the weightings.
        sums: [6 J + 8 F + K, L, H] float64.
        squares: the same of squared activations, or None.
        counts: [6 J + 8 F + K] float64: traces or spans of a group; the sum of a weighting's weights.
        tokens: [F, L, H] float64, norms [F, L], traces [F]: as of `WindowStatistics`, by fold.
    """

    window: tuple[int, int]
    label: str
    names: tuple[str, ...]
    weighted: tuple[str, ...]
    sums: Tensor
    counts: Tensor
    tokens: Tensor
    norms: Tensor
    traces: Tensor
    squares: Tensor | None = None

    @property
    def folds(self) -> int:
        """Number of folds."""
        return len(self.traces)

    def labelled(self, name: str, main: WindowStatistics) -> WindowStatistics:
        """What a fitter is given of a pseudo-labelling.

        Args:
            main: the window's own statistics: what no labelling changes is taken from them.

        Raises:
            SteerkitError: there is no such draw.
        """
        if name not in self.names:
            raise SteerkitError(f"the statistics have no draw {name!r}; {nearest(name, self.names)}")
        rows = slice(W * GROUPS * self.names.index(name), W * GROUPS * (self.names.index(name) + 1))
        everything = main.group("all")
        offsets = slice(*_offsets(main))

        def joined(own: Tensor, of_all: Tensor) -> Tensor:
            import torch

            inside = of_all[:, everything, :, offsets].mean(2)  # [2, L, H]
            return torch.cat([inside[:, None], own[rows].unflatten(0, (W, GROUPS))], 1)[:, :, :, None]

        import torch

        return replace(
            main,
            labels=(self.label,),
            sums=joined(self.sums, main.sums),
            squares=None if self.squares is None or main.squares is None else joined(self.squares, main.squares),
            counts=torch.cat([main.counts[:, [everything]], self.counts[rows].unflatten(0, (W, GROUPS))], 1),
            dropped={},
            raw=main.raw and replace(main.raw, draw=name),
        )

    def of_folds(self, numbers: Collection[int], main: WindowStatistics) -> WindowStatistics:
        """What a fitter is given of some folds, with the judge's labels."""
        first, chosen = W * GROUPS * len(self.names), sorted(numbers)
        groups = len(groups_of((self.label,)))

        def of(values: Tensor) -> Tensor:
            folds: Tensor = values[first : first + W * groups * self.folds].unflatten(0, (self.folds, W, groups))
            return folds[chosen].sum(0)

        return replace(
            main,
            labels=(self.label,),
            sums=of(self.sums)[:, :, :, None],
            squares=None if self.squares is None else of(self.squares)[:, :, :, None],
            counts=of(self.counts),
            dropped={},
            tokens=self.tokens[chosen].sum(0),
            norms=self.norms[chosen].sum(0),
            traces=int(self.traces[chosen].sum()),
            raw=main.raw and replace(main.raw, folds=tuple(chosen)),
        )

    def weighted_mean(self, name: str, main: WindowStatistics) -> Tensor:
        """[L, H] float64 Σ g (x - x̄) over the windows x, with the weights g of a draw."""
        if name not in self.weighted:
            raise SteerkitError(f"the statistics have no draw {name!r}; {nearest(name, self.weighted)}")
        row = len(self.sums) - len(self.weighted) + self.weighted.index(name)
        return self.sums[row] - self.counts[row] * main.mean("all", "span")

    def __add__(self, other: DrawnStatistics) -> DrawnStatistics:
        found = deepcopy(self)
        found += other
        return found

    def __iadd__(self, other: DrawnStatistics) -> Self:
        """Add in place. Raises: SteerkitError when they are of other draws."""
        same = ("window", "label", "names", "weighted")
        if any(getattr(self, name) != getattr(other, name) for name in same) or self.sums.shape != other.sums.shape:
            raise SteerkitError("sums of different draws can't be added")
        theirs, both = other.tensors(), self.squares is not None and other.squares is not None
        for name, value in self.tensors().items():
            if name != "squares" or both:
                value.add_(theirs[name])
        return self if both else replace(self, squares=None)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, for a file."""
        return {name: getattr(self, name) for name in _TENSORS if getattr(self, name) is not None}

    def head(self) -> dict[str, Any]:
        """JSON of the rest."""
        return {name: getattr(self, name) for name in ("window", "label", "names", "weighted")}

    @classmethod
    def of_file(cls, head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> DrawnStatistics:
        """What `head` and `tensors` gave. Raises: LookupError, TypeError, ValueError when it is something else."""
        found = cls(
            window=tuple(head["window"]),
            label=head["label"],
            names=tuple(head["names"]),
            weighted=tuple(head["weighted"]),
            **tensors,
        )
        _check_shapes(found)
        return found


_TENSORS = ("sums", "squares", "counts", "tokens", "norms", "traces")


def rows_of(names: int, folds: int, weighted: int) -> int:
    """Rows of the sums of so many draws."""
    return W * (GROUPS * names + (GROUPS + 1) * folds) + weighted


def _check_shapes(found: DrawnStatistics) -> None:
    """Raises: ValueError when the tensors aren't of these draws."""
    layers, width = found.sums.shape[1:]
    rows = rows_of(len(found.names), found.folds, len(found.weighted))
    wanted: Mapping[str, Any] = {
        "sums": (rows, layers, width),
        "squares": (rows, layers, width),
        "counts": (rows,),
        "tokens": (found.folds, layers, width),
        "norms": (found.folds, layers),
        "traces": (found.folds,),
    }
    for name in _TENSORS:
        value = getattr(found, name)
        if value is not None and tuple(value.shape) != wanted[name]:
            raise ValueError(f"{name} has the shape {tuple(value.shape)}, not {wanted[name]}")


def _offsets(main: WindowStatistics) -> tuple[int, int]:
    """The offsets of the window among those of the sums."""
    if main.once:
        return 0, 1
    first = main.window[0] - main.range[0]
    return first, first + main.window[1] - main.window[0] + 1
