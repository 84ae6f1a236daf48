"""From statistics to a SteeringVector, with where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.data.draws import IN_WORDS, ISOTROPIC, kind_of
from steerkit.data.statistics import ActivationStatistics
from steerkit.data.windows import WindowStatistics
from steerkit.errors import SteerkitError
from steerkit.interfaces import VectorFitter
from steerkit.stats.noise import key_of
from steerkit.vectors.info import VectorInfo
from steerkit.vectors.steering_vector import SteeringVector

if TYPE_CHECKING:
    from torch import Tensor


def fit(
    fitter: VectorFitter,
    statistics: ActivationStatistics,
    pool: tuple[int, int] | None = None,
    **info: Any,
) -> SteeringVector:
    """Fit a SteeringVector to statistics: one direction for each layer that was extracted.

    Args:
        fitter: how; its options name the label, the window and the scale.
        statistics: of one model over the traces.
        pool: fit over the spans eligible for this wider range, to compare windows on the same spans.
        info: further fields of VectorInfo; those about the model come with the statistics.

    Raises:
        SteerkitError: the window was not extracted, or a set of spans is empty.
    """
    window = statistics.at(tuple(fitter.config.window), pool)
    return _vector(fitter, window, fitter.fit(window), "", {**statistics.meta, **info})


def fit_drawn(fitter: VectorFitter, statistics: ActivationStatistics, draw: str, **info: Any) -> SteeringVector:
    """Fit a SteeringVector to a draw: to pseudo-labels as `fit` does to the judge's, or from random weights.

    Args:
        draw: its name (`steerkit.data.draws`).

    Raises:
        SteerkitError: the statistics have no such draw.
    """
    main, sums = statistics.at(tuple(fitter.config.window)), statistics.drawn
    kind, number = kind_of(draw)
    told = f"{IN_WORDS[kind]}, draw {number}"
    if kind == ISOTROPIC:
        directions = {layer: _isotropic(draw, layer, main.sums.shape[-1]) for layer in main.layers}
        return _vector(fitter, main, directions, told, {**statistics.meta, **info})
    if sums is None:
        raise SteerkitError(f"the statistics have no draws, so none is called {draw!r}; give extract() `draws`")
    if draw in sums.weighted:
        directions = dict(zip(main.layers, sums.weighted_mean(draw, main), strict=True))
        return _vector(fitter, main, directions, told, {**statistics.meta, **info})
    window = sums.labelled(draw, main)
    return _vector(fitter, window, fitter.fit(window), told, {**statistics.meta, **info})


def _isotropic(draw: str, layer: int, width: int) -> Tensor:
    """[H] standard normal: a function of the draw and the layer alone."""
    import torch

    return torch.from_numpy(np.random.Generator(np.random.Philox(key_of(draw, layer))).standard_normal(width))


def _vector(
    fitter: VectorFitter, window: WindowStatistics, directions: Mapping[int, Tensor], drawn: str, info: dict[str, Any]
) -> SteeringVector:
    """The vector of directions that were fitted to a window."""
    c = fitter.config
    if c.scale == "residual-norm" and not window.traces:
        raise SteerkitError("scale residual-norm is the length of the responses' activations, and no trace has one")
    means, residual = window.mean("all"), window.residual_norm()
    place = {layer: i for i, layer in enumerate(window.layers)}
    options = {k: v for k, v in c.model_dump().items() if k not in ("label", "window", "scale")}
    method = f"{fitter.name} {options}" if options else fitter.name
    described = VectorInfo(
        method=f"{method}; {drawn}" if drawn else method,
        label=c.label,
        window=tuple(c.window),
        scale=c.scale,
        positives={"traces": window.count(c.label), "spans": window.count(c.label, "span")},
        **info,
    )
    return SteeringVector(
        directions,
        described,
        means={layer: means[place[layer]] for layer in directions},
        norms={layer: (float(means[place[layer]].norm()), float(residual[place[layer]])) for layer in directions},
    )
