"""Diagonal LDA against numpy over the single activations."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import hidden_by_layer, whole_windows
from steerkit_plugins.extractors.offset_window import OffsetWindow
from steerkit_plugins.fitters.dom import DifferenceOfMeans
from steerkit_plugins.fitters.lda import DiagonalLDA
from tiny import LABELS

from steerkit.extraction.extract import extract

WINDOW = (-6, -2)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0])
def test_equals_numpy(llama, items, shrinkage) -> None:
    fitter = DiagonalLDA(label="backtracking", window=WINDOW, shrinkage=shrinkage)
    found = extract(llama, items, OffsetWindow(windows=(WINDOW,)), LABELS, needs=fitter.needs, batch_tokens=1)
    directions = fitter.fit(found.at(WINDOW))
    sets: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for item in items:
        hidden = hidden_by_layer(llama.model, item.ids)
        for span, positions in whole_windows(item, WINDOW):
            sets[span.label == "backtracking"].append(hidden[:, positions])
    plus, rest = (np.concatenate(sets[side], 1) for side in (True, False))  # [L, N, H] single activations
    within = np.concatenate([x - x.mean(1, keepdims=True) for x in (plus, rest)], 1)
    variance = (within**2).mean(1)
    shrunk = (1 - shrinkage) * variance + shrinkage * variance.mean(-1, keepdims=True)
    expected = (plus.mean(1) - rest.mean(1)) / shrunk
    for layer, direction in directions.items():
        np.testing.assert_allclose(direction.numpy(), expected[layer], rtol=1e-5, atol=1e-8)


def test_full_shrinkage_points_where_the_difference_of_means_does(llama, items) -> None:
    found = extract(llama, items, OffsetWindow(windows=(WINDOW,)), LABELS, needs={"squares"}).at(WINDOW)
    lda = DiagonalLDA(label="backtracking", window=WINDOW, shrinkage=1.0).fit(found)
    dom = DifferenceOfMeans(label="backtracking", window=WINDOW, reference="rest", weighting="span").fit(found)
    for layer, direction in lda.items():
        cosine = direction @ dom[layer] / (direction.norm() * dom[layer].norm())
        assert float(cosine) == pytest.approx(1.0)
