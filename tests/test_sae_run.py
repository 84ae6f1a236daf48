"""SAEs in a run: trained on one half of the traces and measured on the other, figures recomputed from its files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score
from steerkit_plugins.rank1_lora.sae.contexts import LatentValues, latent_contexts
from steerkit_plugins.rank1_lora.sae.trained import TrainedSAE
from steerkit_plugins.rank1_lora.sae_training import saes_of

from steerkit import InputError, SteeringTrainer, load_recipe
from steerkit.data.trace import Item, Span, Trace, read_rows, spans_by_trace
from steerkit.units.detection import halves
from steerkit.units.marks import marks_of
from steerkit.units.store import UnitStore

ROWS = [
    {
        "id": f"row{number}",
        "prompt": [
            {"role": "user", "content": f"Max has {number} cups. Monday+{number}. How many cups does Max have?"},
            {"role": "assistant", "content": f"First Monday+{number} gives {number}, so Max has just {number} cups."},
        ],
    }
    for number in range(1, 9)
]
NAMES = ("adapter.0.author", "adapter.0.standard")


def recipe(folder: Path, **changed: Any) -> Path:
    """A recipe file: an adapter trained on eight rows, two SAEs on its scalars."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = {
        "extends": "backtracking",
        "about": "SAEs on an adapter's scalars.",
        "experiments": ["sae"],
        "prompts": {"extract": 40, "choose": 1, "test": 1},
        "max_new_tokens": 120,
        "per_device_batch_size": 40,
        "threads": 1,
        "resamples": 200,
        "train_on": {"name": "jsonl", "path": str(rows)},
        "train_rows": 8,
        "training_seeds": [0],
        "adapter": {"name": "rank1-lora"},
        "training_arguments": {"learning_rate": 0.03, "per_device_train_batch_size": 4, "num_train_epochs": 2},
        "sae": {"k": 4, "expansion": 4, "batch_rows": 256, "warmup_steps": 5, "epochs": 2, "learning_rate": 0.003},
        **changed,
    }
    path = folder / "saes.yaml"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sae")
    words = [sys.executable, "-m", "steerkit", "recipe", "run", str(recipe(folder)), "--out", str(folder / "run")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def findings(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "findings/sae.json").read_text())["findings"]
    return found


def test_each_variant_has_a_file_of_the_adapters_units(run: Path) -> None:
    store = UnitStore.at(run / "scalars/adapter.0")
    for name in NAMES:
        sae = TrainedSAE.load(run / f"saes/{name}.safetensors", store.units, store.norms)
        assert sae.latents == 4 * len(store.units) == 112
        assert sae.meta["model"] == "adapter.0" and sae.options.variant == name.rpartition(".")[2]
    assert sorted(path.name for path in (run / "saes").iterdir()) == [f"{name}.safetensors" for name in NAMES]


def items_of(run: Path) -> list[Item]:
    grouped = spans_by_trace(read_rows(run / "spans.jsonl", Span))
    traces = read_rows(run / "traces.jsonl", Trace)
    return [Item(trace, grouped.get(trace.id, ()), trace.tokens) for trace in traces]


def rows_of(store: UnitStore, half: frozenset[str]) -> Any:
    return np.concatenate([store.of(name, "raw") for name in sorted(half)]).astype(np.float64)


def test_an_sae_learns_from_one_half_and_is_measured_on_the_other(run: Path) -> None:
    store = UnitStore.at(run / "scalars/adapter.0")
    choosing, testing = halves(store.traces, 0)
    for name in NAMES:
        sae = TrainedSAE.load(run / f"saes/{name}.safetensors")
        own, held_out = rows_of(store, choosing), rows_of(store, testing)
        assert sae.told["rows"] == len(own) and sae.meta["traces"] == 20
        assert (sae.activations(own.astype(np.float32)) != 0).sum() == pytest.approx(4 * len(own), abs=2)
        if sae.options.center == "mean":
            np.testing.assert_allclose(sae.shift, (own * sae.norms).mean(axis=0), rtol=1e-4, atol=1e-6)
        w = load_file(run / f"saes/{name}.safetensors")
        x = (held_out * sae.factor - w["shift"]) / w["spread"]
        z = sae.activations(held_out.astype(np.float32)).astype(np.float64)
        error = x - z @ w["decoder"] - w["decoder_bias"]
        told = sae.told["held_out"]["threshold"]
        assert told["fvu"][0] == pytest.approx((error**2).sum() / ((x - x.mean(axis=0)) ** 2).sum(), rel=1e-3)
        assert told["fvu"][1] < told["fvu"][0] < told["fvu"][2]
        assert told["l0"][0] == pytest.approx((z != 0).sum() / len(z), rel=1e-3)
        assert sae.told["held_out"]["batch_topk"]["l0"][0] <= 4 + 1e-9


def test_latents_are_chosen_on_one_half_and_tested_on_the_other(run: Path) -> None:
    store, found = UnitStore.at(run / "scalars/adapter.0"), findings(run)
    best = found["value"]["best"]["adapter.0"]
    sae = TrainedSAE.load(run / best["file"], store.units, store.norms)
    assert best["file"] == f"saes/{best['sae']}.safetensors" and best["variant"] == sae.options.variant
    marks = marks_of(items_of(run), "backtracking", "sentence ends")

    def aurocs(half: frozenset[str], values: Any) -> Any:
        names = sorted(half)
        rows = np.concatenate([values(name)[marks[name].candidates] for name in names])
        hits = np.concatenate([marks[name].hits[marks[name].candidates] for name in names])
        return np.array([roc_auc_score(hits, column) for column in rows.T])

    def latents(name: str) -> Any:
        return sae.activations(store.of(name, "raw"))

    choosing, testing = halves(store.traces, 0)
    chosen = aurocs(choosing, latents)
    assert int(np.argmax(np.abs(chosen - 0.5))) == best["latent"]
    assert best["sign"] == (1 if chosen[best["latent"]] > 0.5 else -1)
    tested = aurocs(testing, latents)[best["latent"]]
    tested = tested if best["sign"] > 0 else 1 - tested
    assert best["auroc"] == pytest.approx(tested, abs=1e-9)
    scalars = aurocs(choosing, lambda name: store.of(name, "raw"))
    unit = int(np.argmax(np.abs(scalars - 0.5)))
    against = aurocs(testing, lambda name: store.of(name, "raw"))[unit]
    against = against if scalars[unit] > 0.5 else 1 - against
    (claim,) = found["claims"]
    assert claim["text"] == "An SAE latent tells backtracking better than the best scalar, among sentence ends"
    assert float(claim["difference"].replace("−", "-")) == pytest.approx(tested - against, abs=6e-4)
    others = json.loads((run / "findings/scalars.json").read_text())["findings"]["value"]["best"]["adapter.0"]
    assert others["unit"] == store.units[unit].name and others["auroc"] == pytest.approx(against)


def test_the_page_has_a_row_and_a_bar_for_each(run: Path) -> None:
    found = findings(run)
    rebuilt, told = found["tables"]
    assert [row[0] for row in rebuilt["rows"]] == list(NAMES)
    assert [row[0] for row in told["rows"]] == ["best scalar, adapter.0", *(f"best latent, {name}" for name in NAMES)]
    assert [len(panel["names"]) for panel in found["figures"][0]["panels"]] == [2, 3, 3]
    assert all(value is not None for panel in found["figures"][0]["panels"] for value in panel["low"])
    assert (run / "figures/sae.png").is_file()
    assert "SAEs on the scalars" in (run / "report.html").read_text(encoding="utf-8")


def test_contexts_of_latents_are_their_strongest_tokens(run: Path) -> None:
    store = UnitStore.at(run / "scalars/adapter.0")
    sae = TrainedSAE.load(run / f"saes/{NAMES[1]}.safetensors")
    found, names = latent_contexts(sae, store, traces=store.traces[:9], count=5, width=3, per_trace=2), store.traces[:9]
    values = LatentValues(sae, store)
    strongest = []
    for name in names:
        column = values[name][:, 7]
        strongest += [(column[at], name, at) for at in np.argsort(-column, kind="stable")[:2] if column[at] > 0]
    strongest.sort(key=lambda each: (-each[0], each[1], each[2]))
    assert [(c.value, c.trace, c.at) for c in found.found(7, 1)] == strongest[:5]
    assert all(values[c.trace][c.first, 7] == c.values[0] for c in found.found(7, 1))


@pytest.mark.parametrize(
    "given", ["sae.variants=[author, author]", "sae.sae_seeds=[]", "sae.k=0", "sae.init_fan=both", "sae.variants=[new]"]
)
def test_settings_that_make_no_sae_are_named(given: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=given.partition("=")[0]):
        load_recipe(str(recipe(tmp_path)), [given])


def test_every_variant_and_seed_is_a_piece(tmp_path: Path) -> None:
    given = ["sae.sae_seeds=[0, 3]", "training_seeds=[0, 1]", "sae.center=mean", "sae.scale=raw"]
    trainer = SteeringTrainer.from_recipe(load_recipe(str(recipe(tmp_path)), given))
    names = [name for name, _, _ in saes_of(trainer.context)]
    assert names[:3] == ["adapter.0.author.0", "adapter.0.author.3", "adapter.0.standard.0"] and len(names) == 8
    options = [options for _, _, options in saes_of(trainer.context)]
    assert {(o.center, o.scale) for o in options} == {("mean", "raw")} and {o.relu for o in options} == {False, True}
