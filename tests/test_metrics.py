"""Judges declare what their numbers are: tables, intervals, choices and claims follow; the rest is an error."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from console import Steerkit
from llm_server import KEY, sections_of, serving
from pocket import SIZES
from scipy import optimize, stats

from steerkit.artifacts import Condition
from steerkit.data.generated import Generation, Score
from steerkit.data.tokens import split_answer
from steerkit.data.trace import Prompt, Span, Trace, read_rows, write_rows
from steerkit.errors import InputError, SteerkitError
from steerkit.findings import Claim, Findings
from steerkit.interfaces import Judge, Metric
from steerkit.judging import ask as judging
from steerkit.judging.metrics import RunMetric, read_metrics
from steerkit.judging.scored import Scored
from steerkit.recipe.load import load_arguments, load_recipe, planned_run
from steerkit.run import SteeringTrainer
from steerkit.stats.intervals import mean_interval
from steerkit.steps.prompts import source_of
from steerkit.steps.results import Results
from steerkit.steps.scores import accuracies, metrics_of_run, per_token

TRAIT = '''
import steerkit

DOUBTS = ("wait", "hmm", "actually", "but", "perhaps", "possibly", "about")


@steerkit.register("judges", "trait")
class Trait(steerkit.Judge):
    """How much of a text doubts, 0 to 100, and how often it stops for breath."""

    def metrics(self):
        return [
            steerkit.Metric("doubt", "points 0 to 100", (0, 100), "up"),
            steerkit.Metric("commas", "commas a text", (0, None), "down", title="stalling"),
        ]

    def score(self, texts):
        rows = []
        for text in texts:
            words = [word.strip(",.").lower() for word in text.split()]
            doubts = sum(word in DOUBTS for word in words)
            rows.append({"doubt": 100 * doubts / len(words), "commas": text.count(",")} if words else {})
        return rows
'''
DOUBTS = ("wait", "hmm", "actually", "but", "perhaps", "possibly", "about")
TINY = (
    *SIZES,
    "prompts.extract=24",
    "prompts.choose=4",
    "prompts.test=4",
    "max_new_tokens=80",
    "strengths=[30, 45]",
    "experiments=[transfer, texts]",
    "extractor.sweep=null",
)

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe beside the local judge that it names."""
    folder = tmp_path_factory.mktemp("trait")
    (folder / "trait.py").write_text(TRAIT)
    (folder / "trait.yaml").write_text("extends: backtracking\nname: trait\nplugins: [./trait.py]\n")
    return folder / "trait.yaml"


@pytest.fixture(scope="module")
def done(plugin: Path) -> Path:
    """A run whose score judge gives 0 to 100."""
    return made(plugin, plugin.parent / "run", "score_judge=trait")


def made(recipe: Path, folder: Path, *more: str) -> Path:
    found = load_recipe(str(recipe), [*TINY, f"output_dir={folder}", *more])
    return SteeringTrainer.from_recipe(found, update=True).run()


@pytest.fixture
def again(done: Path, tmp_path: Path) -> Path:
    """The run's folder, copied: what another judge doesn't change is kept."""
    shutil.copytree(done, tmp_path / "again", ignore=shutil.ignore_patterns(".lock"))
    return tmp_path / "again"


def table(path: Path, **wanted: str) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def generations(folder: Path) -> Rows:
    """All texts of a run."""
    files = sorted((folder / "generations").glob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def claims(folder: Path) -> list[Claim]:
    """What the experiments of a run say."""
    files = sorted((folder / "findings").glob("*.json"))
    found = [Findings.from_json(json.loads(path.read_text(encoding="utf-8"))["findings"]) for path in files]
    return [claim for each in found for claim in each.claims]


def reasonings(folder: Path, **wanted: Any) -> dict[str, str]:
    """Prompt → reasoning of the generations that are as wanted."""
    rows = [row for row in generations(folder) if all(row[key] == value for key, value in wanted.items())]
    return {row["prompt_id"]: split_answer(row["text"], "</think>")[0] for row in rows}


def hall(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Bounds of the mean where Hall's cubic is a quantile of Student's t, by root finding."""
    n, skew = len(values), stats.skew(values) / math.sqrt(len(values))
    error = values.std(ddof=1) / math.sqrt(n)

    def bound(tail: float) -> float:
        def missed(mean: float) -> float:
            t = (values.mean() - mean) / error
            return float(t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6 - stats.t.ppf(tail, n - 1))

        far = 1e4 * error
        return float(optimize.brentq(missed, values.mean() - far, values.mean() + far))

    return bound((1 + level) / 2), bound((1 - level) / 2)


def results(values: Sequence[float], metric: RunMetric) -> Results:
    """One condition's texts with these values, a prompt each."""
    condition = Condition(model="reasoning")
    figures = {"collapsed": False, "words": 2, "repeat": 1, "distinct": 1.0}
    scores = [
        Score(
            split="test",
            condition=condition.id,
            prompt_id=f"p{n:02}",
            sample=0,
            values={metric.name: value},
            **figures,  # type: ignore[arg-type]
        )
        for n, value in enumerate(values)
    ]
    return Results(
        name="transfer",
        split="test",
        conditions=[condition],
        pairs=[],
        scored=Scored(scores, [metric]),
        generations=[],
        norms={condition.id: 0.0},
        scale="unit",
        confidence=0.95,
    )


def test_a_mean_of_59_has_its_whole_interval() -> None:
    values = np.array([40.0, 75, 62, 55, 70, 48, 66, 58, 61, 56])
    assert values.mean() == pytest.approx(59.1)
    for bounds, expected in (((0, 100), hall(values)), ((None, None), hall(values)), ((0, 60), (hall(values)[0], 60))):
        metric = RunMetric("trait", "points", bounds, judge="trait")
        (row,) = results(list(values), metric).rows
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(expected)
        assert row["ci_high"] > row["mean"] + 0.5 and row["judge"] == "trait"


def test_a_run_by_a_judge_of_0_to_100(done: Path) -> None:
    """Means and intervals of results.csv and comparisons.csv, recomputed from the texts."""
    unsteered = {"split": "test", "target": "reasoning", "method": "none"}
    steered = {"split": "test", "target": "reasoning", "source": "base", "method": "dom", "strength": 45.0}

    def doubt(**wanted: Any) -> np.ndarray:
        texts = reasonings(done, **wanted)
        words = [[w.strip(",.").lower() for w in texts[prompt].split()] for prompt in sorted(texts)]
        return np.array([100 * np.mean([w in DOUBTS for w in own]) for own in words])

    strength = {"strength": "45", "method": "dom", "source": "base", "target": "reasoning"}
    (row,) = table(done / "results.csv", experiment="transfer", split="test", metric="doubt", **strength)
    found, values = [float(row[name]) for name in ("mean", "ci_low", "ci_high")], doubt(**steered)
    low, high = hall(values)
    assert found == pytest.approx([values.mean(), max(low, 0), min(high, 100)], rel=1e-5)
    assert found[2] > found[0] > 1 and row["judge"] == "trait"
    expected = mean_interval(values, confidence=0.95, bounds=(0.0, 100.0))
    assert found[1:] == pytest.approx([expected.low, expected.high], rel=1e-5)
    (row,) = table(done / "comparisons.csv", experiment="transfer", metric="doubt", vs_method="none", **strength)
    change = doubt(**steered) - doubt(**unsteered)
    low, high = hall(change)
    found = [float(row[name]) for name in ("delta", "ci_low", "ci_high")]
    assert found == pytest.approx([change.mean(), max(low, -100), min(high, 100)], rel=1e-5)
    assert abs(found[2]) > 1
    (row,) = table(done / "results.csv", experiment="transfer", split="test", metric="commas", **strength)
    commas = [text.count(",") for text in reasonings(done, **steered).values()]
    assert float(row["mean"]) == pytest.approx(np.mean(commas))
    assert [m.name for m in read_metrics(done)] == [
        "doubt",
        "doubt_uncollapsed",
        "commas",
        "commas_uncollapsed",
        "judged_sentences",
        "judged_uncollapsed",
        "other_sentences",
        "accuracy",
    ]


def test_its_report_is_in_its_units(done: Path) -> None:
    found = {claim.text: claim for claim in claims(done)}
    claim = found["The base-derived vector raises doubt (points 0 to 100) over unsteered"]
    (row,) = table(
        done / "comparisons.csv",
        experiment="transfer",
        metric="doubt",
        vs_method="none",
        source="base",
        target="reasoning",
        vs_target="reasoning",
        chosen="True",
    )
    assert abs(float(claim.difference.replace("−", "-")) - float(row["delta"])) < 0.06
    beside = found["Stalling (commas a text, lower is better), steered minus unsteered"]
    assert beside.kind == "beside"
    assert not any(" b " in f" {text} " for text in found)
    html = (done / "report.html").read_text(encoding="utf-8")
    assert "% of words" not in html and "keyword" not in html.partition("recipe.yaml")[0].partition("<body>")[2]
    assert "doubt, points 0 to 100" in html and "stalling, commas a text" in html
    assert "doubt (points 0 to 100, judged by trait; higher is better)" in html
    (row,) = table(
        done / "results.csv", experiment="transfer", split="test", metric="doubt", target="base", method="none"
    )
    assert f'<td class="n">{float(row["mean"]):.{1 if float(row["mean"]) >= 9.995 else 2}f} [' in html
    svg = (done / "figures/transfer.svg").read_text(encoding="utf-8")
    assert "<!-- points 0 to 100 -->" in svg and "<!-- stalling (lower is better) -->" in svg


def test_a_strength_is_chosen_by_any_metric(again: Path, plugin: Path) -> None:
    """`commas` is better down; the means on the choose prompts are recomputed from the texts."""
    means = {
        strength: np.mean([t.count(",") for t in reasonings(again, split="choose", strength=strength).values()])
        for strength in (30.0, 45.0)
    }
    assert means[30.0] != means[45.0]
    made(plugin, again, "score_judge=trait", "choose.metric=commas", "choose.max_other=1", "choose.max_collapsed=1")
    choice = json.loads((again / "findings/choose.json").read_text())["findings"]["value"]
    assert choice["strength"] == min(means, key=lambda strength: means[strength])
    assert "has the lowest commas on the choose prompts" in choice["how"] and "commas a text;" in choice["how"]


def test_rules_as_score_judge(again: Path, plugin: Path) -> None:
    """Rules of its own, on the same texts: shares of its labels, counted by hand."""
    made(plugin, again, "score_judge={name: rules, patterns: {waiting: ['^(Wait|Hmm)'], backtracking: ['again']}}")
    rows = table(again / "results.csv", experiment="transfer", split="test", metric="waiting")
    assert rows and all(math.isfinite(float(row["mean"])) and row["judge"] == "rules" for row in rows)
    texts = reasonings(again, split="test", target="reasoning", source="base", method="dom", strength=45.0)
    sentences = [text.replace(". ", ".\n").splitlines() for text in texts.values()]
    share = np.mean([np.mean([s.strip().startswith(("Wait", "Hmm")) for s in own]) for own in sentences])
    (row,) = (row for row in rows if (row["source"], row["target"], row["strength"]) == ("base", "reasoning", "45"))
    assert float(row["mean"]) == pytest.approx(share, rel=1e-5)
    found = {metric.name: metric for metric in read_metrics(again)}
    assert list(found)[:2] == ["backtracking", "backtracking_uncollapsed"] and found["backtracking"].main
    assert found["backtracking"].better == "up" and not found["waiting"].shown
    assert "raises spans labelled backtracking by rules over" in " ".join(claim.text for claim in claims(again))


def test_one_judge_for_both_is_asked_once(again: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A language model behind a real server, as span judge and as score judge: one answer a text, one name a number."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def share() -> float:
        texts = reasonings(again, split="test", target="reasoning", source="base", method="dom", strength=45.0)
        labels = [[label for label, _ in sections_of(text)] for text in texts.values()]
        return float(np.mean([own.count("backtracking") / len(own) for own in labels]))

    def mean(metric: str) -> float:
        rows = table(again / "results.csv", split="test", metric=metric)
        assert rows and all(math.isfinite(float(row["mean"])) and row["judge"] == "llm" for row in rows)
        found = [r for r in rows if (r["source"], r["target"], r["strength"]) == ("base", "reasoning", "45")]
        return float(found[0]["mean"])

    with serving() as (url, state):
        judge = f"{{name: llm, base_url: {url}, min_coverage: 0}}"
        made(plugin, again, f"score_judge={judge}")
        assert mean("backtracking") == pytest.approx(share(), rel=1e-5)
        made(plugin, again, f"score_judge={judge}", f"span_judge={judge}")
        assert mean("judged_sentences") == pytest.approx(share(), rel=1e-5)
        assert set(state.paid.values()) == {1}
    names = [metric.name for metric in read_metrics(again)]
    assert "deduction" in names and not {"backtracking", "other"} & set(names)
    logged = [json.loads(line) for line in (again / "log.jsonl").read_text().splitlines()]
    asked = [line for line in logged if line.get("scored_by") == "llm"]
    assert len(asked) == 4  # choose and test, by the score judge alone and then by one judge for both


def test_people_as_score_judge(again: Path, plugin: Path, tmp_path: Path) -> None:
    texts = list(dict.fromkeys(split_answer(row["text"], "</think>")[0] for row in generations(again)))
    traces = [Trace(id=f"g{n}", prompt_id="p", prompt="?", text=text) for n, text in enumerate(texts)]
    write_rows(tmp_path / "texts.jsonl", traces)
    spans = [
        Span(trace_id=t.id, label=label, judge="human:ada", start=a, end=b, first=-1, last=-1)
        for t in traces
        for a, b, label in ((0, 10, "backtracking" if "Wait" in t.text else "other"), (10, 20, "deduction"))
    ]
    write_rows(tmp_path / "labels.jsonl", spans)
    made(plugin, again, f"score_judge={{name: human, labels: {tmp_path}/labels.jsonl, traces: {tmp_path}/texts.jsonl}}")
    texts = list(
        reasonings(again, split="test", target="reasoning", source="base", method="dom", strength=45.0).values()
    )
    (row,) = table(
        again / "results.csv",
        experiment="transfer",
        split="test",
        metric="backtracking",
        source="base",
        target="reasoning",
        strength="45",
    )
    assert float(row["mean"]) == pytest.approx(np.mean([0.5 * ("Wait" in text) for text in texts]))


def test_the_keyword_judge_counts_sentences_too(again: Path, plugin: Path) -> None:
    """As span judge its sentences are judged, though its `score` gives something else."""
    made(plugin, again, "span_judge={name: keyword}", "score_judge={name: keyword}")
    rows = table(again / "results.csv", split="test", metric="judged_sentences")
    assert rows and all(math.isfinite(float(row["mean"])) and row["judge"] == "keyword" for row in rows)
    assert max(float(row["mean"]) for row in rows) > 0
    for name in ("keyword", "keyword_uncollapsed", "other_sentences"):
        assert all(row["mean"] for row in table(again / "results.csv", split="test", metric=name))


class Given(Judge):
    """Answers what it is given."""

    def __init__(self, metrics: Sequence[Metric], rows: list[Any]) -> None:
        super().__init__()
        self._metrics, self._rows = metrics, rows

    def metrics(self) -> Sequence[Metric]:
        return self._metrics

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return self._rows


POINTS = Metric("points", "points 0 to 100", (0, 100))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"points": 5, "pionts": 1}, {"points": 1}],
            r"metric 'pionts': `score` returns it, `metrics` doesn't declare "
            r"it \(did you mean 'points'\?\): 1 for text 1 of 2, 'One\.'",
        ),
        (
            [{"points": 5}, {"points": 100.1}],
            r"metric 'points': its value is outside the bounds that it declares, "
            r"\[0, 100\]: 100\.1 for text 2 of 2, 'Two\.'",
        ),
        ([{"points": -1}, {"points": -2}], r"metric 'points': .*: -1 for text 1 of 2, 'One\.', and for 1 more"),
        ([{"points": math.inf}, {"points": 1}], r"metric 'points': its value must be finite"),
        ([{"points": "5"}, {"points": True}], r"metric 'points': its value must be a number: '5' .*, and for 1 more"),
        ([{}, {}], r"metric 'points': `metrics` declares it, `score` returns it for none of 2 texts"),
        ([{"points": 1}], r"score: returns 1 items for 2 texts"),
        ([0.5, 0.5], r"score: each text needs a mapping from metric to value: 0\.5 for text 1"),
    ],
)
def test_what_is_not_declared_is_an_error(rows: list[Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"judge 'Given': [0-9] problems?\n  {said}"):
        judging.score(Given([POINTS], rows), ["One.", "Two."])


def test_what_may_be_missing() -> None:
    """Values of an empty text, NaN for a text that has none; numbers of any kind; what rounding adds to a bound."""
    rows = [{}, {"points": math.nan}, {"points": np.float32(5)}, {"points": 100 + 1e-9}]
    found = judging.score(Given([POINTS], rows), ["", "One.", "Two.", "Three."])
    assert found == [{}, {}, {"points": 5.0}, {"points": 100 + 1e-9}]
    assert judging.score(Given([POINTS], [{"points": math.nan}]), ["One."]) == [{}]
    assert judging.score(Given([POINTS], [{}]), [" "]) == [{}]
    assert judging.score(Given([POINTS], []), []) == []


def test_all_faults_are_told_at_once() -> None:
    rows = [{"points": 500, "x": 1}, {"points": "much", "y": 2}]
    with pytest.raises(InputError) as error:
        judging.score(Given([POINTS], rows), ["One.", "Two."])
    assert len(error.value.problems) == 4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": " "}, "needs a name, and a unit in words"),
        ({"unit": ""}, "needs a name, and a unit in words"),
        ({"bounds": (1, 0)}, r"bounds are \(lowest, highest\)"),
        ({"bounds": (math.nan, 1)}, r"bounds are \(lowest, highest\)"),
        ({"bounds": (0, math.inf)}, "None for no limit, not "),
        ({"better": "higher"}, "better is up, down or neither, not 'higher'"),
    ],
)
def test_a_metric_that_is_none(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SteerkitError, match=said):
        Metric(**{"name": "points", "unit": "points", **wrong})


def test_a_judge_without_metrics_or_with_one_twice() -> None:
    with pytest.raises(SteerkitError, match="what `metrics` returns is empty"):
        judging.metrics_of(Given([], []))
    with pytest.raises(SteerkitError, match="what `metrics` returns has 'points' more than once"):
        judging.metrics_of(Given([POINTS, POINTS], []))


def test_labels_that_are_not_declared_are_an_error() -> None:
    class Odd(Judge):
        def labels(self) -> Sequence[str]:
            return ("doubt",)

        def annotate(self, texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
            return [[(0, 1, "doubt"), (1, 2, "other"), (2, 3, "doubts")] for _ in texts]

    with pytest.raises(InputError, match=r"answers with 'doubts', .* did you mean 'doubt'\?"):
        judging.annotate(Odd(), ["One."])
    assert [m.name for m in Odd().metrics()] == ["doubt", "other"]
    with pytest.raises(SteerkitError, match="gives numbers and labels no spans"):
        Given([POINTS], []).annotate(["One."])


def test_a_judge_that_breaks_its_word_ends_the_run_in_words(again: Path, tmp_path: Path, steerkit: Steerkit) -> None:
    """The texts stay; the mended judge goes on with them."""
    (tmp_path / "again.py").write_text(TRAIT.replace('"trait"', '"broken"').replace("100 * doubts", "1000 + doubts"))
    (tmp_path / "again.yaml").write_text(
        "extends: backtracking\nname: trait\nplugins: [./again.py]\nscore_judge: broken\n"
    )
    words = [word for setting in TINY for word in ("--set", setting)]
    found = steerkit("recipe", "run", tmp_path / "again.yaml", "--out", again, "--update", *words)
    assert found.returncode == 2
    assert "judge 'broken': 1 problem" in found.stderr
    assert "metric 'doubt': its value is outside the bounds that it declares, [0, 100]: " in found.stderr


def refused(text: str, folder: Path, *overrides: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(f"extends: backtracking\n{text}", encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_recipe(str(path), overrides)
    return str(error.value).replace(str(path), "mine.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "choose:\n  metric: keywords\n",
            "mine.yaml:3:3: there is no metric 'keywords' in this run; did you mean 'keyword'?",
        ),
        (
            "choose: {metric: other_sentences}\n",
            "mine.yaml:2:10: 'other_sentences' (share of sentences) is better "
            "neither up nor down, so nothing can be chosen by it; choose from keyword, keyword_uncollapsed, ",
        ),
        (
            "prompts: {source: {name: jsonl, path: p.jsonl}}\nchoose: {metric: accuracy}\n",
            "mine.yaml:3:10: there is no metric 'accuracy' in this run",
        ),
        (
            "per: tokens\nscore_judge: {name: rules, patterns: {backtracking: [Wait]}}\n",
            "mine.yaml:2:1: the score "
            "judge 'rules' has no rate per word ('share of words') to take per token (share of spans); leave it out",
        ),
        (
            "fitter: {label: backtraking}\n",
            "mine.yaml:2:10: the span judge 'rules' has no label 'backtraking' "
            "(fitter.label) to count sentences by; did you mean 'backtracking'?",
        ),
        (
            "agreement: {judge: {name: keyword, label: kw}}\nexperiments: [agreement]\n",
            "mine.yaml:2:13: the judge 'keyword' has no label 'backtracking'",
        ),
        (
            "score_judge: {name: rules, patterns: {accuracy: [x]}}\n",
            "mine.yaml:2:1: the score judge 'rules' has metrics with names of the run's own: accuracy; rename them",
        ),
    ],
)
def test_settings_that_no_metric_fits_are_refused_with_their_place(text: str, said: str, tmp_path: Path) -> None:
    assert said in refused(text, tmp_path)


def test_metrics_of_a_local_judge_can_be_chosen_by(plugin: Path, tmp_path: Path) -> None:
    name = str(plugin)
    found = load_recipe(name, ["score_judge=trait", "choose.metric=commas"])
    assert found.shared["choose"] == {"metric": "commas"}
    with pytest.raises(InputError, match=r"--set choose.metric=comas: there is no metric 'comas' .* 'commas'\?"):
        load_recipe(name, ["score_judge=trait", "choose.metric=comas"])
    with pytest.raises(InputError, match=r"arguments: 1 problem\n  choose.metric: there is no metric 'doubts'"):
        args = load_arguments(name, score_judge="trait", choose={"metric": "doubts"}, output_dir=str(tmp_path))
        SteeringTrainer({"base": "pocket:base", "reasoning": "pocket:reasoning"}, args=args, prompts=["a", "b", "c"])


def test_rates_per_word_alone_are_taken_per_token(done: Path, plugin: Path) -> None:
    """A judge with a rate per word and points: the rate changes, the points don't."""
    recipe = load_recipe(str(plugin), [*TINY, f"output_dir={done}", "score_judge=keyword", "per=tokens"])
    trainer = SteeringTrainer.from_recipe(recipe)
    run = trainer.context
    assert [m.unit for m in metrics_of_run(run) if m.judge == "keyword"] == ["share of tokens"] * 2
    judge = Given([Metric("rate", "share of words", (0, 1), "up"), POINTS], [])
    text = "Wait, let me check this line again."
    tokens = len(run.models.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert tokens > 7
    (found,) = per_token(run, judge, [text], [{"rate": 1 / 7, "points": 50.0}])
    assert found == pytest.approx({"rate": 1 / tokens, "points": 50.0})


def test_one_judge_for_both_is_paid_once_in_the_plan() -> None:
    from steerkit.planning.plan import _judging

    def planned(*more: str) -> list[str]:
        return _judging(*planned_run(load_recipe("backtracking", ["span_judge={name: llm}", *more])), 3, 5)

    (both,) = planned("score_judge={name: llm}")
    assert [both] == planned("score_judge={name: keyword}")
    assert len(planned("score_judge={name: llm}", "scored=output")) == 2  # other texts


def test_right_answers_are_from_0_to_1(done: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(str(plugin), [*TINY, f"output_dir={done}"])
    trainer = SteeringTrainer.from_recipe(recipe)
    prompts = read_rows(done / "prompts.jsonl", Prompt)
    row = Generation.from_json({**generations(done)[0], "text": "so</think> It is 4.", "prompt_id": prompts[0].id})
    source = type(source_of(trainer.context))
    for value in (2.0, -0.1, math.nan):
        monkeypatch.setattr(source, "correct", lambda self, prompt, answer, value=value: value)
        with pytest.raises(SteerkitError, match=r"prompt source .*: `correct` must return 0 \(wrong\) to 1 \(right\)"):
            accuracies(trainer.context, [row], prompts)
