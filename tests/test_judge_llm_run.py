"""A whole run judged by a language model, and one real model server."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from llm_server import KEY, serving
from pocket import SMALL
from steerkit_plugins.judges.llm.judge import LLMJudge

import steerkit
from steerkit.errors import SteerkitError
from steerkit.planning.plan import plan_text
from steerkit.recipe.load import load_recipe
from steerkit.run import SteeringTrainer

SMALLER = (
    *SMALL,
    "prompts.extract=16",
    "prompts.choose=2",
    "prompts.test=2",
    "max_new_tokens=50",
    "experiments=[transfer, baselines, lens, projection, agreement, texts]",
    "baselines.labels=[]",
    "extractor.sweep=null",
)


def steered(folder: Path, url: str, *more: str) -> None:
    judge = f"span_judge={{name: llm, base_url: {url}, min_coverage: 0.2}}"
    recipe = load_recipe("backtracking", [*SMALLER, f"output_dir={folder}", judge, *more])
    SteeringTrainer.from_recipe(recipe).run()


def test_a_run_pays_once_and_is_made_again_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    folder = tmp_path / "run"
    with serving() as (url, state):
        state.faults = {"*": ["status:401"] * 2}
        with pytest.raises(SteerkitError, match=r"× key refused \(HTTP 401\)"):
            steered(folder, url)
        kept = state.paid.total()
        steered(folder, url, "span_judge.max_concurrency=3", "span_judge.max_cost=9")  # no other recipe for that
        assert set(state.paid.values()) == {1}
    notes = json.loads((folder / "spans.notes.json").read_text())
    assert notes["mean_coverage"] == 1.0 and notes["dollars"] > 0
    assert notes["labels"].keys() == {"deduction", "backtracking"}
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    estimates = [row["estimate"]["calls"] for row in logged if row.get("judge") == "llm"]
    assert len(estimates) == 4  # spans twice, choose, test
    assert estimates[:2] == [16, 16 - kept]
    assert [row["annotated_traces"] > 0 for row in logged if row.get("scored_by") == "llm"] == [True, True]
    results = (folder / "results.csv").read_bytes()
    for name in ("spans.jsonl", "results.csv", "report.html"):
        (folder / name).unlink()
    monkeypatch.delenv("OPENAI_API_KEY")
    steered(folder, url)  # no key, and no server
    assert (folder / "results.csv").read_bytes() == results
    assert "the judge can't be had here" not in (folder / "report.html").read_text()
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_the_plan_says_what_judging_will_cost() -> None:
    smaller = ["models={base: pocket:base, reasoning: pocket:reasoning}", "layer=1"]
    smaller += ["experiments=[transfer, baselines, texts]"]
    recipe = load_recipe("prompts-by-llm", [*smaller, "max_new_tokens=10"])
    (line,) = (line for line in plan_text(recipe).splitlines() if line.startswith("judge "))
    found = re.fullmatch(
        r"judge +llm: at most about (\S+) calls, (\S+) input tokens, (\S+) output .*, (\S+) dollars", line
    )
    assert found is not None
    calls, read, written, dollars = (float(part.replace(",", "")) for part in found.groups())
    assert calls > 200 and read > 200 * calls and written == pytest.approx(16 * calls)
    assert dollars == pytest.approx((read * 2.5 + written * 10) / 1e6, rel=0.01)


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(base_url, model) of `transformers serve` with the embedded reasoning model."""
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        pytest.skip("transformers serve needs fastapi and uvicorn: pip install 'steerkit-hf[dev]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = str(Path(steerkit.__file__).parent.parent / "plugins/steerkit_plugins/pocket/reasoning")
    words = ["-m", "transformers.cli.transformers", "serve", model, "--host", "127.0.0.1", "--port", str(port)]
    log = (tmp_path_factory.mktemp("serve") / "log").open("w+")
    process = subprocess.Popen([sys.executable, *words, "--device", "cpu"], stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, Path(log.name).read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        process.terminate()
        process.wait()
        log.close()


def test_a_real_model_server(real_server: tuple[str, str], tmp_path: Path) -> None:
    """A model this small labels nothing; its answers are kept, counted and survived."""
    url, model = real_server
    texts = ["Tom has 3 eggs. Wait, that is not right.", "Ann has 4 cups."]
    judge = LLMJudge(base_url=url, model=model, api_key_env=None, max_tokens=40, unusable="leave-out")
    judge.open(tmp_path, lambda done, total: None)
    assert judge.annotate(texts) == [[], []]
    notes = judge.notes()
    assert notes["asked_now"] == 3  # the first try at structured output, which this server ignores, and both texts
    assert sum(notes["unusable_answers"].values()) + notes["left_out_traces"] == 2
    assert notes["input_tokens"] > 1000 and sum(notes["answered_by"].values()) == 2
    assert judge.annotate(texts) == [[], []]
    assert judge.notes()["asked_now"] == 0
