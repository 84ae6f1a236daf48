"""`features` in a small run on the embedded pair: without a judge, and with one over real HTTP."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llm_server import KEY, Json, completion, serving
from pocket import SIZES
from sklearn.metrics import roc_auc_score
from test_training_run import ROWS

from steerkit import load_recipe
from steerkit.data.trace import Item, Span, Trace, read_rows, spans_by_trace
from steerkit.errors import SteerkitError
from steerkit.models.models import Models
from steerkit.run import SteeringTrainer
from steerkit.units.detection import halves
from steerkit.units.marks import marks_of

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's
MODELS = {
    "base": {"weights": "pocket:base", "id_map": {"reasoning": {4: 4, 5: 5}}},
    "reasoning": "pocket:reasoning",
    "hybrid": {"weights": "pocket:reasoning", "parts_from": {"mlp": "base"}},
}
WIDTH = 8


def trainer(folder: Path, **features: Any) -> SteeringTrainer:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = {
        "extends": "backtracking",
        "about": "Features.",
        "models": MODELS,
        "writer": "reasoning",
        "train_on": {"name": "jsonl", "path": str(folder / "rows.jsonl")},
        "train_rows": 4,
        "training_seeds": [0, 1],
        "adapter": {"name": "transcoder", "features": WIDTH},
        "training_arguments": {"learning_rate": 0.01, "per_device_train_batch_size": 4, "num_train_epochs": 1},
        "experiments": ["features"],
        "features": {"contexts": 12, "examples": 6, "tested": 2, "passage_before": 3, "passage_after": 1, **features},
        "disable_tqdm": True,
    }
    (folder / "features.yaml").write_text(json.dumps(settings))
    sizes = [*SIZES, "prompts.extract=32", f"output_dir={folder / 'run'}"]
    return SteeringTrainer.from_recipe(load_recipe(str(folder / "features.yaml"), sizes), update=True)


def findings(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "findings/features.json").read_text())["findings"]
    return found


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "features.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def page(folder: Path, model: str = "adapter.0") -> tuple[dict[str, Any], list[Any]]:
    """What a page holds: its head, and the contexts of each feature."""
    text = (folder / f"features/{model}.html").read_text("utf-8")
    found = re.findall(r'type="text/plain">([A-Za-z0-9+/=]+)</script>', text)
    head, *parts = (json.loads(gzip.decompress(base64.b64decode(own))) for own in found)
    return head, [own for part in parts for own in part]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trainer(tmp_path_factory.mktemp("features")).run()


@pytest.fixture(scope="module")
def dense(run: Path) -> tuple[list[Item], dict[str, np.ndarray]]:
    """The run's traces, and all features of one model at their tokens: whole passes of PEFT's own model."""
    lm = Models({**MODELS, "own": {**MODELS["hybrid"], "adapter": str(run / "trained/adapter.1")}}, "reasoning")["own"]  # type: ignore[dict-item]
    spans = spans_by_trace(read_rows(run / "spans.jsonl", Span))
    items = [Item(t, spans.get(t.id, ()), t.tokens) for t in read_rows(run / "traces.jsonl", Trace)]
    parts = [m.transcoder_parts["default"] for m in lm.model.modules() if hasattr(m, "transcoder_parts")]
    seen: list[torch.Tensor] = []
    for part in parts:
        part.encoder.register_forward_hook(lambda module, args, out: seen.append(out[0].clamp(min=0)))
    found = {}
    for item in items:
        with torch.no_grad():
            lm.model(torch.tensor([item.ids]), use_cache=False)
        found[item.trace.id] = torch.cat(seen, 1).numpy()
        seen.clear()
    return items, found


def test_features_are_those_of_whole_passes(run: Path, dense: Any) -> None:
    items, values = dense
    own = np.concatenate([values[i.trace.id][len(i.trace.prompt_ids) :] for i in items])
    rows = [row for row in table(run) if row["model"] == "adapter.1"]
    columns = [int(row["column"]) for row in rows]
    assert columns == np.flatnonzero((own > 0).any(0)).tolist()
    np.testing.assert_allclose([float(row["frequency"]) for row in rows], (own > 0).mean(0)[columns], atol=2e-4)
    np.testing.assert_allclose([float(row["largest"]) for row in rows], own.max(0)[columns], rtol=1e-4)
    _, testing = halves(list(values), 0)
    marks = marks_of(items, "backtracking", "sentence ends")
    x = np.concatenate([values[t][marks[t].candidates] for t in testing])
    y = np.concatenate([marks[t].hits[marks[t].candidates] for t in testing])
    aurocs = [roc_auc_score(y, x[:, u]) for u in columns]
    np.testing.assert_allclose([float(row["auroc sentence ends"]) for row in rows], aurocs, atol=1e-3)


def test_the_lens_is_the_unembedding_of_the_normed_decoder_column(run: Path) -> None:
    lm = Models({**MODELS, "own": {**MODELS["hybrid"], "adapter": str(run / "trained/adapter.0")}}, "reasoning")["own"]  # type: ignore[dict-item]
    parts = [m.transcoder_parts["default"] for m in lm.model.modules() if hasattr(m, "transcoder_parts")]
    plain = lm.transformer
    from safetensors.numpy import load_file

    lens = load_file(run / "features/adapter.0.lens.safetensors")
    for layer, feature in ((0, 3), (3, 7)):
        written = parts[layer].decoder.weight[:, feature].detach() * plain.model.norm.weight
        logits = (plain.lm_head.weight @ written)[: len(lm.tokenizer)].detach()
        order = logits.argsort(descending=True)
        assert lens["top"][layer * WIDTH + feature].tolist() == order[:10].tolist()
        assert lens["bottom"][layer * WIDTH + feature].tolist() == order.flip(0)[:10].tolist()


def test_findings_and_pages_without_a_judge(run: Path) -> None:
    told = findings(run)
    assert f"Of {4 * WIDTH} features" in told["finding"] and "features/adapter.1.html" in told["notes"][0]
    assert "No judge was asked" in told["notes"][-1]
    (claim,) = told["claims"]
    assert "better than the base's own probability" in claim["text"] and claim["n"] == 16
    blocks = next(t for t in told["tables"] if t["title"] == "Features by block")
    assert [row[0] for row in blocks["rows"]] == ["0", "1", "2", "3"]
    assert {path.stem for path in (run / "figures").iterdir()} == {"features", "features-frequency"}
    head, contexts = page(run)
    keys = [column[0] for column in head["columns"]]
    assert {"frequency", "auroc", "lift backtracking", "likelier"} <= set(keys)
    rows = {row["feature"]: row for row in table(run) if row["model"] == "adapter.0"}
    assert {own[0] for own in head["features"]} == set(rows)
    added = [own[4][keys.index("added")] for own in head["features"]]
    assert added == sorted(added, reverse=True)
    for own, each in zip(head["features"], contexts, strict=True):
        assert own[4][keys.index("frequency")] == pytest.approx(float(rows[own[0]]["frequency"]), abs=1e-4)
        assert any("part 1 of 4" in facts for *_, facts in each) or len(each) < 10


def test_nothing_is_read_again_for_the_page(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "features").glob("**/*.safetensors")}
    trainer(run.parent, page_contexts=3).run()
    assert {path: path.stat().st_mtime_ns for path in (run / "features").glob("**/*.safetensors")} == before
    assert max(len(each) for each in page(run)[1]) <= 3 + 8


def reply(body: Json) -> Json:
    """A judge that tells features apart by what it is shown, and finds every passage that has a certain letter."""
    shown = body["messages"][1]["content"]
    if shown.startswith("Description:"):
        passages = re.findall(r'<passage number="(\d+)">(.*?)</passage>', shown, re.DOTALL)
        return completion(json.dumps({"passages": [int(n) for n, text in passages if "o" in text]}))
    label, kind = (("reasoning", "output"), ("domain", "math"), ("language", ""))[len(shown) % 3]
    text = f"features that were shown in {len(shown)} characters of text"
    return completion(json.dumps({"description": text, "class": label, "kind": kind, "confidence": 0.5}))


def test_a_judge_classes_a_sample_and_is_tested(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as (url, state):
        state.reply = reply
        options = {"judge": {"name": "llm-features", "base_url": url, "model": "reader"}, "judged_per_block": 3}
        folder = trainer(run.parent, **options).run()
        asked = [body["messages"][1]["content"] for body in state.bodies]
    shown = [text for text in asked if not text.startswith("Description:")]
    assert all(text.count("Example ") <= 6 and "Makes likelier: " in text for text in shown)
    assert len(shown) == len(set(shown)) == 2 * 4 * 3
    told, rows = findings(folder), table(folder)
    classes = Counter(row["class"] for row in rows if row["class"])
    assert sum(classes.values()) == 24 and classes["reasoning"] == sum(len(text) % 3 == 0 for text in shown)
    assert told["finding"].startswith("By reader, of all features that are alive: language ")
    assert (
        told["claims"][0]["text"] == "Less than half of the features are about reasoning"
        and told["claims"][0]["n"] == 24
    )
    detection = next(t for t in told["tables"] if t["title"] == "Do the descriptions find texts?")
    judged = json.loads((folder / "steps/feature-judgements.adapter.json").read_text())
    accuracies = [row["detection"]["any"][0] for row in judged if "any" in row["detection"]]
    tests = [text for text in asked if text.startswith("Description:")]
    assert 0 < len(accuracies) <= len(tests) and all(text.count("<passage ") == 4 for text in tests)
    assert detection["rows"][0][4].startswith(f"{np.mean(accuracies):.2f}")
    head, _ = page(folder)
    labels = {own[0]: own[2] for own in head["features"]}
    assert {row["feature"]: row["class"] for row in rows if row["model"] == "adapter.0"} == labels
    # A run that is done asks nothing: the server is gone.
    assert findings(trainer(run.parent, **options).run()) == told


def test_settings_that_cannot_be_meant(tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match="the judge 'keyword' classes no features; name llm-features"):
        trainer(tmp_path, judge="keyword").run()
    with pytest.raises(SteerkitError, match="has no label 'backtrack'; did you mean 'backtracking'"):
        trainer(tmp_path, label="backtrack").run()
