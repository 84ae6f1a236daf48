"""The best scalar against others, norm for norm: conditions, their identity, intervals, and a whole small run."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from steerkit_plugins.rank1_lora.steered import Steered
from steerkit_plugins.rank1_lora.unit_conditions import BEST, NONE, RANDOM, Adding, MovedConfig, adding_to, spec_of
from steerkit_plugins.steerers.saved_lora import SavedLora
from tiny_lora import with_lora

from steerkit.artifacts import Condition, Placed, VectorKey
from steerkit.data.generated import Score
from steerkit.data.site import Site
from steerkit.identity import spec_identity
from steerkit.judging.metrics import RunMetric
from steerkit.judging.scored import Scored
from steerkit.models.units import Unit
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
