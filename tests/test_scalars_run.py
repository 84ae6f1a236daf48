"""A run that trains rank-1 adapters and reads them: its files against PEFT and scikit-learn, pieces, what is kept."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pocket import SIZES
from sklearn.metrics import roc_auc_score
from steerkit_plugins.rank1_lora import scalar_capture
from steerkit_plugins.trained import parts as cutting
from steerkit_plugins.trained.parts import parts_of
from test_training_run import ROWS
from tiny import random_items

from steerkit import load_recipe
from steerkit.data.trace import Item, Span, Trace, read_rows, spans_by_trace
from steerkit.errors import InputError
from steerkit.run import SteeringTrainer
from steerkit.units.contexts import TopContexts
from steerkit.units.detection import halves
from steerkit.units.marks import marks_of
from steerkit.units.store import UnitStore

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's
MAPPED = {4: 251, 5: 251}  # what the base reads for <think> and </think>


def trainer(folder: Path, *, like: Path | None = None, **changed: Any) -> SteeringTrainer:
    """The pair of the embedded models, an adapter trained for two steps with each of two seeds.

    Args:
        like: a folder with a run, which is gone on with in a copy.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = (like or folder) / "rows.jsonl"
    if like and not (folder / "run").exists():
        shutil.copytree(like / "run", folder / "run")
    elif not like:
        rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = {
        "extends": "backtracking",
        "about": "Scalars.",
        "train_on": {"name": "jsonl", "path": str(rows)},
        "train_rows": 4,
        "training_seeds": [0, 1],
        "adapter": "rank1-lora",
        "training_arguments": {"learning_rate": 0.01, "per_device_train_batch_size": 2, "num_train_epochs": 1},
        "experiments": ["scalars"],
        "scalars": {"contexts": 6, "context_width": 4, "strongest": 20},
        "disable_tqdm": True,
        **changed,
    }
    (folder / "scalars.yaml").write_text(json.dumps(settings))
    recipe = load_recipe(str(folder / "scalars.yaml"), [*SIZES, f"output_dir={folder / 'run'}"])
    return SteeringTrainer.from_recipe(recipe, update=like is not None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trainer(tmp_path_factory.mktemp("scalars")).run()


def items(run: Path) -> list[Item]:
    spans = spans_by_trace(read_rows(run / "spans.jsonl", Span))
    return [Item(t, spans.get(t.id, ()), t.tokens) for t in read_rows(run / "traces.jsonl", Trace)]


def findings(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "findings/scalars.json").read_text())["findings"]
    return found


def probabilities(run: Path, name: str) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    with safe_open(run / f"probabilities/{name}.safetensors", "np") as file:
        head, values = json.loads(file.metadata()["of"]), file.get_tensor("probabilities")
    ends = np.cumsum(head["lengths"])
    return {t: values[end - n : end] for t, n, end in zip(head["traces"], head["lengths"], ends, strict=True)}


def peft(run: Path, name: str) -> Any:
    """The trained model by PEFT alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from steerkit import load_model

    base = AutoModelForCausalLM.from_pretrained(load_model("pocket:base").origin, dtype=torch.float32)
    return PeftModel.from_pretrained(base, run / f"trained/{name}").eval()


def scalars_of(model: Any, layers: list[tuple[str, Any]], ids: list[int]) -> dict[str, torch.Tensor]:
    """[T] of each adapter, by name."""
    told: dict[str, torch.Tensor] = {}
    handles = [
        layer.lora_A["default"].register_forward_hook(lambda m, a, s, name=name: told.update({name: s[0, :, 0]}))
        for name, layer in layers
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return told


@pytest.mark.parametrize("name", ["adapter.0", "adapter.1"])
def test_stored_scalars_are_pefts_own(run: Path, name: str) -> None:
    store, model = UnitStore.at(run / f"scalars/{name}"), peft(run, name)
    layers = [(n, m) for n, m in model.named_modules() if hasattr(m, "lora_A")]
    assert len(store.units) == len(layers) == 28
    assert set(store.traces) == {item.trace.id for item in items(run)}
    for item in items(run)[:3]:
        told = scalars_of(model, layers, [MAPPED.get(i, i) for i in item.ids])
        found = store.of(item.trace.id, "raw")
        for unit, own, norm in zip(store.units, found.T, store.norms, strict=True):
            [(n, m)] = [(n, m) for n, m in layers if f".{unit.layer}." in n and n.endswith(f"{unit.part}_proj")]
            np.testing.assert_allclose(own, told[n].numpy(), atol=1e-4 * max(abs(told[n].numpy()).max(), 1e-3))
            assert norm == pytest.approx(16 * float(m.lora_B["default"].weight.norm()), rel=1e-5)


def test_contexts_are_the_strongest_tokens_of_responses(run: Path) -> None:
    store = UnitStore.at(run / "scalars/adapter.0")
    top = TopContexts.from_json(json.loads((run / "scalars/adapter.0.contexts.json").read_text()))
    unit, places = 12, []
    for item in items(run):
        own = store.of(item.trace.id)[:, unit]
        begin = len(item.trace.prompt_ids)
        best = sorted((-own[t], item.trace.id, t) for t in range(begin, len(own)) if own[t] > 0.01)[:4]
        places += [(trace, at) for _, trace, at in best]
    strength = {(t, at): float(store.of(t)[at, unit]) for t, at in places}
    wanted = sorted(places, key=lambda place: (-strength[place], *place))[:6]
    assert [(c.trace, c.at) for c in top.found(unit, 1)] == wanted


def test_own_probabilities_are_sums_over_the_vocabulary(run: Path) -> None:
    """The base reads other ids; shares are counted on the choosing half alone."""
    from transformers import AutoModelForCausalLM

    from steerkit import load_model

    own = items(run)
    choosing, _ = halves([item.trace.id for item in own], 0)
    for name, model, mapped in (
        ("base", AutoModelForCausalLM.from_pretrained(load_model("pocket:base").origin, dtype=torch.float32), MAPPED),
        ("adapter.1", peft(run, "adapter.1"), MAPPED),
        (
            "reasoning",
            AutoModelForCausalLM.from_pretrained(load_model("pocket:reasoning").origin, dtype=torch.float32),
            {},
        ),
    ):
        counts: dict[int, list[bool]] = {}
        for item in own:
            for span in item.spans if item.trace.id in choosing else ():
                token = mapped.get(item.ids[span.first], item.ids[span.first])
                counts.setdefault(token, []).append(span.label == "backtracking")
        found = probabilities(run, name)
        for item in own[:3]:
            with torch.no_grad():
                p = model(torch.tensor([[mapped.get(i, i) for i in item.ids]])).logits[0].double().softmax(-1)
            wanted = sum(np.mean(hits) * p[:, token].numpy() for token, hits in counts.items())
            np.testing.assert_allclose(found[item.trace.id], wanted, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("which", "column"), [("sentence ends", 1), ("all tokens", 2)])
def test_the_table_is_of_the_testing_half(run: Path, which: Any, column: int) -> None:
    own, found = items(run), findings(run)
    choosing, testing = halves([item.trace.id for item in own], 0)
    marks = marks_of(own, "backtracking", which)
    told = {row[0]: float(row[column].split()[0]) for row in found["tables"][0]["rows"]}

    def scored(scores: dict[str, np.ndarray], half: frozenset[str]) -> float:
        x = np.concatenate([scores[t][marks[t].candidates] for t in sorted(half)])
        return float(roc_auc_score(np.concatenate([marks[t].hits[marks[t].candidates] for t in sorted(half)]), x))

    for name in ("base", "adapter.0", "adapter.1", "reasoning"):
        assert told[f"own probability of {name}"] == pytest.approx(scored(probabilities(run, name), testing), abs=6e-4)
    for name in ("adapter.0", "adapter.1"):
        store = UnitStore.at(run / f"scalars/{name}")
        every = [{t: store.of(t)[:, unit] for t in store.traces} for unit in range(28)]
        away = [scored(values, choosing) - 0.5 for values in every]
        best = int(np.argmax(np.abs(away)))
        tested = scored(every[best], testing)
        assert told[f"best scalar of {name}"] == pytest.approx(tested if away[best] > 0 else 1 - tested, abs=6e-4)
        if which == "sentence ends":
            value = found["value"]["best"][name]
            assert (value["unit"], value["sign"]) == (store.units[best].name, 1 if away[best] > 0 else -1)
            assert value["low"] <= value["auroc"] <= value["high"]


def test_the_claim_is_the_paired_difference(run: Path) -> None:
    found = findings(run)
    rows = {row[0]: float(row[1].split()[0]) for row in found["tables"][0]["rows"]}
    mean = (rows["own probability of adapter.0"] + rows["own probability of adapter.1"]) / 2
    (claim,) = found["claims"]
    difference = mean - rows["own probability of base"]
    assert float(claim["difference"].replace("−", "-")) == pytest.approx(difference, abs=0.0065)
    assert claim["verdict"] in ("holds", "does not hold", "unclear")
    assert any("looks like a discovery" in note for note in found["notes"])
    assert any(line.startswith("Few backtracking sentences") for line in found["cautions"])
    assert "What the scalars know" in (run / "report.html").read_text(encoding="utf-8")


def test_small_pieces_give_the_same_and_are_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "PIECE_TOKENS", 2000)
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("scalars", "probabilities"))
    again = trainer(tmp_path, like=run.parent).run()
    for seed in (0, 1):
        store, other = (UnitStore.at(folder / f"scalars/adapter.{seed}") for folder in (run, again))
        assert len(other.files) > 1 == len(store.files) and not (again / "pieces").exists()
        for name in store.traces:
            np.testing.assert_allclose(other.of(name), store.of(name), atol=1e-4 * np.abs(store.of(name)).max())
            one, two = (probabilities(folder, f"adapter.{seed}")[name] for folder in (run, again))
            np.testing.assert_allclose(two, one, atol=1e-6)
    assert findings(again)["value"]["best"].keys() == findings(run)["value"]["best"].keys()
    # What is there is read again, not made again, when the findings alone have to be.
    before = {file: file.stat().st_mtime_ns for file in (again / "scalars").rglob("*.*")}
    old = (again / "findings/scalars.json").read_text()
    (again / "findings/scalars.json").unlink()
    trainer(tmp_path, like=run.parent).run()
    assert (again / "findings/scalars.json").read_text() == old
    assert {file: file.stat().st_mtime_ns for file in (again / "scalars").rglob("*.*")} == before


def test_pieces_are_whole_traces_of_like_length() -> None:
    own = random_items(9)
    for limit in (1, 120, 10**6):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(cutting, "PIECE_TOKENS", limit)
            parts = parts_of(own)
            assert parts == parts_of(own[::-1])
        assert sorted(item.trace.id for part in parts for item in part) == sorted(item.trace.id for item in own)
        assert all(len(part) == 1 or sum(len(item.ids) for item in part) <= limit for part in parts)
    piece = scalar_capture.ScalarPiece("adapter.0", parts[0], 100)
    assert pickle.loads(pickle.dumps(piece)) == piece and len(piece) == 9


def test_too_few_hits_are_said_in_words(run: Path, tmp_path: Path) -> None:
    """A label that no sentence has, and no fully fine-tuned model."""
    rare = {"span_judge": {"patterns": {"example": []}}, "scalars": {"label": "example", "full": ""}}
    found = findings(trainer(tmp_path, like=run.parent, **rare).run())
    assert found["finding"] == "It cannot be told: too few example sentences."
    assert found["claims"][0]["verdict"] == "cannot be told" and found["value"] == {"best": {}}
    assert not any("reasoning" in row[0] for row in found["tables"][0]["rows"])


def test_unknown_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model is called 'reasonin'; did you mean 'reasoning'"):
        trainer(tmp_path, scalars={"full": "reasonin"})
