"""The paper's experiments beside steering: projections, perplexity, presets; and recipes of single figures."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pocket import SMALL

from steerkit import SteeringVector, load_model, load_models, load_recipe, registry
from steerkit.artifacts import PluginSpec
from steerkit.data.generated import Generation
from steerkit.data.trace import Prompt, read_rows
from steerkit.errors import InputError, SteerkitError
from steerkit.models.models import Models
from steerkit.run import SteeringTrainer
from steerkit.settings import Recipe
from steerkit.steps.scores import Scores

LITTLE = (
    "prompts.extract=32",
    "prompts.choose=2",
    "prompts.test=3",
    "max_new_tokens=60",
    "resamples=100",
    "threads=1",
    "strengths=[30]",
)


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(load_recipe("backtracking").models, writer="reasoning")


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def findings(run: Path, name: str) -> Any:
    return json.loads((run / f"findings/{name}.json").read_text())["findings"]


def test_projections_are_those_of_a_plain_hook(run: Path, models: Models) -> None:
    vector = SteeringVector.load(run / "vectors/base.backtracking.-13..-8.safetensors")
    unit = vector.direction(1) / vector.direction(1).norm()
    texts = {
        f"{r['prompt_id']}-{r['sample']}": r
        for r in rows(run / "generations/test.jsonl")
        if (r.get("target"), r.get("method")) == ("reasoning", "none")
    }
    found = rows(run / "projections.jsonl")
    assert {row["id"] for row in found} == set(texts)
    for row in found:
        prompt = [{"role": "user", "content": row["prompt"]}]
        tokenizer = models.tokenizer
        before = tokenizer(
            tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True), add_special_tokens=False
        )["input_ids"]
        ids = models.ids_for("base", [*before, *texts[row["id"]]["ids"]])
        with torch.inference_mode():
            hidden = models["base"].model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]
        expected = ((hidden - vector.means[1]) @ unit)[len(before) :][: len(row["values"])]
        np.testing.assert_allclose(row["values"], expected.numpy(), rtol=1e-3, atol=2e-3)
        assert len(row["starts"]) == len(row["values"])


def test_detection_counts_tokens_before_backtracking(run: Path) -> None:
    texts = rows(run / "projections.jsonl")
    for row in rows(run / "detection.csv"):
        n = int(row["within"])
        hits = sum(
            any(t < begin <= t + n for begin in text["begins"]) for text in texts for t in range(len(text["values"]))
        )
        assert int(row["n_hits"]) == hits
        assert int(row["n_tokens"]) == sum(len(text["values"]) for text in texts)


def test_perplexity_is_that_of_the_unsteered_model(run: Path, models: Models) -> None:
    (row,) = (
        r
        for r in rows(run / "results.csv")
        if (r["experiment"], r["split"], r["metric"]) == ("transfer", "test", "keyword")
        and (r.get("target"), r.get("source")) == ("base", "base")
    )
    prompts = {p["id"]: p["prompt"] for p in rows(run / "prompts.jsonl")}
    total, tokens = 0.0, 0
    for text in rows(run / "generations/test.jsonl"):
        if (text.get("target"), text.get("source")) == ("base", "base"):
            tokenizer = models.tokenizer
            chat = [{"role": "user", "content": prompts[text["prompt_id"]]}]
            formatted = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            before = models.ids_for("base", tokenizer(formatted, add_special_tokens=False)["input_ids"])
            own = models.ids_for("base", text["ids"])
            ids = torch.tensor([[*before, *own]])
            labels = torch.tensor([[*(-100 for _ in before), *own]])
            with torch.inference_mode():
                total += float(models["base"].model(ids, labels=labels).loss) * len(own)
            tokens += len(own)
    assert float(row["perplexity"]) == pytest.approx(math.exp(total / tokens), rel=1e-3)


def test_the_report_says_what_the_vectors_are(run: Path) -> None:
    said = [claim["text"] for name in ("lens", "projection") for claim in findings(run, name)["claims"]]
    assert any(text.startswith("Logit-lens score of the base-derived vector under the base") for text in said)
    told = any(row["auroc"] for row in rows(run / "detection.csv"))  # a text must turn back for that
    assert any(text.startswith("Projection as a detector: AUROC") for text in said) == told
    page = (run / "report.html").read_text()
    assert "Does the vector detect?" in page and "Do the judges agree?" in page
    assert 'class="underlined"' in page and 'class="shade' in page
    assert {p.stem for p in (run / "figures").glob("*.svg")} >= {"lens", "projection", "texts", "transfer"}


@pytest.mark.parametrize(
    ("name", "more", "figures"),
    [
        ("fig1", (), {"transfer", "texts"}),
        ("fig2", ("offsets.starts=[-13, 0]",), {"offsets"}),
        ("fig4", ("baselines={steerers: [random-direction], labels: []}",), {"baselines", "texts"}),
        ("fig5", ("lens.final_norm=true",), {"lens"}),
        ("fig6", (), {"projection"}),
        ("figb1", ("layers.layers=[0]",), {"layers", "texts"}),
    ],
)
def test_a_figure_alone(tmp_path: Path, name: str, more: tuple[str, ...], figures: set[str]) -> None:
    recipe = load_recipe(name, [f"output_dir={tmp_path}", *LITTLE, *more])
    folder = SteeringTrainer.from_recipe(recipe).run()
    assert {path.stem for path in (folder / "figures").glob("*.png")} == figures | {"directions"}
    texts = [row for path in (folder / "generations").glob("*.jsonl") for row in rows(path)]
    assert any(row["method"] != "none" for row in texts) == (name not in ("fig5", "fig6"))


def test_presets_are_laid_over_a_recipe_before_overrides() -> None:
    def built(kind: str, recipe: Recipe, key: str) -> Any:
        return registry.build(kind, PluginSpec.model_validate(recipe.shared[key]))

    plain, letter = load_recipe("fig4"), load_recipe("fig4", presets=["paper"])
    assert built("fitters", plain, "fitter").config.scale == "unit"
    assert letter.name == "fig4" and [e.name for e in letter.experiments] == ["baselines", "texts"]
    fitter = built("fitters", letter, "fitter").config
    assert (fitter.scale, fitter.positives, fitter.window) == ("raw", "traces", (-13, -8))
    assert letter.shared["baselines"]["fitter"]["window"] == [0, -1]
    assert built("extractors", letter, "extractor").once((-13, -8))
    code = load_recipe("fig4", ["fitter.weighting=trace"], presets=["author-code"])
    assert built("fitters", code, "fitter").config.weighting == "trace" and code.shared["scored"] == "everything"
    judge = code.shared["score_judge"]
    assert judge["keywords"] == ["wait", "hmm"] and judge["substring"] is True
    both = load_recipe("fig2", presets=["backtracking-llama-8b", "author-code"])
    assert both.models["base"].weights == "meta-llama/Llama-3.1-8B"
    assert both.shared["offsets"]["strengths"] == [4, 8, 12]
    with pytest.raises(SteerkitError, match="papr: no such recipe"):
        load_recipe("fig4", presets=["papr"])


def test_a_baselines_window_must_be_extracted() -> None:
    with pytest.raises(InputError, match=r"window 0..-1 is not extracted .* add it to extractor.windows"):
        load_recipe("fig4", ["baselines.fitter={name: dom, label: backtracking, window: [0, -1]}"])


@pytest.mark.parametrize("preset", ["paper", "author-code"])
def test_a_preset_runs(tmp_path: Path, preset: str) -> None:
    recipe = load_recipe("fig4", [f"output_dir={tmp_path}", *LITTLE[:-1], "strengths=[2]"], presets=[preset])
    folder = SteeringTrainer.from_recipe(recipe).run()
    methods = {row["method"] for row in rows(folder / "results.csv")}
    shuffled = {"labels shuffled within each trace", "labels shuffled over all traces"}  # not the paper's
    assert methods - shuffled == {
        "none",
        "dom",
        "overall-mean",
        "gaussian-noise",
        "self-amplify",
        "deduction",
        "initializing",
    }
    assert shuffled < methods
    windows = {
        row["window_start"] + ".." + row["window_end"]
        for row in rows(folder / "results.csv")
        if row["method"] == "deduction"
    }
    assert windows == {"0..-1" if preset == "paper" else "-13..-8"}


def test_what_b_is_counted_in(run: Path) -> None:
    """The same texts scored as output, with the prompt, and per token: recomputed by hand."""
    generations = rows(run / "generations/test.jsonl")
    generations = [r for r in generations if (r.get("target"), r.get("method")) == ("reasoning", "none")]
    prompts = {p["id"]: p["prompt"] for p in rows(run / "prompts.jsonl")}
    tokenizer = load_model("pocket:reasoning").tokenizer

    def text(row: dict[str, Any], scored: str) -> str:
        if scored == "output":
            return str(row["text"])
        chat = [{"role": "user", "content": prompts[row["prompt_id"]]}]
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)) + row["text"]

    def hits(words: str) -> int:
        return sum(w.strip(".,!?").lower() in ("wait", "hmm") for w in words.split())

    asked = read_rows(run / "prompts.jsonl", Prompt)
    for scored, per in (("output", "words"), ("everything", "words"), ("everything", "tokens")):
        recipe = load_recipe("backtracking", [*SMALL, f"scored={scored}", f"per={per}"])
        scores = Scores()
        scores.of = "test"
        context = SteeringTrainer.from_recipe(recipe).context
        found = scores.make(context.of(scores, "scores.test"), asked, [Generation.from_json(r) for r in generations])
        texts = [text(row, scored) for row in generations]
        sizes = [
            len(t.split()) if per == "words" else len(tokenizer(t, add_special_tokens=False)["input_ids"])
            for t in texts
        ]
        expected = {r["prompt_id"]: hits(t) / n for r, t, n in zip(generations, texts, sizes, strict=True)}
        assert {s.prompt_id: s.values["keyword"] for s in found} == pytest.approx(expected)


def test_one_model_under_two_names_is_read_once(tmp_path: Path) -> None:
    settings = ["models={base: pocket:reasoning, reasoning: pocket:reasoning}"]
    recipe = load_recipe("fig5", [f"output_dir={tmp_path}", *LITTLE, *settings])
    folder = SteeringTrainer.from_recipe(recipe).run()
    assert {path.name for path in (folder / "stats").glob("*.safetensors")} == {"base.safetensors"}
    base, reasoning = (
        SteeringVector.load(folder / f"vectors/{r}.backtracking.-13..-8.safetensors") for r in ("base", "reasoning")
    )
    assert (base.info.source, reasoning.info.source) == ("base", "reasoning")
    assert min(base.cosine(reasoning).values()) > 0.99999


def test_spans_of_two_judges_are_not_pooled(run: Path, tmp_path: Path) -> None:
    lines = (run / "spans.jsonl").read_text().splitlines()
    other = json.dumps({**json.loads(lines[0]), "judge": "human:ada"})
    (tmp_path / "both.jsonl").write_text("\n".join([*lines, other]) + "\n")
    files = [f"traces.file={run}/traces.jsonl", f"spans.file={tmp_path}/both.jsonl", f"output_dir={tmp_path}/run"]
    recipe = load_recipe("fig5", [*LITTLE, *files])
    with pytest.raises(SteerkitError, match=r"holds spans of 2 judges \(human:ada, rules\)"):
        SteeringTrainer.from_recipe(recipe).run()


def test_an_experiment_added_later_is_in_the_tables_and_on_the_page(tmp_path: Path) -> None:
    settings = [f"output_dir={tmp_path}", *LITTLE, "experiments=[transfer, texts]"]
    SteeringTrainer.from_recipe(load_recipe("backtracking", settings)).run()
    texts = tmp_path / "generations/test.jsonl"
    before, at = texts.read_bytes(), texts.stat().st_mtime_ns
    more = [*settings, "experiments=[transfer, lens, agreement, texts]"]
    more += ["agreement.judge={name: keyword, keywords: [wait, hmm]}"]
    SteeringTrainer.from_recipe(load_recipe("backtracking", more), update=True).run()
    assert (texts.read_bytes(), texts.stat().st_mtime_ns) == (before, at)
    assert {row["experiment"] for row in rows(tmp_path / "results.csv")} == {"transfer", "agreement"}
    page = (tmp_path / "report.html").read_text()
    assert "What the vectors say in words" in page and "Do the judges agree?" in page
