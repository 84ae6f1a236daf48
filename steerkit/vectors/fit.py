"""From statistics to a SteeringVector, with where it came from."""

from __future__ import annotations

from typing import Any

from steerkit.data.statistics import ActivationStatistics
from steerkit.interfaces import VectorFitter
from steerkit.vectors.info import VectorInfo
from steerkit.vectors.steering_vector import SteeringVector


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
    c = fitter.config
    window = statistics.at(tuple(c.window), pool)
    directions = fitter.fit(window)
    means, residual = window.mean("all"), window.residual_norm()
    place = {layer: i for i, layer in enumerate(window.layers)}
    options = {k: v for k, v in c.model_dump().items() if k not in ("label", "window", "scale")}
    described = VectorInfo(
        method=f"{fitter.name} {options}" if options else fitter.name,
        label=c.label,
        window=tuple(c.window),
        scale=c.scale,
        positives={"traces": window.count(c.label), "spans": window.count(c.label, "span")},
        **{**statistics.meta, **info},
    )
    return SteeringVector(
        directions,
        described,
        means={layer: means[place[layer]] for layer in directions},
        norms={layer: (float(means[place[layer]].norm()), float(residual[place[layer]])) for layer in directions},
    )
