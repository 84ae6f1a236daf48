"""Every shipped recipe runs to its report, at its smallest size: a tiny model for large ones, made-up traces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from llm_server import KEY, serving
from test_scripts import made_up
from tiny_gguf import write_gguf

from steerkit.recipe.find import shipped
from steerkit.recipe.load import load_recipe
from steerkit.run import SteeringTrainer

SMALLEST = (
    "models={base: tiny.gguf, reasoning: tiny.gguf}",
    "layer=1",
    "strengths=[0.5]",
    "traces.file=traces.jsonl",
    "prompts.extract=6",
    "prompts.choose=1",
    "prompts.test=2",
    "max_new_tokens=8",
    "per_device_batch_size=32",
    "resamples=100",
    "threads=1",
    "controls.draws=1",
    "draws=2",
    "folds=2",
)
OWN_PROMPTS = ("prompts.source={name: jsonl, path: prompts.jsonl}",)
LABELS = ("span_judge.patterns.backtracking=['^Wait']", "baselines.labels=[]")
RUN_HERE = {
    "backtracking-llama-8b": (
        *OWN_PROMPTS,
        "layers.layers=[0]",
        "offsets={starts: [-13], strengths: [0.5]}",
    ),
    "backtracking-smollm2": (*OWN_PROMPTS, "layers.layers=[0]", "offsets.starts=[-13]"),
    "controls": (*LABELS, *OWN_PROMPTS),
    "fig3": (*LABELS, *OWN_PROMPTS),
    "paper": (
        *LABELS,
        *OWN_PROMPTS,
        "baselines.steerers=[self-amplify]",
        "layers.layers=[0]",
        "offsets.starts=[-13]",
        "lens.words=[wait]",
    ),
    "prompts-by-llm": (*OWN_PROMPTS, "experiments=[transfer, baselines, texts]", "baselines.labels=[deduction]"),
    "reasoning-gym": ("experiments=[transfer, baselines, texts]",),
    "tablec1": (*LABELS, *OWN_PROMPTS),
}
RUN_ELSEWHERE = {
    "backtracking": "pocket.py",
    "fig1": "test_paper.py",
    "fig2": "test_paper.py",
    "fig4": "test_paper.py",
    "fig5": "test_paper.py",
    "fig6": "test_paper.py",
    "figb1": "test_paper.py",
    "persona": "test_contrast_run.py",
    "preset-author-code": "test_paper.py",
    "preset-paper": "test_paper.py",
    "preventative": "test_preventative.py",
    "preventative-qwen-7b": "test_preventative.py",
    "rank1": "test_rank1.py",
    "rank1-qwen-32b": "test_rank1.py",
    "rank1-smollm2": "test_rank1.py",
    "transcoder": "test_transcoder_run.py",
    "transcoder-r1-qwen-7b": "test_transcoder_run.py",
}
"""Recipes → the file among the tests that runs them."""


def test_every_recipe_is_run_by_a_test() -> None:
    assert {path.stem for path in shipped()} == {*RUN_HERE, *RUN_ELSEWHERE}
    for name, by in RUN_ELSEWHERE.items():
        text = (Path(__file__).parent / by).read_text(encoding="utf-8")
        assert f'"{name.removeprefix("preset-")}"' in text, f"{by} does not run {name}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a tiny model, prompts and traces are."""
    pytest.importorskip("gguf", reason="reading GGUF needs gguf (pip install 'steerkit-hf[gguf]')")
    write_gguf(tmp_path / "tiny.gguf")
    rows = [made_up(number) for number in range(16)]
    for name, keys in (("traces", ("id", "prompt", "trace")), ("prompts", ("prompt",))):
        lines = (json.dumps({key: row[key] for key in keys}) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the gguf package's own
@pytest.mark.filterwarnings("ignore:Glyph")  # a random model writes what no font has
@pytest.mark.parametrize("name", RUN_HERE)
def test_a_shipped_recipe_at_its_smallest(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "reasoning-gym":
        pytest.importorskip("reasoning_gym", reason="generated prompts need: pip install reasoning-gym")
    with ExitStack() as stack:
        server = ()
        if name == "prompts-by-llm":
            monkeypatch.setenv("OPENAI_API_KEY", KEY)
            server = (f"span_judge.base_url={stack.enter_context(serving())[0]}", "span_judge.model=mine")
        recipe = load_recipe(name, [*SMALLEST, *RUN_HERE[name], *server])
        made = SteeringTrainer.from_recipe(recipe).run()
    assert {"report.html", "results.csv", "comparisons.csv"} <= {path.name for path in made.iterdir()}
    assert made == Path("runs") / name
