"""Directions of paired activations: from the differences of the two sides of each pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from steerkit.data.pairs import pair_of
from steerkit.data.windows import WindowStatistics
from steerkit.errors import SteerkitError
from steerkit.interfaces import FitterConfig, VectorFitter

if TYPE_CHECKING:
    from torch import Tensor


class PairedConfig(FitterConfig):
    method: Literal["mean", "pca"] = "mean"
    """`mean`: the mean of the pairs' differences; `pca`: their first principal component, a unit vector."""
    center: bool = True
    """Whether `pca` takes the differences' mean off first, as repeng's `pca_diff` does: then the component is the
    direction in which differences differ. Without (steering-vectors' `pca_aggregator`, repeng's `pca_center`) it is the
    one along which they are long."""


class Paired(VectorFitter):
    """Mean or first principal component of d = MeanAct(label) − MeanAct(rest), pair by pair.

    A pair is a trace, or two that are its sides (`steerkit.data.pairs`); one without both a span with the label and
    another one has no difference and is left out. The principal component points to where most pairs' sides with the
    label lie further along it than their other sides; to where their mean difference does where as many do not.
    """

    Config = PairedConfig
    needs = frozenset({"means", "raw"})

    def fit(self, statistics: WindowStatistics) -> Mapping[int, Tensor]:
        assert statistics.raw is not None  # `needs` asks for them
        found = {}
        for index, layer in enumerate(statistics.layers):
            differences = self._differences(*statistics.raw.read(index))
            found[layer] = differences.mean(0) if self.config.method == "mean" else self._component(differences)
        return found

    def _differences(self, windows: Tensor, labels: list[str], traces: list[str]) -> Tensor:
        """[P, H] float64, a row a pair.

        Raises:
            SteerkitError: no pair has both sides.
        """
        import torch

        label = self.config.label
        sides: dict[str, tuple[list[int], list[int]]] = {}
        for number, (own, trace) in enumerate(zip(labels, traces, strict=True)):
            sides.setdefault(pair_of(trace), ([], []))[own != label].append(number)
        whole = [pair for pair in sides.values() if all(pair)]
        if not whole:
            raise SteerkitError(
                f"no pair has both a window with the label {label!r} and one without (of {len(sides)} pairs); use "
                "fitter dom for activations that are not paired"
            )
        wide = windows.double()
        return torch.stack([wide[positive].mean(0) - wide[rest].mean(0) for positive, rest in whole])

    def _component(self, differences: Tensor) -> Tensor:
        """[H] first right singular vector, of length 1, to the side of most differences."""
        import torch

        rows = differences - differences.mean(0) if self.config.center else differences
        component = torch.linalg.svd(rows, full_matrices=False).Vh[0]
        along = differences @ component
        ahead = along.sign().sum()
        return component if (ahead if ahead else along.sum()) >= 0 else -component
