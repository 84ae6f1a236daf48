"""Trainings that end by what the model writes on validation prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pocket import SIZES
from steerkit_plugins.pocket.source import PocketPrompts

from steerkit import SteeringTrainer, load_recipe, registry
from steerkit.artifacts import PluginSpec
from steerkit.data.chat_format import ChatFormat
from steerkit.data.trace import Prompt, read_rows
from steerkit.errors import SteerkitError
from steerkit.generation.sampling import Sampling
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interfaces import label_shares
from steerkit.models.adapters import with_adapter
from steerkit.models.models import Models
from steerkit.stats.noise import key_of
from steerkit.steps.validating import Texts, TextWatch
from steerkit.training.validation import Validation
from steerkit.training.watch import Measure

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's
PAIR = {
    "base": "pocket:base",
    "reasoning": "pocket:reasoning",
    "hybrid": {"weights": "pocket:reasoning", "parts_from": {"mlp": "base"}},
}
HOW = {"label": "deduction", "goal": "reasoning", "every": 1, "prompts": 3, "patience": 1}
SMALL = (
    *SIZES,
    "samples=1",
    "train_rows=24",
    "held_out_rows=2",
    "max_new_tokens=60",
    "adapter.features=4",
    "l1_weights=[0.01]",
    "experiments=[faithfulness]",
    "training_arguments.learning_rate=0.0",
)


def test_a_training_ends_where_texts_come_no_nearer(tmp_path: Path) -> None:
    """With a learning rate of 0 every measure is the same, and the second one is no nearer."""
    given = [*SMALL, f"validation={json.dumps(HOW)}", f"output_dir={tmp_path / 'run'}"]
    run = SteeringTrainer.from_recipe(load_recipe("transcoder", given)).run()
    told = json.loads((run / "trained/l1-0.01.0/training.json").read_text())
    assert told["steps"] == 2 and [each["step"] for each in told["measures"]] == [1, 2]  # of 3
    models = Models(PAIR, "reasoning")
    lm = with_adapter(models.copy("hybrid"), str(run / "trained/l1-0.01.0"), must_change=False)
    texts = texts_of(run)
    assert 0 < texts.share(lm) < 1
    assert [each["values"]["deduction"] for each in told["measures"]] == [texts.share(lm)] * 2
    assert json.loads((run / "steps/validation-texts.json").read_text())["goal"] == texts.share(models["reasoning"])


def texts_of(run: Path) -> Texts:
    """The texts that were judged, from the run's own prompts and settings."""
    lm = Models(PAIR, "reasoning")["reasoning"]
    own = [prompt for prompt in read_rows(run / "prompts.jsonl", Prompt) if prompt.split == "choose"][:3]
    chats = ChatFormat(lm.tokenizer)
    rows = tuple(GenerationRow(chats.ids(p.prompt), key_of(0, "validation", p.id)) for p in own)
    told = yaml.safe_load((run / "recipe.yaml").read_text())["span_judge"]
    return Texts(rows, PluginSpec(**told), "deduction", Sampling(temperature=1.0), 60, "</think>")


def test_the_share_is_the_mean_over_texts(run_of_rules: Texts) -> None:
    lm = Models(PAIR, "reasoning")["reasoning"]
    shares = []
    for row in run_of_rules.rows:  # each alone: its noise is its own
        (text,) = generate(lm, [row], max_new_tokens=60, temperature=1.0)
        before = lm.tokenizer.decode(text.ids).split("</think>")[0]
        judge = registry.build("judges", run_of_rules.judge)
        shares.append(label_shares(judge.annotate([before])[0], judge.labels())["deduction"])
    assert run_of_rules.share(lm) == pytest.approx(sum(shares) / 3)


@pytest.fixture
def run_of_rules() -> Texts:
    lm = Models(PAIR, "reasoning")["reasoning"]
    prompts = PocketPrompts().read({"choose": 3}, 0)
    chats = ChatFormat(lm.tokenizer)
    rows = tuple(GenerationRow(chats.ids(p.prompt), number) for number, p in enumerate(prompts))
    judge = PluginSpec(
        **yaml.safe_load((Path(__file__).parent.parent / "recipes/backtracking.yaml").read_text())["span_judge"]
    )
    return Texts(rows, judge, "deduction", Sampling(temperature=1.0), 60, "</think>")


def test_it_ends_after_measures_that_are_no_nearer(run_of_rules: Texts) -> None:
    watch = TextWatch(run_of_rules, Validation(**{**HOW, "patience": 2}), goal=0.5)

    def enough(*values: float) -> bool:
        return watch.enough([Measure(step=n, values={"deduction": value}) for n, value in enumerate(values)])

    assert not enough(0.1) and not enough(0.1, 0.1) and enough(0.1, 0.1, 0.1)
    assert not enough(0.1, 0.2, 0.3, 0.4) and enough(0.1, 0.4, 0.3, 0.7) and not enough(0.1, 0.4, 0.3, 0.55)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"goal": "nobody"}, "no model is called 'nobody'"),
        ({"label": "deductoin"}, "the span judge has no label 'deductoin'; did you mean 'deduction'"),
        ({"prompts": 99}, "is 99, and there are 4"),
        ({"every": 0}, "validation.every"),
    ],
)
def test_what_can_not_be_is_told_before_anything_runs(change: dict[str, object], told: str, tmp_path: Path) -> None:
    given = [*SMALL, f"validation={json.dumps({**HOW, **change})}", f"output_dir={tmp_path / 'run'}"]
    with pytest.raises(SteerkitError, match=told):
        SteeringTrainer.from_recipe(load_recipe("transcoder", given)).run()
    assert not (tmp_path / "run/trained").exists()
