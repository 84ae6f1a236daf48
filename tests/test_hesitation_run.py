"""A small run of `behaviour` and `hesitation`: choices from weights, variants against hooks, what is kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pocket import SIZES
from safetensors.torch import load_file
from steerkit_plugins.transcoder.units import transcoder_groups
from test_training_run import ROWS
from torch import Tensor

from steerkit import load_recipe
from steerkit.data.trace import Item, Span, Trace, read_rows, spans_by_trace
from steerkit.errors import InputError
from steerkit.graph import followed_by
from steerkit.models.adapters import with_adapter
from steerkit.models.parts_from import block_part
from steerkit.run import SteeringTrainer
from steerkit.units.marks import marks_of

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's
MODEL, FEATURES, CONTEXTS, LEAST, SCALE = "l1-0.001.0", 24, 20, 1, 0.5
CHOSEN = "steps/hesitation-features.json"
WAYS = ("contexts", "logits")
BOTH = [f"{kind} ({way})" for kind in ("without", "matched", "only", "only-no-bias", "negated") for way in WAYS]


def trainer(folder: Path, *, update: bool = False, **changed: Any) -> SteeringTrainer:
    """The embedded pair, and two narrow adapters that are trained for a few steps."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = {
        "extends": "backtracking",
        "about": "Transcoders.",
        "models": {
            "base": {"weights": "pocket:base", "id_map": {"reasoning": {4: 4, 5: 5}}},
            "reasoning": "pocket:reasoning",
            "hybrid": {"weights": "pocket:reasoning", "parts_from": {"mlp": "base"}},
        },
        "train_on": {"name": "jsonl", "path": str(folder / "rows.jsonl")},
        "train_rows": 6,
        "training_seeds": [0],
        "adapter": {"name": "transcoder", "features": FEATURES, "scale": SCALE},
        "objective": "bridging",
        "l1_weights": [0.001, 0.01],
        "training_arguments": {"learning_rate": 0.02, "per_device_train_batch_size": 2, "num_train_epochs": 1},
        "draws": 0,
        "folds": 0,
        "experiments": ["behaviour", "hesitation"],
        "hesitation": {"draws": 2, "contexts": CONTEXTS, "least": LEAST},
        "disable_tqdm": True,
        **changed,
    }
    (folder / "hesitation.yaml").write_text(json.dumps(settings))
    sizes = [*SIZES, "prompts.extract=64", "max_new_tokens=80", f"output_dir={folder / 'run'}"]
    recipe = load_recipe(str(folder / "hesitation.yaml"), sizes)
    return SteeringTrainer.from_recipe(recipe, update=update)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SteeringTrainer:
    made = trainer(tmp_path_factory.mktemp("hesitation"))
    made.run()
    return made


@pytest.fixture(scope="module")
def run(trained: SteeringTrainer) -> Path:
    return trained.folder.path


@pytest.fixture(scope="module")
def chosen(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / CHOSEN).read_text())[MODEL]
    return found


def findings(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / f"findings/{name}.json").read_text())["findings"]
    return found


def weights(run: Path) -> list[dict[str, Tensor]]:
    """Of each block's transcoder, by the last two parts of their names."""
    found: list[dict[str, Tensor]] = [{}, {}, {}, {}]
    for name, value in load_file(run / f"trained/{MODEL}/adapter_model.safetensors").items():
        layer = next(int(part) for part in name.split(".") if part.isdecimal())
        found[layer][".".join(name.split(".")[-2:])] = value
    return found


def test_chosen_features_are_those_of_the_weights(trained: SteeringTrainer, run: Path, chosen: dict[str, Any]) -> None:
    """f recomputed from the adapter's file and the MLPs' inputs, and every rule written out."""
    lm = trained.context.models[MODEL]
    own, spans = weights(run), spans_by_trace(read_rows(run / "spans.jsonl", Span))
    items = [Item(t, spans.get(t.id, ()), t.tokens) for t in read_rows(run / "traces.jsonl", Trace)]
    before = {name: marks.hits for name, marks in marks_of(items, "backtracking", "all tokens").items()}
    f, words = dict[str, np.ndarray](), Counter[int]()
    for item in items:
        seen: dict[int, Tensor] = {}
        handles = [block_part(lm, n, "mlp").register_forward_pre_hook(see(seen, n)) for n in range(4)]
        with torch.no_grad():
            lm.model(torch.tensor([item.ids]))
        for handle in handles:
            handle.remove()
        parts = [(seen[n] @ t["encoder.weight"].T + t["encoder.bias"]).clamp(min=0) for n, t in enumerate(own)]
        f[item.trace.id] = torch.cat(parts, -1).numpy()
        words.update(item.ids[at + 1] for at in np.flatnonzero(before[item.trace.id]))
    assert chosen["turns"] == sum(words.values()) > 2

    first = {item.trace.id: len(item.trace.prompt_ids) for item in items}
    strong = []
    for unit in range(4 * FEATURES):
        places = []
        for name, numbers in f.items():
            at = [t for t in range(first[name], len(numbers)) if numbers[t, unit] > 0]
            places += [(-numbers[t, unit], name, t) for t in sorted(at, key=lambda t: (-numbers[t, unit], t))[:4]]
        if sum(before[name][t] for _, name, t in sorted(places)[:CONTEXTS]) >= LEAST:
            strong.append(unit)
    assert 0 < len(strong) < 2 * FEATURES
    assert flat(chosen["ways"]["contexts"]["chosen"]) == strong

    head = lm.model.get_output_embeddings().weight.detach()
    u = sum(n * head[i] for i, n in words.items()) / sum(words.values()) - head.mean(0)
    adds = torch.cat([SCALE * (t["decoder.weight"].T @ u) for t in own]).numpy()
    scores = sum(numbers[before[name]].sum(0) for name, numbers in f.items()) * adds
    best = [unit for unit in np.argsort(-scores)[: len(strong)] if scores[unit] > 0]
    assert flat(chosen["ways"]["logits"]["chosen"]) == sorted(best)

    counted = np.concatenate([numbers[first[name] :] for name, numbers in f.items()])
    norms = torch.cat([SCALE * t["decoder.weight"].norm(dim=0) for t in own]).numpy()
    mean = counted.mean(0) * norms
    assert chosen["contribution"] == pytest.approx(mean.reshape(4, -1).sum(1).tolist(), rel=1e-3)
    assert chosen["alive"] == (counted > 0).any(0).reshape(4, -1).sum(1).tolist()
    for way in chosen["ways"].values():
        for draw, told in zip(way["matched"], way["matched_contribution"], strict=True):
            assert sum(told) == pytest.approx(mean[flat(draw)].sum(), rel=1e-3)
            assert not set(flat(draw)) & set(flat(way["chosen"]))


def see(seen: dict[int, Tensor], n: int) -> Callable[..., None]:
    return lambda module, args: seen.__setitem__(n, args[0][0])


def flat(blocks: list[list[int]]) -> list[int]:
    return [FEATURES * block + number for block, numbers in enumerate(blocks) for number in numbers]


def test_variants_are_what_hooks_do(trained: SteeringTrainer, run: Path, chosen: dict[str, Any]) -> None:
    models, ids = trained.context.models, torch.randint(6, 200, (2, 30), generator=torch.Generator().manual_seed(0))

    def logits(name: str) -> Tensor:
        with torch.no_grad():
            found: Tensor = models[name].model(ids).logits
        return found

    def hooked(
        features: list[list[int]], keep: bool, origin: str = "hybrid", bias: bool = True, scale: float = SCALE
    ) -> Tensor:
        lm = with_adapter(models.copy(origin), str(run / f"trained/{MODEL}"))
        for group, numbers in zip(transcoder_groups(lm), features, strict=True):
            inside = torch.zeros(FEATURES)
            inside[numbers] = 1
            group.edit(lambda f, by=inside if keep else 1 - inside: f * by)
            group.transcoder.scale = scale
            if not bias:
                torch.nn.init.zeros_(group.transcoder.decoder.bias)
        with torch.no_grad():
            found: Tensor = lm.model(ids).logits
        return found

    none: list[list[int]] = [[], [], [], []]
    wanted = {f"{MODEL}.biases": hooked(none, keep=True)}
    for way, own in chosen["ways"].items():
        them = own["chosen"]
        wanted |= {
            f"{MODEL}.without.{way}": hooked(them, keep=False),
            f"{MODEL}.matched.{way}.1": hooked(own["matched"][1], keep=False),
            f"{MODEL}.only.{way}": hooked(them, keep=True),
            f"{MODEL}.only-no-bias.{way}": hooked(them, keep=True, bias=False),
            f"{MODEL}.negated.{way}": hooked(them, keep=True, origin="reasoning", bias=False, scale=-0.5 * SCALE),
        }
    for name, found in wanted.items():
        torch.testing.assert_close(logits(name), found, rtol=1e-6, atol=1e-5)
    hybrid, adapter = logits("hybrid"), logits(MODEL)
    assert not torch.allclose(wanted[f"{MODEL}.biases"], hybrid, atol=1e-3)  # all features off is not the adapter off
    for name in wanted.keys() - {f"{MODEL}.biases"}:
        plain = logits("reasoning") if "negated" in name else hybrid if "only" in name else adapter
        assert not torch.allclose(wanted[name], plain, atol=1e-4), name


def test_every_condition_has_texts_and_a_row(run: Path) -> None:
    found = findings(run, "hesitation")
    rows = [json.loads(line) for line in (run / "generations/test.jsonl").read_text().splitlines()]
    conditions = {row["condition"] for row in rows}
    assert len(conditions) == 5 + 1 + 6 * 2 and len(rows) == 4 * len(conditions)  # matched ones have two draws
    table = found["tables"][0]
    assert len(table["rows"]) == 3 + len(BOTH) + 1
    titles = [heading.split(",")[0] for heading in table["headings"]]
    assert {"b", "judged sentences", "other sentences", "words", "draws"} <= set(titles)
    assert sum(row[-1] != "–" for row in table["rows"]) == 2
    claims = [claim["text"] for claim in found["claims"] if claim["kind"] == "claim"]
    assert len(claims) == 2 * (4 + 2) and all(any(f"(by {way})" in text for way in WAYS) for text in claims)
    assert {"contexts", "logits"} == found["value"]["share"].keys()
    texts = dict[str, list[str]]()
    for row in rows:
        texts.setdefault(row["condition"], []).append(row["text"])
    assert len({tuple(own) for own in texts.values()}) > 2


def test_behaviour_is_of_every_adapter(run: Path) -> None:
    found = findings(run, "behaviour")
    table, recovered = found["tables"]
    adapters = ["adapter (λ₁ 0.001)", "adapter (λ₁ 0.01)"]
    assert [row[0] for row in table["rows"]] == ["target", "hybrid", "base", *adapters]
    assert [row[0] for row in recovered["rows"]] == adapters
    assert [figure["name"] for figure in found["figures"]] == ["behaviour", "behaviour-ladder"]
    lines = found["figures"][1]["panels"][0]["series"]
    bars = found["figures"][0]["panels"][0]["values"]
    assert [line["y"] for line in lines] == [bars[3:], [bars[0]] * 2, [bars[1]] * 2]
    assert len(found["claims"]) == 1 + 2 * 2
    with (run / "results.csv").open() as file:
        assert sum(line.startswith("behaviour,") for line in file) % 5 == 0


def test_texts_are_kept_while_the_variants_stay(trained: SteeringTrainer, run: Path) -> None:
    """Another metric changes no text; another scale writes the variants anew, which texts follow."""
    texts = run / "generations/test.jsonl"
    before, claims = texts.stat().st_mtime_ns, findings(run, "hesitation")["claims"]
    own = {"draws": 2, "contexts": CONTEXTS, "least": LEAST}
    trainer(run.parent, update=True, hesitation={**own, "metric": "judged_sentences"}).run()
    assert texts.stat().st_mtime_ns == before and findings(run, "hesitation")["claims"] != claims
    other = trainer(run.parent, update=True, hesitation={**own, "negated_scale": -1.0})
    told = [made.steps["transcoder-variants"].depends(made.context) for made in (trained, other)]
    assert told[0] != told[1]
    assert "transcoder-variants" in followed_by(other.context, other.steps["generations.test"])
    other.steps["transcoder-variants"].make(other.context, json.loads((run / CHOSEN).read_text()), None)
    config = run / f"derived/{MODEL}.negated.contexts/adapter_config.json"
    assert json.loads(config.read_text())["scale"] == -SCALE


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"hesitation": {"label": "backtracing"}}, "has no label 'backtracing'"),
        ({"hesitation": {"metric": "nothing"}}, "there is no metric 'nothing'"),
        ({"hesitation": {"least": 11}}, "11 of 10 contexts"),
        ({"hesitation": {"contexts": 21}}, "is 21, and 20 are kept"),
        ({"behaviour": {"metric": "other_sentences"}}, "is better neither up nor down"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        trainer(tmp_path, **options)
