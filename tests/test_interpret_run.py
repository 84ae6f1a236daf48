"""`interpret` in a small run on the embedded pair: without an explainer, and with one over real HTTP."""

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
import yaml
from llm_server import KEY, Json, completion, serving
from pocket import SIZES
from steerkit_plugins.judges.llm_explain import CLASSES
from steerkit_plugins.rank1_lora.sae.trained import TrainedSAE

from steerkit import load_recipe
from steerkit.errors import SteerkitError
from steerkit.run import SteeringTrainer
from steerkit.units.store import UnitStore

ROWS = [
    {
        "id": f"row{number}",
        "prompt": [
            {"role": "user", "content": f"Max has {number} cups. Monday+{number}. How many cups does Max have?"},
            {"role": "assistant", "content": f"First Monday+{number} gives {number}, so Max has just {number} cups."},
        ],
    }
    for number in range(1, 7)
]


def run(folder: Path, **interpret: Any) -> Path:
    """A run in this folder, or its next one with other settings of `interpret`; its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = {
        "extends": "backtracking",
        "about": "Units.",
        "experiments": ["interpret", "sae"],
        "train_on": {"name": "jsonl", "path": str(folder / "rows.jsonl")},
        "train_rows": 6,
        "adapter": {"name": "rank1-lora"},
        "training_seeds": [0],
        "training_arguments": {"learning_rate": 0.01, "per_device_train_batch_size": 2, "num_train_epochs": 1},
        "draws": 0,
        "folds": 0,
        "interpret": {"contexts": 4, "neurons": 2, "resamples": 200, "examples": 3, **interpret},
        "scalars": {"contexts": 6, "context_width": 10},
        "sae": {"variants": ["standard"], "expansion": 2, "k": 4},
    }
    (folder / "units.yaml").write_text(json.dumps(settings))
    sizes = [*SIZES, "prompts.extract=24", f"output_dir={folder / 'run'}"]
    return SteeringTrainer.from_recipe(load_recipe(str(folder / "units.yaml"), sizes), update=True).run()


def findings(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "findings/interpret.json").read_text())["findings"]
    return found


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "units.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def features(folder: Path) -> list[list[Any]]:
    """Those of the page."""
    page = (folder / "units/adapter.0.html").read_text("utf-8")
    found = re.findall(r'type="text/plain">([A-Za-z0-9+/=]+)</script>', page)
    head, *parts = (json.loads(gzip.decompress(base64.b64decode(text))) for text in found)
    contexts = [own for part in parts for own in part]
    return [[*row, own] for row, own in zip(head["features"], contexts, strict=True)]


def reply(body: Json) -> Json:
    """An explainer that tells features apart by what it is shown."""
    shown = body["messages"][1]["content"]
    kind = CLASSES[len(shown) % 3]
    return completion(json.dumps({"explanation": f"text of {len(shown)} characters", "class": kind}))


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without an explainer."""
    return run(tmp_path_factory.mktemp("units"))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
def test_contexts_of_neurons_are_those_of_the_adapted_model(silent: Path) -> None:
    """Outside the product: PEFT's own model on the trace."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from steerkit import load_model

    base = AutoModelForCausalLM.from_pretrained(load_model("pocket:base").origin, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, silent / "trained/adapter.0").eval()
    mapped = yaml.safe_load((silent / "recipe.yaml").read_text("utf-8"))["models"]["base"]["id_map"]["reasoning"]
    read_as = {int(one): other for one, other in mapped.items()}
    told: list[torch.Tensor] = []
    up = model.base_model.model.model.layers[2].mlp.up_proj
    up.register_forward_hook(lambda module, args, output: told.append(output[0, :, 1]))
    values: dict[str, np.ndarray] = {}
    for line in (silent / "traces.jsonl").read_text().splitlines():
        trace = json.loads(line)
        with torch.no_grad():
            model(torch.tensor([[read_as.get(i, i) for i in (*trace["prompt_ids"], *trace["ids"])]]))
        values[trace["id"]] = told.pop()[len(trace["prompt_ids"]) :].numpy()
    rows = {row["feature"]: row for row in table(silent) if row["kind"] == "neuron"}
    assert len(rows) == 2 * 2 * 4
    every = np.concatenate(list(values.values()))
    for name, sign in (("2.up.1 +", 1), ("2.up.1 −", -1)):
        assert float(rows[name]["largest"]) == pytest.approx((sign * every).max(), rel=1e-4)
        assert float(rows[name]["share"]) == pytest.approx((sign * every > 0.01).mean(), abs=0.002)
    (row,) = (row for row in features(silent) if row[0] == "neuron 2.up.1 +")
    (at, _, steps, facts), *_ = row[7]
    where = re.fullmatch(r"(.+), token (\d+) of the response", facts)
    assert where and values[where[1]][int(where[2]) - 1] == pytest.approx(every.max(), rel=1e-4)
    assert int(steps.split()[at]) == 1000


def test_without_an_explainer_there_are_contexts_and_no_classes(silent: Path) -> None:
    told, rows = findings(silent), features(silent)
    assert "of 56 adapter units" in told["finding"] and "units/adapter.0.html" in told["notes"][0]
    assert told["claims"] == [] and not (silent / "units/explanations.json").exists()
    assert Counter(row[1] for row in rows) == {"unit": 2 * 28, "neuron": 2 * 2 * 4, "latent": 2 * 28}
    assert all(len(row[7]) <= 4 and row[3] == "" for row in rows)
    best = json.loads((silent / "findings/scalars.json").read_text())["findings"]["value"]["best"]["adapter.0"]
    aurocs = {row[0]: row[4][3] for row in rows if row[1] == "unit"}
    other = {"+": "−", "−": "+"}
    sign = "+" if best["sign"] > 0 else "−"
    assert aurocs[f"{best['unit']} {sign}"] == pytest.approx(best["auroc"], abs=1e-5)  # as the experiment tests it
    assert aurocs[f"{best['unit']} {other[sign]}"] == pytest.approx(1 - best["auroc"], abs=1e-5)


def test_latents_are_those_of_the_runs_sae(silent: Path) -> None:
    store = UnitStore.at(silent / "scalars/adapter.0")
    sae = TrainedSAE.load(silent / "saes/adapter.0.standard.safetensors")
    traces = [json.loads(line) for line in (silent / "traces.jsonl").read_text().splitlines()]
    values = [sae.activations(store.of(trace["id"], "raw"))[len(trace["prompt_ids"]) :] for trace in traces]
    largest = np.concatenate(values).max(0)
    rows = [row for row in table(silent) if row["kind"] == "latent"]
    assert [row["feature"] for row in rows] == [f"standard {number}" for number in range(56)]
    np.testing.assert_allclose([float(row["largest"]) for row in rows], np.maximum(largest, 0), rtol=1e-4, atol=1e-5)
    assert largest.max() > 0 and {row["model"] for row in rows} == {"adapter.0.standard"}


def test_an_explainer_puts_each_feature_in_a_class(silent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    before = (silent / "units/unit-contexts.adapter.0.json").stat().st_mtime_ns
    with serving() as (url, state):
        state.reply = reply
        explainer = {"name": "llm-explain", "base_url": url, "model": "reader"}
        folder = run(silent.parent, explainer=explainer, explain_latents=True)
        asked = [body["messages"][1]["content"] for body in state.bodies]
    assert (folder / "units/unit-contexts.adapter.0.json").stat().st_mtime_ns == before  # nothing read again
    told, rows = findings(folder), table(folder)
    assert all(text.count("Example ") <= 3 for text in asked)
    classes = Counter(CLASSES[len(text) % 3] for text in asked)
    assert Counter(row["class"] for row in rows if row["class"]) == classes
    alive = sum(row["kind"] == "latent" and row["contexts"] != "0" for row in rows)
    assert [row[:2] for row in told["tables"][0]["rows"]] == [
        ["adapter units", "56"],
        ["neurons", "16"],
        ["latents", str(alive)],
    ]
    assert len(asked) == 56 + 16 + alive and 0 < alive <= 56
    (claim,) = told["claims"]
    assert claim["n"] == 72 and claim["verdict"] in ("holds", "does not hold", "unclear")
    assert told["finding"].startswith("By reader, of 56 adapter units ") and "no one has checked" in told["cautions"][0]
    shown = [(row[1], row[0].removeprefix(f"{row[1]} "), row[2], row[3]) for row in features(folder)]
    assert shown == [(row["kind"], row["feature"], row["class"], row["explanation"]) for row in rows]
    assert "classes" in {path.stem for path in (folder / "figures").iterdir()}
    # A run that is done asks nothing: the server is gone.
    assert findings(run(silent.parent, explainer=explainer, explain_latents=True)) == told


def test_a_judge_that_explains_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match="the judge 'keyword' explains no features; name llm-explain"):
        run(tmp_path, explainer="keyword")


def test_a_recipe_that_sends_texts_elsewhere_needs_a_word(tmp_path: Path) -> None:
    recipe = {"extends": "backtracking", "about": "x", "experiments": ["interpret"]}
    recipe["interpret"] = {"explainer": {"name": "llm-explain", "base_url": "https://example.org/v1"}}
    (tmp_path / "units.yaml").write_text(json.dumps(recipe))
    with pytest.raises(SteerkitError, match=r"example.org is sent the run's texts.*--allow servers"):
        load_recipe(str(tmp_path / "units.yaml"))
