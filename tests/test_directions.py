"""Facts of directions: reliability with a known answer, projections against HF, and the section of a run's page."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pocket import SIZES
from steerkit_plugins.extractors.offset_window import OffsetWindow
from steerkit_plugins.fitters.dom import DifferenceOfMeans
from tiny import LABELS, random_items, tiny

from steerkit import SteeringVector, load_recipe
from steerkit.data.drawn_statistics import DrawnStatistics
from steerkit.data.draws import draw
from steerkit.data.statistics import ActivationStatistics
from steerkit.data.trace import Item
from steerkit.data.windows import WindowStatistics
from steerkit.errors import SteerkitError
from steerkit.extraction.drawn_sums import spans_of
from steerkit.extraction.extract import extract
from steerkit.extraction.projecting import project_windows
from steerkit.report.directions import findings_of
from steerkit.run import SteeringTrainer
from steerkit.vectors.facts import cosine, left_out, reliability, split_half_cosines, top_share

WINDOW, LABEL = (-4, -1), LABELS[0]
DOM = DifferenceOfMeans(label=LABEL, window=WINDOW, weighting="span")


def rows_of(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def simulated(rng: np.random.Generator, shift: float, *, folds: int = 20, width: int = 400) -> ActivationStatistics:
    """Folds of 10 windows with the label, shifted along one axis, and 90 without; noise of variance 1 everywhere."""
    label = rng.standard_normal((folds, 10, width))
    label[:, :, 0] += shift
    rest = rng.standard_normal((folds, 90, width))
    sums = np.stack([label.sum(1) + rest.sum(1), label.sum(1), rest.sum(1), label.sum(1) + rest.sum(1)], 1)
    counts = np.tile([100.0, 10, 90, 100], (folds, 1))
    both = torch.from_numpy(np.stack([sums, sums], 1))  # each fold's windows are one trace: both weightings alike
    counted = torch.from_numpy(np.stack([counts, counts], 1))
    zeros = torch.zeros(folds, 1, width, dtype=torch.float64)
    drawn = DrawnStatistics(
        window=WINDOW,
        label=LABEL,
        names=(),
        weighted=(),
        sums=both.reshape(-1, 1, width),
        counts=counted.reshape(-1),
        tokens=zeros,
        norms=zeros[:, :, 0],
        traces=torch.ones(folds, dtype=torch.float64),
    )
    main = WindowStatistics(
        range=WINDOW,
        window=WINDOW,
        layers=(0,),
        labels=(LABEL,),
        sums=both.sum(0)[:, :, None, None].reshape(2, 4, 1, 1, width),
        counts=counted.sum(0),
        dropped={},
        tokens=zeros[0],
        norms=zeros[0, :, 0],
        traces=folds,
    )
    return ActivationStatistics({WINDOW: main}, {}, drawn)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_reliability_of_a_known_direction(shift: float) -> None:
    """Cosine of two independent estimates: shift² / (shift² + H (1/n + 1/m)), n and m windows on either side."""
    rng = np.random.default_rng(0)
    found, again = [], []
    for _ in range(30):
        statistics = simulated(rng, shift)
        found.append(np.median(reliability(split_half_cosines(DOM, statistics, splits=40))))
        one, other = (DOM.fit(simulated(rng, shift).at(WINDOW))[0] for _ in range(2))
        again.append(cosine(one, other))
    expected = shift**2 / (shift**2 + 400 * (1 / 200 + 1 / 1800))
    assert np.mean(found) == pytest.approx(expected, abs=0.02)
    assert np.mean(found) == pytest.approx(np.mean(again), abs=0.03)


def test_halves_without_the_label_are_left_out() -> None:
    statistics = simulated(np.random.default_rng(0), 1.0, folds=2)
    drawn = statistics.drawn
    assert drawn is not None
    drawn.counts.view(2, 2, 4)[1, :, 1] = 0
    assert split_half_cosines(DOM, statistics).shape == (0, 1)
    assert left_out(DOM, statistics) is None
    assert split_half_cosines(DOM, ActivationStatistics(statistics.windows)).shape == (0, 1)


def test_without_a_fold_means_of_all_others(many: list[Item]) -> None:
    extractor, lm = OffsetWindow(windows=(WINDOW,)), tiny("llama")
    draws = draw(spans_of(many, extractor, LABEL, WINDOW), (), label=LABEL, window=WINDOW, folds=3)
    found = left_out(DOM, extract(lm, many, extractor, LABELS, draws=draws))
    assert found is not None
    for fold, (direction, middle) in enumerate(found):
        others = [item for item in many if draws.of[item.trace.id].fold != fold]
        alone = extract(lm, others, extractor, LABELS).at(WINDOW)
        fitted = torch.stack(list(DOM.fit(alone).values()))
        expected = fitted / fitted.norm(dim=1, keepdim=True)
        torch.testing.assert_close(direction, expected.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(middle, (expected * alone.mean("all")).sum(1), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def many() -> list[Item]:
    return random_items(18, seed=5)


@pytest.mark.parametrize("window", [WINDOW, (0, -1)])
def test_projections_are_those_of_the_windows(many: list[Item], window: tuple[int, int]) -> None:
    """Against HF's hidden states, one trace at a time, the mean over each span's window."""
    extractor, lm = OffsetWindow(windows=(window,)), tiny("llama")
    directions = [torch.randn(2, lm.width, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    which = {item.trace.id: number % 2 for number, item in enumerate(many)}
    found = project_windows(lm, many, extractor, window, directions, which, (1, 3), batch_tokens=200)
    for item in many:
        with torch.inference_mode():
            states = lm.model.model(torch.tensor([item.ids]), output_hidden_states=True).hidden_states
            by_layer = [states[2][0], hidden_before_norm(lm, item)]
        places = extractor.positions(item.trace, item.spans, window)
        for row, (span, place) in enumerate(zip(item.spans, places, strict=True)):
            if place[0] < 0:
                assert np.isnan(found[item.trace.id][row]).all()
                continue
            last = span.last if window == (0, -1) else span.first + window[1]
            for index, hidden in enumerate(by_layer):
                mean = hidden[place[0] : last + 1].double().mean(0)
                expected = float(mean @ directions[which[item.trace.id]][index].double())
                assert found[item.trace.id][row, index] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def hidden_before_norm(lm: Any, item: Item) -> torch.Tensor:
    """[T, H] output of the last block: HF's last hidden state is behind the norm."""
    seen: list[torch.Tensor] = []
    handle = lm.blocks[3].register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        lm.model.model(torch.tensor([item.ids]))
    finally:
        handle.remove()
    value = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    return value[0] if value.ndim == 3 else value


def test_the_largest_coordinate() -> None:
    assert top_share(torch.tensor([3.0, 4.0])) == pytest.approx(16 / 25)
    assert top_share(torch.ones(8)) == pytest.approx(1 / 8)


def test_a_section_of_few_facts() -> None:
    """Without folds and draws only what the vector itself says is there."""
    rows = [{"source": "base", "label": "x", "layer": layer, "top_share": 0.5} for layer in range(2)]
    found = findings_of(rows, [], "95 %")
    assert [table.title for table in found.tables] == ["Each direction, block by block"]
    assert found.tables[0].rows[0] == ("base (x)", "0", "–", "50.0", "–", "–", "–", "–", "–")
    assert found.figures == ()
    assert findings_of([], [], "95 %").tables == ()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run with and without draws and folds."""
    recipe, found = load_recipe("backtracking", [*SIZES, "strengths=[30]", "experiments=[transfer]"]), {}
    for name, draws, folds in (("without", 0, 0), ("with", 3, 4)):
        folder = tmp_path_factory.mktemp(name) / "run"
        own = recipe.model_copy(update={"output_dir": str(folder), "draws": draws, "folds": folds})
        found[name] = SteeringTrainer.from_recipe(own).run()
    return found


def test_without_draws_no_artifact_changes(runs: dict[str, Path]) -> None:
    kept = ("recipe.yaml", "state.json", "log.jsonl", "report.html", "findings/directions.json")
    names = [p.relative_to(runs["without"]) for p in runs["without"].rglob("*") if p.is_file()]
    names = [name for name in names if str(name) not in kept and not str(name).startswith(("stats", "figures"))]
    names = [name for name in names if str(name) not in ("directions.csv", "directions.cosines.csv")]
    assert len(names) > 10
    for name in names:
        one, other = (runs[run] / name for run in ("without", "with"))
        if name.suffix == ".safetensors":  # their headers have the recipe's digest
            assert (SteeringVector.load(one).directions[1] == SteeringVector.load(other).directions[1]).all()
        else:
            assert one.read_bytes() == other.read_bytes(), name
    for model in ("base", "reasoning"):
        one, other = (ActivationStatistics.load(runs[run] / f"stats/{model}.safetensors") for run in runs)
        assert one.drawn is None and other.drawn is not None
        for window, values in one.windows.items():
            assert torch.equal(values.sums, other.windows[window].sums)
            assert torch.equal(values.tokens, other.windows[window].tokens)


def test_the_section_of_a_run(runs: dict[str, Path]) -> None:
    rows = rows_of(runs["with"] / "directions.csv")
    assert [(row["source"], row["layer"]) for row in rows] == [
        (s, str(n)) for s in ("base", "reasoning") for n in range(4)
    ]
    vector = SteeringVector.load(runs["with"] / "vectors/base.backtracking.-13..-8.safetensors")
    for row in rows:
        assert -1 <= float(row["cos_within_least"]) <= float(row["cos_within"]) <= float(row["cos_within_most"]) <= 1
        assert 0 <= float(row["auroc_low"]) <= float(row["auroc"]) <= float(row["auroc_high"]) <= 1
        assert int(row["n_traces"]) <= 48
    assert float(rows[1]["top_share"]) == pytest.approx(top_share(vector.direction(1)), rel=1e-5)
    other = SteeringVector.load(runs["with"] / "vectors/reasoning.backtracking.-13..-8.safetensors")
    pairs = rows_of(runs["with"] / "directions.cosines.csv")
    assert float(pairs[2]["cosine"]) == pytest.approx(cosine(vector.direction(2), other.direction(2)), rel=1e-5)
    assert {row["draws"] for row in pairs} == {"3"}
    page = (runs["with"] / "report.html").read_text()
    assert "Each direction, block by block" in page and "AUROC in the trace" in page
    assert json.loads((runs["with"] / "findings/directions.json").read_text())["findings"]["figures"]
    assert "Each direction, block by block" in (runs["without"] / "report.html").read_text()


def test_one_fold_is_refused() -> None:
    with pytest.raises(SteerkitError, match=r"folds: one fold can't be held against another"):
        SteeringTrainer.from_recipe(load_recipe("backtracking", ["folds=1", "output_dir=runs/none"]))
