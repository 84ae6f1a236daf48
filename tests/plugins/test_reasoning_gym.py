"""Generated prompts: balanced, the same for a seed, disjoint over splits, stable when more are asked for, scored."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from steerkit_plugins.prompts.final_answer import final_answer
from steerkit_plugins.prompts.reasoning_gym import CATEGORIES, ReasoningGymPrompts

from steerkit import load_recipe, registry
from steerkit.data.splits import check_splits
from steerkit.data.trace import Prompt
from steerkit.errors import InputError, SteerkitError
from steerkit.steps.prompts import Prompts

pytest.importorskip("reasoning_gym", reason="generated prompts need: pip install reasoning-gym")

COUNTS = {"extract": 40, "choose": 10, "test": 20}
FEW: dict[str, Any] = {"categories": {"logic": ["knights_knaves", "syllogism"], "numbers": ["gsm_symbolic"]}}


def test_ten_categories_of_thirty() -> None:
    recipe = load_recipe("reasoning-gym")
    prompts = Prompts(**recipe.shared["prompts"]).config
    counts = prompts.counts()
    found = registry.build("prompts", prompts.source).read(counts, seed=0)
    assert Counter(p.category for p in found) == dict.fromkeys(CATEGORIES, 30)
    assert Counter(p.split for p in found) == counts
    check_splits(found, counts)
    assert len({p.id for p in found}) == len({p.prompt for p in found}) == 300
    for split, count in counts.items():
        each = Counter(p.category for p in found if p.split == split)
        assert set(each.values()) == {count // 10}


def test_the_seed_decides() -> None:
    one, same, other = (ReasoningGymPrompts(**FEW).read(COUNTS, seed) for seed in (0, 0, 1))
    assert one == same
    assert not {p.prompt for p in one} & {p.prompt for p in other}


def test_asking_for_more_leaves_what_was_there() -> None:
    few = ReasoningGymPrompts(**FEW).read(COUNTS, 0)
    more = ReasoningGymPrompts(**FEW).read({"extract": 60, "choose": 40, "test": 21}, 0)
    for split, count in COUNTS.items():
        assert [p for p in more if p.split == split][:count] == [p for p in few if p.split == split]
    texts = {split: {p.prompt for p in more if p.split == split} for split in COUNTS}
    assert not texts["extract"] & texts["choose"] | texts["choose"] & texts["test"] | texts["extract"] & texts["test"]


def test_answers_are_scored_by_their_family() -> None:
    source = ReasoningGymPrompts()
    for prompt in source.read({"test": 60}, 3):
        assert prompt.answer
        assert source.correct(prompt, f" First <answer>no</answer>, then <answer> {prompt.answer} </answer>.") == 1.0
        assert source.correct(prompt, "<answer>banana</answer>") <= 0.01
        assert source.correct(prompt, "") == 0.0


def test_a_prompt_scored_by_other_options() -> None:
    easy = ReasoningGymPrompts(**FEW, options={"knights_knaves": {"n_people": 2}})
    hard = ReasoningGymPrompts(**FEW, options={"knights_knaves": {"n_people": 4}})
    prompt = easy.read({"test": 1}, 0)[0]
    assert prompt.id.startswith("knights_knaves-0-")
    with pytest.raises(SteerkitError, match="makes another question of this id now"):
        hard.correct(prompt, "x")
    with pytest.raises(SteerkitError, match="prompt 'p00001' is none of reasoning-gym's"):
        easy.correct(Prompt(id="p00001", prompt="x"), "x")


def test_the_instruction_can_be_left_out() -> None:
    prompt = ReasoningGymPrompts(**FEW, instruction="").read({"test": 1}, 0)[0]
    assert "<answer>" not in prompt.prompt
    assert "<answer>" in ReasoningGymPrompts(**FEW).read({"test": 1}, 0)[0].prompt


def test_every_wrong_name_is_told() -> None:
    source = ReasoningGymPrompts(
        categories={"a": ["knight_knaves", "dice"], "b": [], "c": ["dice"]}, options={"coin_flip": {}}
    )
    with pytest.raises(InputError) as caught:
        source.read({"test": 3}, 0)
    assert [str(p) for p in caught.value.problems] == [
        "categories.a: reasoning-gym has no family 'knight_knaves'; did you mean 'knights_knaves'?",
        "categories.b: names no family",
        "categories.c: dice stands in a too",
        "options: no category has the family 'coin_flip'; choose from dice, knight_knaves",
    ]


@pytest.mark.parametrize("options", [{"min_trials": 5, "max_trials": 3}, {"min_trails": 5}])
def test_settings_that_a_family_refuses(options: dict[str, int]) -> None:
    source = ReasoningGymPrompts(categories={"chance": ["coin_flip"]}, options={"coin_flip": options})
    with pytest.raises(SteerkitError, match=r"reasoning-gym's coin_flip with \{'min_tr.*\}: \S"):
        source.read({"test": 1}, 0)


def test_a_family_with_too_few_questions() -> None:
    source = ReasoningGymPrompts(
        categories={"chance": ["coin_flip"]}, options={"coin_flip": {"min_trials": 3, "max_trials": 3}}
    )
    with pytest.raises(
        SteerkitError, match=r"coin_flip gave too few different questions in 800 tries \(test \d+ of 20"
    ):
        source.read({"test": 20}, 0)


def test_without_the_package_the_command_is_named() -> None:
    code = (
        "import sys\nsys.modules['reasoning_gym'] = None\nfrom steerkit import SteerkitError, get\n"
        "try: get('prompts', 'reasoning-gym')().read({'test': 1}, 0)\nexcept SteerkitError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ("the prompt source reasoning-gym needs a package: pip install 'reasoning-gym>=0.1.24'\n")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>1</answer> no, <answer>\n2 </answer>!", "2"),
        (r"So $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{3} <answer>4</answer>", "4"),
        ("  forty two\n", "forty two"),
        ("", ""),
    ],
)
def test_final_answers(text: str, answer: str) -> None:
    assert final_answer(text) == answer


def test_tags_are_paired_from_the_left_in_one_go() -> None:
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choice(["<answer>", "</answer>", " a ", "b"]) for _ in range(draw.randint(0, 9)))
        found = re.findall(r"<answer>(.*?)</answer>", text)
        assert final_answer(text) == (found[-1] if found else text).strip()
    assert final_answer("<answer>" * 100_000) == "<answer>" * 100_000  # minutes, by that pattern
