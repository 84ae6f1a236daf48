"""SteeringVector: files without pickle, units and norms, and misuse in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from steerkit_plugins.extractors.offset_window import OffsetWindow
from steerkit_plugins.steerers.overall_mean import OverallMean
from tiny import LABELS

from steerkit.errors import SteerkitError
from steerkit.extraction.extract import extract
from steerkit.vectors.info import VectorInfo
from steerkit.vectors.steering_vector import SteeringVector

INFO = VectorInfo(
    method="dom",
    label="backtracking",
    window=(-13, -8),
    source="base",
    model="llama",
    depth=4,
    positives={"traces": 3, "spans": 7},
    provenance={"seed": 0, "plugins": {"fitters/dom": "steerkit-hf 0.1.0"}},
)


def example() -> SteeringVector:
    directions = {layer: torch.randn(16, generator=torch.Generator().manual_seed(layer)) for layer in (2, 0)}
    means = {layer: 2 * value + 1 for layer, value in directions.items()}
    return SteeringVector(directions, INFO, means=means, norms={0: (1.5, 2.5), 2: (3.5, 4.5)})


@pytest.mark.parametrize("way", ["save", "save_pretrained"])
def test_there_and_back(tmp_path: Path, way: str) -> None:
    vector = example()
    if way == "save":
        vector.save(tmp_path / "v.safetensors")
        found = [SteeringVector.load(tmp_path / "v.safetensors")]
    else:
        vector.save_pretrained(tmp_path / "v")
        found = [SteeringVector.load(tmp_path / "v"), SteeringVector.from_pretrained(str(tmp_path / "v"))]
    for other in found:
        assert (other.info, other.norms, other.layers) == (vector.info, vector.norms, (0, 2))
        for layer in vector.layers:
            assert torch.equal(other.directions[layer], vector.directions[layer])
            assert torch.equal(other.means[layer], vector.means[layer])


def test_units_and_norms() -> None:
    vector = example()
    for layer in vector.layers:
        assert float(vector.unit(layer).norm()) == pytest.approx(1)
        torch.testing.assert_close(vector.unit(layer) * vector.norm(layer, "raw"), vector.direction(layer))
        torch.testing.assert_close(vector.mean_unit(layer), vector.means[layer] / vector.means[layer].norm())
    assert [vector.norm(2, scale) for scale in ("unit", "mean-norm", "residual-norm")] == [1.0, 3.5, 4.5]


def test_cosines_of_shared_layers() -> None:
    one = example()
    other = SteeringVector({2: -3 * one.directions[2], 3: one.directions[0]}, INFO)
    assert one.cosine(other) == {2: pytest.approx(-1.0)}
    with pytest.raises(SteerkitError, match="the vectors share no layer"):
        one.cosine(SteeringVector({1: torch.ones(16)}, INFO))
    with pytest.raises(SteerkitError, match="vectors of width 16 and 8 can't be compared"):
        one.cosine(SteeringVector({0: torch.ones(8)}, INFO))


def test_overall_mean_adds_the_sources_mean(llama) -> None:
    vector = example()
    edit = vector.edit(llama, OverallMean(), 3.0, layer=2)
    torch.testing.assert_close(edit.direction, vector.mean_unit(2))
    assert edit.norm == 3.0


def test_a_vector_of_a_real_fit(llama, items) -> None:
    from steerkit_plugins.fitters.dom import DifferenceOfMeans

    from steerkit.vectors.fit import fit

    window = (-6, -2)
    statistics = extract(llama, items, OffsetWindow(windows=(window,)), LABELS)
    fitter = DifferenceOfMeans(label="backtracking", window=window, scale="residual-norm")
    fitter.name = "dom"
    vector = fit(fitter, statistics, model="llama", depth=4)
    at = statistics.at(window)
    for layer in range(4):
        torch.testing.assert_close(vector.directions[layer], fitter.fit(at)[layer].float())
        torch.testing.assert_close(vector.means[layer], at.mean("all")[layer].float())
        assert vector.norm(layer) == pytest.approx(float(at.residual_norm()[layer]))
        assert vector.norm(layer, "mean-norm") == pytest.approx(float(at.mean("all")[layer].norm()))
    assert vector.info.positives == {"traces": at.count("backtracking"), "spans": at.count("backtracking", "span")}
    assert (vector.info.label, vector.info.window) == ("backtracking", window)


def test_misuse_in_words() -> None:
    vector = example()
    for call, message in (
        (lambda: SteeringVector({}, INFO), "needs at least one layer's direction"),
        (
            lambda: SteeringVector({1: torch.tensor([1.0, float("nan")])}, INFO),
            "the direction is not finite at layer 1",
        ),
        (
            lambda: SteeringVector({1: torch.ones(4), 2: torch.ones(5)}, INFO),
            r"are of one width \[H\]; these have the shapes \[\(4,\), \(5,\)\]",
        ),
        (lambda: SteeringVector({1: torch.ones(2, 4)}, INFO), r"these have the shapes \[\(2, 4\)\]"),
        (lambda: vector.direction(1), "the vector has no layer 1; it has 0, 2"),
        (lambda: vector.only_layer(), "name a layer: this vector has 0, 2"),
        (lambda: SteeringVector({1: torch.zeros(4)}, INFO).unit(1), "the vector is zero at layer 1: its positive and"),
        (lambda: SteeringVector({1: torch.ones(4)}, INFO).mean_unit(1), "saved without its source's mean activation"),
        (lambda: SteeringVector({1: torch.ones(4)}, INFO).norm(1, "mean-norm"), "scale mean-norm needs the source's"),
    ):
        with pytest.raises(SteerkitError, match=message):
            call()


def test_files_that_are_no_vectors(tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match=r"none\.safetensors: no such vector file"):
        SteeringVector.load(tmp_path / "none.safetensors")
    with pytest.raises(SteerkitError, match="no such vector file"):
        SteeringVector.load(tmp_path)
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(SteerkitError, match=r"text\.safetensors: not a steerkit vector \("):
        SteeringVector.load(tmp_path / "text.safetensors")
    save_file({"direction.0": torch.ones(4)}, tmp_path / "other.safetensors")
    with pytest.raises(SteerkitError, match="a safetensors file, but no steerkit vector"):
        SteeringVector.load(tmp_path / "other.safetensors")
    head = {"format": "steerkit-vector-1", "info": '{"method": "m", "label": "l", "window": null}', "norms": "{}"}
    for name in ("direction.x", "extra.0"):
        save_file({name: torch.ones(4)}, tmp_path / "odd.safetensors", head)
        with pytest.raises(SteerkitError, match=r"odd\.safetensors: not a steerkit vector \("):
            SteeringVector.load(tmp_path / "odd.safetensors")


def test_a_vector_keeps_a_copy_of_what_it_was_given() -> None:
    value = torch.ones(4, dtype=torch.float64)
    vector = SteeringVector({0: value}, replace(INFO, depth=0))
    value.zero_()
    assert torch.equal(vector.direction(0), torch.ones(4))
