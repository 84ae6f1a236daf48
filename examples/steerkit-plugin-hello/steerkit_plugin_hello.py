"""A steerkit plugin in one file: a fitter that takes medians where `dom` takes means.

Try it without packaging it, from a recipe in this folder:

    plugins: [./steerkit_plugin_hello.py]
    fitter: {name: median, label: backtracking, window: [-13, -8]}

For that, `@register` names it. Installed (`pip install .`), its entry point in pyproject.toml does.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from steerkit import FitterConfig, SteerkitError, VectorFitter, register

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit import WindowStatistics


class MedianConfig(FitterConfig):
    least: int = Field(default=5, ge=1)
    """Spans with the label that there must be."""


@register("fitters", "median")
class DifferenceOfMedians(VectorFitter):
    """v = median of the window means before the labelled spans − median of those before the other spans."""

    Config = MedianConfig
    needs = frozenset({"means", "raw"})  # sums can't give a median: the core streams the window means to disk

    def fit(self, statistics: "WindowStatistics") -> "Mapping[int, Tensor]":
        directions, raw = {}, statistics.raw
        assert raw is not None  # `needs` asks for it
        for index, layer in enumerate(statistics.layers):
            windows, labels, _ = raw.read(index)  # [spans, H], a label each
            chosen = [label == self.config.label for label in labels]
            if sum(chosen) < self.config.least:
                raise SteerkitError(f"median: {sum(chosen)} spans labelled {self.config.label!r}, fewer than `least`")
            rest = [not c for c in chosen]
            directions[layer] = (windows[chosen].median(0).values - windows[rest].median(0).values).double()
        return directions
