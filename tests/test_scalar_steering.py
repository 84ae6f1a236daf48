"""The best scalar against others, norm for norm: conditions, their identity, intervals, and a whole small run."""

from __future__ import annotations

import csv
import json
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pocket import SIZES
from steerkit_plugins.rank1_lora.scalar_steering import ScalarSteering
from steerkit_plugins.rank1_lora.scalar_steering_findings import Said
from steerkit_plugins.rank1_lora.scalar_strength import ScalarStrength
from steerkit_plugins.rank1_lora.steered import Steered
from steerkit_plugins.rank1_lora.unit_conditions import BEST, NONE, RANDOM, Adding, MovedConfig, adding_to, spec_of
from steerkit_plugins.steerers.saved_lora import SavedLora
from tiny_lora import with_lora

from steerkit import load_model, load_recipe
from steerkit.artifacts import Condition, Placed, VectorKey
from steerkit.data.chat_format import ChatFormat
from steerkit.data.generated import Score
from steerkit.data.site import Site
from steerkit.findings import Findings
from steerkit.identity import spec_identity
from steerkit.judging.metrics import RunMetric
from steerkit.judging.scored import Scored
from steerkit.models.language_model import LanguageModel
from steerkit.models.lora_units import lora_groups
from steerkit.models.units import Unit, unit_named
from steerkit.planning.hardware import find_gpu
from steerkit.planning.plan import plan_text
from steerkit.run import SteeringTrainer
from steerkit.stats.two_level import contrast_interval
from steerkit.steps.generations import norm_of
from steerkit.steps.results import Results

KEY = VectorKey(source="base", label="backtracking", window=(-13, -8))
JUDGED = RunMetric("judged", "share of sentences", (0.0, 1.0), "up", main=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adapter")
    with_lora("llama", made)
    return made


def run_of(folder: Path) -> Any:
    """What of a run `Adding` asks: settings, the trained model's folder, placing."""
    settings = SimpleNamespace(layer=1, tokens="generated")
    models = SimpleNamespace(trained={"adapter.3": SimpleNamespace(folder=folder)}, depth=lambda name: 4)

    def place(key: VectorKey, strength: float, *, steerer: str) -> Placed:
        return Placed(steerer={"name": steerer}, site=Site(1), strength=strength, norm_of=key, vector=key)  # type: ignore[arg-type]

    return SimpleNamespace(
        models=models, peek=lambda group: settings, place=place, vector=lambda source: replace(KEY, source=source)
    )


def adding(folder: Path, norms: Any = None) -> Adding:
    vectors: Any = {KEY: SimpleNamespace(norm=lambda layer: norms[layer])} if norms else None
    return adding_to(run_of(folder), MovedConfig(), 3, vectors)


def test_every_way_adds_what_the_vector_adds_at_the_run_s_block(folder: Path) -> None:
    """Where a vector's own length differs from block to block, too."""
    norms = {0: 5.0, 1: 2.0, 2: 0.5, 3: 8.0}
    made = adding(folder, norms)
    vectors: Any = {KEY: SimpleNamespace(norm=lambda layer: norms[layer])}
    ways = [made.vector(3.0), made.unit(BEST, Unit(2, "gate"), 1, 3.0), made.unit(RANDOM, Unit(3, "q"), -1, 3.0, 0)]
    ways.append(made.isotropic(Site(0, "up"), 3.0, 1))
    for way in ways:
        assert norm_of(way.interventions[0], vectors) == pytest.approx(3.0 * 2.0)
        assert way.labels["strength"] == 3.0
    assert [way.interventions[0].site for way in ways[1:]] == [Site(2, "gate"), Site(3, "q"), Site(0, "up")]
    assert ways[1].interventions[0].tokens == "generated"


def test_other_scalars_are_others_each_once_and_their_own_for_each_training_seed(folder: Path) -> None:
    made, best = adding(folder), Unit(2, "gate")
    others = made.other_units(best, 9, seed=0)
    assert len({unit for unit, _ in others}) == 9 and best not in dict(others)
    assert {sign for _, sign in made.other_units(best, 27, 0)} == {-1, 1}
    assert made.other_units(best, 9, seed=0) == others != made.other_units(best, 9, seed=1)
    assert others != replace(made, seed=4).other_units(best, 9, seed=0)
    assert len(made.other_units(best, 1000, 0)) == len(SavedLora(str(folder)).units) - 1
    planned = adding(folder / "none")
    assert len(planned.units) == 4 * 7


def test_a_condition_is_the_same_in_any_folder_and_its_key_follows_the_files(folder: Path, tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    one, other = (adding(at).unit(BEST, Unit(2, "gate"), 1, 3.0) for at in (folder, tmp_path))
    assert one.id == other.id != adding(folder).unit(BEST, Unit(2, "gate"), -1, 3.0).id
    assert str(folder) not in json.dumps(one.interventions[0].to_json())
    specs = [pickle.loads(pickle.dumps(each.interventions[0].steerer)) for each in (one, other)]
    assert [spec.options["adapter"] for spec in specs] == [str(folder), str(tmp_path)]
    keys = [spec_identity("steerers", spec).settings for spec in specs]
    assert keys[0] == keys[1]
    (tmp_path / "adapter_config.json").write_text((folder / "adapter_config.json").read_text() + " ")
    assert spec_identity("steerers", specs[1]).settings != keys[0]
    assert spec_of("lora-scalar", {"adapter": "a"}, adapter="m").given == {"name": "lora-scalar", "adapter": "m"}


def results(seeds: int, draws: int, seed: int = 0) -> tuple[Results, dict[str, np.ndarray]]:
    """Random values of 12 prompts under nothing, the best scalar and random ones, and these as [prompts, seeds, K]."""
    drawn = np.random.default_rng(seed)
    values = {way: drawn.random((12, seeds, k)) for way, k in ((NONE, 1), (BEST, 1), (RANDOM, draws))}
    conditions, scores = [], []
    for way, own in values.items():
        for s in range(seeds):
            for k in range(own.shape[2]):
                labels = {"arm": way, "seed": s, "draw": k, "shown": "", "strength": 1.0}
                condition = Condition(model=f"adapter.{s}", system=f"{way} {k}", labels=labels)
                conditions.append(condition)
                scores += [
                    Score(
                        split="test",
                        condition=condition.id,
                        prompt_id=f"p{n:02}",
                        sample=0,
                        values={"judged": float(own[n, s, k])},
                        collapsed=False,
                        words=5,
                        repeat=1,
                        distinct=1.0,
                    )
                    for n in range(12)
                ]
    scored = Scored(scores, [JUDGED])
    return Results("x", "test", conditions, [], scored, [], {c.id: 1.0 for c in conditions}, "unit", 0.95), values


def test_with_one_seed_an_interval_covers_prompts_and_draws() -> None:
    found, values = results(1, 6)
    measured = Steered(found, JUDGED)
    groups = [(1.0, values[BEST][:, 0]), (-1.0, values[RANDOM][:, 0])]
    assert measured.difference(BEST, RANDOM) == contrast_interval(groups, confidence=0.95, bounds=(-1.0, 1.0))
    flipped = measured.difference(RANDOM, BEST)
    assert flipped.mean == pytest.approx(-measured.difference(BEST, RANDOM).mean)
    assert measured.mean(RANDOM) == contrast_interval([(1.0, values[RANDOM][:, 0])], confidence=0.95, bounds=(0, 1))
    plain = measured.difference(BEST, NONE)
    own = values[BEST][:, 0] - values[NONE][:, 0]
    assert plain == contrast_interval([(1.0, own)], confidence=0.95, bounds=(-1.0, 1.0))


def test_with_several_seeds_draws_are_averaged_within_each() -> None:
    found, values = results(3, 4)
    measured = Steered(found, JUDGED)
    own = values[BEST][..., 0] - values[RANDOM].mean(axis=2)
    assert measured.difference(BEST, RANDOM) == contrast_interval([(1.0, own)], confidence=0.95, bounds=(-1.0, 1.0))
    assert not measured.draws


def test_what_has_broken_texts_is_left_out() -> None:
    found, _ = results(3, 2)
    broken = next(c.id for c in found.conditions if c.labels["arm"] == BEST)
    scored = Scored([], [JUDGED], [broken])
    scored._by_id = found.scored._by_id
    measured = Steered(replace(found, scored=scored), JUDGED)
    assert not measured.has(BEST) and measured.has(NONE, RANDOM)


def test_without_a_chosen_scalar_nothing_is_claimed(folder: Path) -> None:
    """As with too few sentences of the label: the vector alone is added, and no strength is chosen."""
    run = run_of(folder)
    run.planned, run.use, run.experiments = False, lambda group: SimpleNamespace(training_seeds=(3,)), {}
    none, vectors = Findings(title="", value={"best": {}}), {KEY: SimpleNamespace(norm=lambda layer: 1.0)}
    made = ScalarSteering(strengths=(2.0, 4.0))
    asked = made.conditions(run, None, vectors, none)
    assert [condition.labels["arm"] for condition in asked] == ["unsteered", "vector", "vector"]
    choice = ScalarStrength(strengths=(2.0, 4.0))
    (plain,) = choice.conditions(run, None, vectors, none)
    found = choice.findings(run, SimpleNamespace(conditions=[plain]))
    assert found.value["strength"] == 2.0 and "has chosen no scalar" in found.notes[0]
    results_of_vectors, _ = results(1, 2)
    kept = [c for c in results_of_vectors.conditions if c.labels["arm"] != BEST]
    first = next(Said(replace(results_of_vectors, conditions=kept), 1.0, "", 0.25, 2).claims())
    assert first.verdict == "cannot be told"


ROWS = [
    {
        "id": f"row{n}",
        "prompt": [
            {"role": "user", "content": f"Max has {n} cups. Monday+{n}. How many cups does Max have?"},
            {"role": "assistant", "content": f"First Monday+{n} gives {n}, so Max has just {n} cups."},
        ],
    }
    for n in range(1, 9)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run with two training seeds, whose vector is as long as it was fitted."""
    folder = tmp_path_factory.mktemp("steered")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = {
        "models": {
            "base": {"weights": "pocket:base", "id_map": {"reasoning": {"4": 4, "5": 5}}}
        },  # it reads <think> itself
        "train_on": {"name": "jsonl", "path": str(rows)},
        "train_rows": 8,
        "training_seeds": [0, 1],
        "adapter": {"name": "rank1-lora"},
        "training_arguments": {"learning_rate": 0.01, "per_device_train_batch_size": 4, "num_train_epochs": 2},
        "fitter": {"name": "dom", "label": "backtracking", "window": [-13, -8], "scale": "raw"},
        "draws": 0,
        "folds": 0,
        "strengths": [1, 3],
        "experiments": ["sae", "scalar-strength", "scalar-steering"],
        "sae": {"variants": ["standard"], "k": 4, "expansion": 4, "batch_rows": 128},
        "scalar-steering": {"draws": 2, "chosen_by": "scalar-strength"},
    }
    recipe = {"extends": "backtracking", "about": "Scalars.", **settings}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    given = load_recipe(str(folder / "recipe.yaml"), [*SMALL, f"output_dir={folder}/run"])
    planned = plan_text(given, gpu=find_gpu("h100"))
    SteeringTrainer.from_recipe(given).run()
    (folder / "run/plan.txt").write_text(planned)
    return folder / "run"


SMALL = [size for size in SIZES if not size.startswith(("prompts.", "max_new"))]
SMALL += ["prompts.extract=64", "prompts.choose=2", "prompts.test=3", "max_new_tokens=80"]
COLUMNS = ("arm", "seed", "draw", "along", "strength")


def rows_of(run: Path) -> list[dict[str, str]]:
    """A row a condition."""
    with (run / "results.csv").open(newline="") as file:
        own = [row for row in csv.DictReader(file) if row["experiment"] == "scalar-steering"]
    return list({tuple(row[name] for name in COLUMNS): row for row in own}.values())


def test_a_run_steers_by_the_scalar_that_scalars_chose(run: Path) -> None:
    chosen = json.loads((run / "findings/scalars.json").read_text())["findings"]["value"]["best"]
    found = json.loads((run / "findings/scalar-steering.json").read_text())["findings"]
    rows = rows_of(run)
    assert {row["arm"] for row in rows} == {"unsteered", "best", "vector", "random", "isotropic", "latent"}
    for model, best in chosen.items():
        sign = "+" if best["sign"] > 0 else "−"
        assert found["value"]["best"][model] == f"{sign} {best['unit']}"
        own = [row for row in rows if model.endswith(f".{row['seed']}")]
        assert {row["along"] for row in own if row["arm"] == "best"} == {f"{sign} {best['unit']}"}
        assert best["unit"] not in {row["along"][2:] for row in own if row["arm"] == "random"}
    strength = found["value"]["strength"]
    assert {float(row["strength"]) for row in rows if row["arm"] == "random"} == {strength}


def test_all_ways_of_a_strength_add_one_norm(run: Path) -> None:
    norms: dict[float, set[str]] = {}
    for row in rows_of(run):
        norms.setdefault(float(row["strength"]), set()).add(f"{float(row['added_norm']):.4g}")
    assert norms[0.0] == {"0"} and norms[3.0] == {f"{3 * float(*norms[1.0]):.4g}"}


def test_a_plan_counts_its_conditions(run: Path) -> None:
    line = next(line for line in (run / "plan.txt").read_text().splitlines() if line.startswith("scalar-steering"))
    assert int(line.split()[2]) == len(rows_of(run)) == 2 * (1 + 2 * 3 + 2 * 2)


def test_conditions_of_a_run_do_not_name_its_folder(run: Path) -> None:
    for name in ("results.csv", "generations/test.jsonl", "findings/scalar-steering.json"):
        assert str(run.parent) not in (run / name).read_text()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
def test_texts_are_those_of_the_scalar_moved(run: Path) -> None:
    """Outside the product: what was written is likelier under PEFT's own model with the scalar moved than without."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    wanted = {"arm": "best", "strength": "3", "seed": "0"}
    (told,) = (row for row in rows_of(run) if wanted.items() <= row.items())
    unit, sign = unit_named(told["along"][2:]), 1 if told["along"][0] == "+" else -1
    lm = load_model("pocket:base")
    base = AutoModelForCausalLM.from_pretrained(lm.origin, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, run / "trained/adapter.0")
    groups = lora_groups(LanguageModel("peft", model, lm.tokenizer, adapter=True))
    (group,) = (group for group in groups if group.units[0] == unit)
    by = sign * float(told["added_norm"]) / float(group.writes[0].norm())
    texts = map(json.loads, (run / "generations/test.jsonl").read_text().splitlines())
    prompts = {p["id"]: p for p in map(json.loads, (run / "prompts.jsonl").read_text().splitlines())}
    chats = ChatFormat(load_model("pocket:reasoning").tokenizer)

    def likelihood(text: dict[str, Any]) -> float:
        before = chats.ids(prompts[text["prompt_id"]]["prompt"])
        ids = torch.tensor([before + text["ids"]])
        with torch.no_grad():
            found = model(ids).logits.log_softmax(-1)[0, len(before) - 1 : -1]
        return float(found.gather(1, ids[0, len(before) :, None]).sum())

    own = [t for t in texts if (t.get("arm"), t.get("strength"), t.get("seed")) == ("best", 3.0, 0)]
    plain = sum(map(likelihood, own))
    handle = group.edit(lambda s: s + by)
    moved = sum(map(likelihood, own))
    handle.remove()
    assert len(own) == 3 and moved > plain + 1
