"""Prompts of any number from reasoning-gym's generators, by category, with answers that can be checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from pydantic import Field

from steerkit.data.splits import SPLITS
from steerkit.data.trace import Prompt
from steerkit.errors import InputError, Problem, SteerkitError, nearest
from steerkit.interfaces import Config, PromptSource
from steerkit.models.extras import need
from steerkit.stats.noise import key_of
from steerkit_plugins.prompts.final_answer import final_answer

PACKAGE = "reasoning-gym>=0.1.24"
TRIES = 40  # draws a wanted prompt, before a family counts as exhausted
SHARES = (0, 0, 1, 2)  # quarters of all questions: two to extract on, one each to choose and to test on

CATEGORIES = {
    "mathematical-logic": ("knights_knaves", "circuit_logic", "self_reference"),
    "spatial": ("color_cube_rotation", "shortest_path", "largest_island"),
    "verbal-logic": ("syllogism", "family_relationships", "aiw"),
    "pattern": ("number_sequence", "list_functions", "arc_1d"),
    "puzzles": ("jugs", "countdown", "cryptarithm"),
    "causal": ("acre",),
    "probabilistic": ("coin_flip", "dice"),
    "systems": ("rotten_oranges", "course_schedule", "quantum_lock"),
    "algorithms": ("string_manipulation", "ab", "number_sorting"),
    "quantitative": ("gsm_symbolic", "time_intervals", "simple_geometry"),
}
"""Category → families of reasoning-gym: our grouping, near the paper's ten categories but not its prompts."""


class ReasoningGymConfig(Config):
    categories: dict[str, tuple[str, ...]] = Field(default=CATEGORIES, min_length=1)
    """Category → names of reasoning-gym's families; each category gets as many prompts, each family in it too."""
    options: dict[str, dict[str, Any]] = Field(default={})
    """Family → its own settings (sizes, difficulty), as reasoning-gym calls them."""
    instruction: str = "Write your final answer between <answer> and </answer>."
    """Text after each question; tells how to give an answer that can be found. Empty leaves it out."""


class ReasoningGymPrompts(PromptSource):
    """Questions that reasoning-gym generates from the seed.

    Which split a question may be used in is a matter of its text alone, so the splits share none, and asking for more
    prompts leaves those that were there as they are.
    """

    Config = ReasoningGymConfig

    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        """Raises: SteerkitError when reasoning-gym is missing, a family is unknown or has too few questions."""
        self._check()
        rows = list(self.config.categories.items())
        places: dict[str, list[tuple[str, str]]] = {}  # split → (category, family) of each prompt, in turn
        for split, count in counts.items():
            turns = [rows[i % len(rows)] for i in range(count)]
            places[split] = [
                (name, families[i // len(rows) % len(families)]) for i, (name, families) in enumerate(turns)
            ]
        families = {family: name for name, row in rows for family in row}
        drawn = {
            family: self._draw(family, category, seed, {s: places[s].count((category, family)) for s in places})
            for family, category in families.items()
        }
        return [drawn[family][split].pop(0) for split in places for _, family in places[split]]

    def correct(self, prompt: Prompt, answer: str) -> float:
        """The family's own score of the answer, in [0, 1]; some give part marks.

        Raises:
            SteerkitError: the prompt is not what its id says: other options, or another version of reasoning-gym.
        """
        family, _, rest = prompt.id.partition("-")
        numbers = re.fullmatch(r"(\d+)-(\d+)", rest)
        if numbers is None:
            raise SteerkitError(f"prompt {prompt.id!r} is none of reasoning-gym's: ids are FAMILY-SEED-NUMBER")
        dataset, entry = self._entry(family, int(numbers[1]), int(numbers[2]))
        if self._text(entry) != prompt.prompt:
            raise SteerkitError(
                f"prompt {prompt.id!r}: reasoning-gym makes another question of this id now; score it with the options "
                "and the version that it was made with"
            )
        return float(dataset.score_answer(final_answer(answer), entry)) if answer.strip() else 0.0

    def _check(self) -> None:
        """All that is wrong with the names, at once."""
        known = list(need("reasoning_gym.factory", PACKAGE, "the prompt source reasoning-gym").DATASETS)
        problems, home = [], dict[str, str]()
        for category, families in self.config.categories.items():
            if not families:
                problems.append(Problem(f"categories.{category}", "names no family"))
            for family in families:
                if family not in known:
                    message = f"reasoning-gym has no family {family!r}"
                    problems.append(Problem(f"categories.{category}", message, nearest(family, known)))
                if family in home:
                    problems.append(Problem(f"categories.{category}", f"{family} stands in {home[family]} too"))
                home[family] = category
        for family in self.config.options:
            if family not in home:
                problems.append(
                    Problem("options", f"no category has the family {family!r}", nearest(family, list(home)))
                )
        if problems:
            raise InputError("prompt source reasoning-gym", problems)

    def _draw(self, family: str, category: str, seed: int, wanted: Mapping[str, int]) -> dict[str, list[Prompt]]:
        """`wanted[split]` different questions of a family for each split."""
        found: dict[str, list[Prompt]] = {split: [] for split in wanted}
        seen: set[str] = set()
        limit = TRIES * sum(wanted.values())
        number = 0
        while any(len(found[split]) < n for split, n in wanted.items()):
            if number == limit:
                have = ", ".join(f"{split} {len(found[split])} of {n}" for split, n in wanted.items())
                raise SteerkitError(
                    f"reasoning-gym's {family} gave too few different questions in {limit} tries ({have}); name more "
                    f"families under categories.{category}, or set its sizes under options.{family}"
                )
            _, entry = self._entry(family, seed, number)
            text = self._text(entry)
            split = split_of(text)
            if text not in seen and len(found.get(split, ())) < wanted.get(split, 0):
                answer = "" if entry["answer"] is None else str(entry["answer"])
                prompt_id = f"{family}-{seed}-{number}"
                found[split].append(Prompt(id=prompt_id, prompt=text, category=category, answer=answer, split=split))
            seen.add(text)
            number += 1
        return found

    def _entry(self, family: str, seed: int, number: int) -> tuple[Any, dict[str, Any]]:
        """A family's generator for one question, and the question. Its seed is a hash: the package's own are seed + i,
        which would give neighbouring seeds the same questions."""
        package = need("reasoning_gym", PACKAGE, "the prompt source reasoning-gym")
        options = self.config.options.get(family, {})
        try:
            key = key_of(seed, family, number) % 2**31
            dataset = package.create_dataset(family, **{**options, "seed": key, "size": 1})
            return dataset, dataset[0]
        except (TypeError, ValueError, AssertionError) as error:
            raise SteerkitError(f"reasoning-gym's {family} with {options or 'its defaults'}: {error}") from error

    def _text(self, entry: Mapping[str, Any]) -> str:
        return f"{entry['question']}\n\n{self.config.instruction}".strip()


def split_of(text: str) -> str:
    """The only split that a question may be in."""
    return SPLITS[SHARES[sha256(text.encode()).digest()[0] % len(SHARES)]]
