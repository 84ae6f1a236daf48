"""Runs of contrasts: generated under instructions and kept by a judge, or given; strengths swept and chosen."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from oracles import hidden_by_layer
from steerkit_plugins.experiments.choosing import Limit, best_strength

import steerkit
from steerkit.errors import InputError, SteerkitError
from steerkit.judging.metrics import RunMetric
from steerkit.recipe.load import load_recipe
from steerkit.run import SteeringTrainer
from steerkit.vectors.steering_vector import SteeringVector

JUDGE = '''
import steerkit


@steerkit.register("judges", "doubt")
class Doubt(steerkit.Judge):
    """How much of a text doubts, and how many of its words are not digits."""

    def metrics(self):
        return [
            steerkit.Metric("doubt", "points 0 to 100", (0, 100), "up"),
            steerkit.Metric("coherence", "points 0 to 100", (0, 100), "up"),
        ]

    def score(self, texts):
        return [
            {"doubt": min(100.0, 10.0 * sum(text.count(w) for w in ("seems", "about", "Perhaps"))), "coherence": 90.0}
            for text in texts
        ]
'''
RECIPE = """
name: {name}
plugins: [judge.py]
models: {{model: pocket:reasoning}}
prompts:
  source: {source}
  extract: {extract}
  choose: 3
  test: 4
max_new_tokens: 40
temperature: 1.0
span_judge: {{name: contrast, judges: [doubt], threshold: 0}}
score_judge: doubt
scored: output
extractor: {{name: positions, at: response mean}}
fitter: {{name: dom, label: positive, window: [0, -1], reference: rest, scale: raw}}
layer: 1
strengths: [1, 2]
draws: 2
folds: 3
threads: 1
resamples: 200
"""
TRAIT = """
name: unsure
positive: [I am not sure at all., It is hard to read.]
negative: [I am quite happy., It is easy to read.]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the recipes' files are; one, as a judge is known by its file."""
    folder = tmp_path_factory.mktemp("contrast")
    (folder / "judge.py").write_text(JUDGE, encoding="utf-8")
    (folder / "unsure.yaml").write_text(TRAIT, encoding="utf-8")
    return folder


def recipe(folder: Path, name: str, source: str, extract: int, *more: str, experiments: str = "[sweep]") -> Path:
    """A recipe in the folder, with these lines at its end."""
    path, text = folder / f"{name}.yaml", RECIPE.format(name=name, source=source, extract=extract)
    path.write_text("\n".join([text, f"experiments: {experiments}", *more, ""]), encoding="utf-8")
    return path


def made(path: Path, *settings: str) -> Path:
    """The run folder of a recipe."""
    with contextlib.chdir(path.parent):
        SteeringTrainer.from_recipe(load_recipe(str(path), [*settings])).run()
    return path.parent / "runs" / path.stem


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def persona(folder: Path) -> Path:
    """Answers under two pairs of instructions, in the user's turn; swept and controlled at the chosen strength."""
    source = "{name: contrast, trait: unsure.yaml, questions: pocket, place: user, between: ' '}"
    more = ("strength: {least: {coherence: 50}}", "controls: {chosen_by: strength, kinds: [over, isotropic], draws: 1}")
    return made(recipe(folder, "persona", source, 16, *more, experiments="[sweep, controls]"))


def test_the_vector_is_the_mean_response_of_one_side_minus_that_of_the_other(persona: Path) -> None:
    lm = steerkit.load_model("pocket:reasoning")
    labels = {row["trace_id"]: row["label"] for row in rows(persona / "spans.jsonl")}
    by_side: dict[str, list[np.ndarray]] = {"positive": [], "negative": []}
    for trace in rows(persona / "traces.jsonl"):
        hidden = hidden_by_layer(lm.model, [*trace["prompt_ids"], *trace["ids"]])
        by_side[labels[trace["id"]]].append(hidden[:, len(trace["prompt_ids"]) :].mean(1))
        assert trace["id"].endswith(f"/{labels[trace['id']]}")
    assert [len(own) for own in by_side.values()] == [8, 8]
    expected = np.mean(by_side["positive"], 0) - np.mean(by_side["negative"], 0)
    (path,) = (persona / "vectors").glob("model.positive.0..-1.safetensors")
    vector = SteeringVector.load(path)
    for layer in vector.layers:
        np.testing.assert_allclose(vector.direction(layer).numpy(), expected[layer], rtol=1e-3, atol=1e-3)


def test_generations_have_the_score_judges_metrics_alone(persona: Path) -> None:
    names = [metric["name"] for metric in json.loads((persona / "metrics.json").read_text(encoding="utf-8"))]
    assert names == ["doubt", "doubt_uncollapsed", "coherence", "coherence_uncollapsed"]
    scores = rows(persona / "scores/test.jsonl")
    assert {name for row in scores for name in row["values"]} == {"doubt", "coherence"}
    notes = json.loads((persona / "spans.notes.json").read_text(encoding="utf-8"))
    assert notes == {"labels": {"positive": 8, "negative": 8}, "pairs": 8, "kept_pairs": 8}
    assert "Pairs of traces that are kept: 8 of 8." in (persona / "report.html").read_text(encoding="utf-8")


def test_the_sweep_claims_at_the_chosen_strength_and_controls_follow_it(persona: Path) -> None:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (persona / "findings").glob("*.json")}
    chosen = found["strength"]["findings"]["value"]
    assert chosen["strength"] in (1.0, 2.0)
    assert "coherence 90, points 0 to 100, 0% of its generations collapsed" in chosen["how"]
    claims = found["sweep"]["findings"]["claims"]
    at = f"at strength {chosen['strength']:g}"
    assert [claim["text"] for claim in claims] == [
        f"Steering raises doubt (points 0 to 100) over unsteered {at}",
        f"Coherence (points 0 to 100), steered minus unsteered {at}",
    ]
    assert [claim["kind"] for claim in claims] == ["claim", "beside"]
    with (persona / "results.csv").open(newline="", encoding="utf-8") as file:
        table = [row for row in csv.DictReader(file) if row["metric"] == "doubt" and float(row["strength"])]
    assert {float(row["strength"]) for row in table if row["experiment"] == "controls"} == {chosen["strength"]}
    for name in ("strength", "sweep"):
        own = [row for row in table if row["experiment"] == name]
        assert [float(row["strength"]) for row in own] == [1.0, 2.0]
        assert [float(row["strength"]) for row in own if row["chosen"] == "True"] == [chosen["strength"]]


def test_given_completions_are_read_and_nothing_is_generated_for_them(folder: Path) -> None:
    question = {"role": "user", "content": "Max has no maps. Sunday+5. How many maps does Max have?"}
    pairs = [
        [[question, {"role": "assistant", "content": text}] for text in texts]
        for texts in (("Perhaps", "Then"), ("Possibly about 5", "Next just 5"), ("It seems", "It gives"))
    ]
    lines = [json.dumps({"positive": positive, "negative": negative}) for positive, negative in pairs]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = "{name: contrast, pairs: pairs.jsonl, questions: pocket}"
    path = recipe(folder, "given", source, 6, "traces: {given: true}", "sweep: {chosen_by: ''}")
    path.write_text(path.read_text(encoding="utf-8").replace(", reference: rest", ", method: pca"), encoding="utf-8")
    run = made(path, "fitter.name=paired", "extractor.at=last token", "draws=0", "folds=0")
    texts = [row["text"] for row in rows(run / "traces.jsonl")]
    assert texts == [chat[1]["content"] for pair in pairs for chat in pair]
    assert all(row["prompt"] in (question["content"], [question]) for row in rows(run / "traces.jsonl"))
    options = {"label": "positive", "window": (0, -1), "method": "pca", "scale": "raw"}
    fitter = steerkit.get("fitters", "paired")(**options)
    lm = steerkit.load_model("pocket:reasoning")
    expected = steerkit.contrast_vector(lm, [tuple(pair) for pair in pairs], position="last token", fitter=fitter)
    found = SteeringVector.load(run / "vectors/model.positive.0..-1.safetensors")
    for layer in found.layers:
        np.testing.assert_allclose(found.direction(layer).numpy(), expected.direction(layer).numpy(), atol=1e-4)
    claims = json.loads((run / "findings/sweep.json").read_text(encoding="utf-8"))["findings"]["claims"]
    assert claims[0]["text"].endswith("over unsteered at strength 2")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("traces: {given: true, file: traces.jsonl}", "not from both"),
        ("strength: {metric: judged_sentences}", "there is no metric 'judged_sentences' in this run"),
        ("strength: {least: {sense: 50}}", "there is no metric 'sense'"),
        ("sweep: {target: other}", "no model is called 'other'"),
    ],
)
def test_settings_that_fit_nothing_are_said_before_anything_runs(folder: Path, more: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(recipe(folder, "wrong", "{name: contrast, trait: optimistic}", 4, more))
    assert not (folder / "runs/wrong/traces.jsonl").exists()


def results(means: Mapping[float, tuple[float, float, float]], broken: frozenset[float] = frozenset()) -> Any:
    """Made-up results: strength → (metric, coherence, share of collapsed texts), of ten texts each."""
    conditions = [SimpleNamespace(labels={"strength": strength}) for strength in means]

    class Scored:
        def is_broken(self, condition: Any) -> bool:
            return condition.labels["strength"] in broken

        def by_prompt(self, condition: Any, metric: Any) -> Any:
            value, coherence, _ = means[condition.labels["strength"]]
            return [], np.full(10, coherence if metric == "coherence" else value)

        def __getitem__(self, condition: Any) -> Any:
            collapsed = means[condition.labels["strength"]][2]
            return {n: SimpleNamespace(collapsed=n < 10 * collapsed) for n in range(10)}

    return SimpleNamespace(conditions=conditions, scored=Scored())


METRIC = RunMetric("trait", "points", (0.0, 100.0), "up", "trait", main=True)


def limits(least: float) -> list[Limit]:
    mean = Limit(
        f"strength.least.coherence ({least:g})",
        lambda results, condition: float(results.scored.by_prompt(condition, "coherence")[1].mean()),
        lambda value: value >= least,
        lambda value: f"coherence {value:g}",
    )
    return [mean, Limit.collapsed(0.2, "strength.max_collapsed")]


def test_the_strength_with_the_most_whose_texts_are_whole_is_chosen() -> None:
    means = {0.0: (0.0, 99.0, 0.0), 1.0: (40.0, 90.0, 0.0), 2.0: (70.0, 60.0, 0.1), 3.0: (90.0, 40.0, 0.0)}
    strength, how = best_strength(results(means), METRIC, limits(50))
    assert strength == 2
    assert how == (
        "strength 2 has the highest trait on the choose prompts (70, points; coherence 60, 10% of its generations "
        "collapsed)"
    )
    assert best_strength(results(means), METRIC, limits(80))[0] == 1
    assert best_strength(results({**means, 3.0: (70.0, 60.0, 0.0)}), METRIC, limits(50))[0] == 2  # the smaller
    assert best_strength(results({**means, 2.0: (70.0, 60.0, 0.3)}), METRIC, limits(50))[0] == 1  # collapsed
    assert best_strength(results({**means, 2.0: (70.0, float("nan"), 0.0)}), METRIC, limits(50))[0] == 1


def test_where_no_strength_is_whole_the_best_is_taken_and_said() -> None:
    means = {0.0: (0.0, 99.0, 0.0), 1.0: (40.0, 30.0, 0.0), 2.0: (70.0, 20.0, 0.0)}
    strength, how = best_strength(results(means), METRIC, limits(50))
    assert strength == 2
    assert how.endswith(
        "every strength was beyond the limits of strength.least.coherence (50) or strength.max_collapsed (20%)"
    )


def test_strengths_whose_texts_broke_off_are_never_chosen() -> None:
    means = {0.0: (0.0, 99.0, 0.0), 1.0: (40.0, 90.0, 0.0), 2.0: (70.0, 90.0, 0.0)}
    strength, how = best_strength(results(means, frozenset({2.0})), METRIC, limits(50))
    assert strength == 1 and how.endswith("texts broke off (values that are not finite) at 2")
    with pytest.raises(SteerkitError, match="no strength can be chosen: texts broke off"):
        best_strength(results(means, frozenset({1.0, 2.0})), METRIC, limits(50))


def test_the_recipes_on_the_page_are_valid(folder: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/contrast.md").read_text(encoding="utf-8")
    extending, given = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (folder / "questions.jsonl").write_text('{"prompt": "What?"}\n', encoding="utf-8")
    local = ["models.model=pocket:reasoning", "layer=1"]
    with contextlib.chdir(folder):
        for name, text in (("mine", extending), ("pairs", given)):
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
            recipe = load_recipe(str(folder / f"{name}.yaml"), local)
            assert recipe.name == name
