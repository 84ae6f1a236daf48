"""Prompts that a language model writes, so many a category, as in arXiv 2507.12638."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from steerkit.data.splits import assign_splits
from steerkit.data.trace import Prompt
from steerkit.errors import SteerkitError
from steerkit.interfaces import PromptSource
from steerkit_plugins.llm.completion import Answer
from steerkit_plugins.llm.failures import Failure, lost, unusable
from steerkit_plugins.llm.kept import KeepsAnswers
from steerkit_plugins.llm.notes import notes_of
from steerkit_plugins.llm.options import LLMConfig

TASK = """\
You write questions that make someone reason step by step. Each one stands for itself, gives all that is needed to \
answer it, has one to four sentences on one line, and comes without its answer or a hint. Vary subject, length and \
difficulty; no two may be the same question in other words. Answer with a JSON list of strings and nothing else."""

ASK = "Write {count} questions of the kind: {category}. (Set {number}.)"
BEFORE = "\nThese are there already; write others:\n{prompts}"

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
ITEM = re.compile(r"(?:\d+[.):]|[-*•])\s+(\S.*)")


class LLMPromptsConfig(LLMConfig):
    categories: tuple[str, ...] = Field(
        default=(
            "mathematical logic",
            "spatial reasoning",
            "verbal logic",
            "pattern recognition",
            "lateral thinking",
            "causal reasoning",
            "probabilistic reasoning",
            "systems thinking",
            "creative problem solving",
            "scientific reasoning",
        ),
        min_length=1,
    )
    """Kinds of question, in words; the paper's ten when left out."""
    per_category: int = Field(default=30, ge=1)
    """Prompts of each category."""
    per_request: int = Field(default=10, ge=1)
    """Prompts asked for at once."""
    spare_requests: int = Field(default=3, ge=0)
    """Further requests a category, where answers held fewer prompts or ones that were there already."""
    temperature: float | None = Field(default=1.0, ge=0)
    """Of the sampling; null sends none."""


class LLMPrompts(KeepsAnswers, PromptSource):
    """Asks until every category has its prompts, each text once, and deals them to the splits by the seed."""

    Config = LLMPromptsConfig

    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        """Raises: SteerkitError when requests fail, or categories stay short; what was answered is kept."""
        found = self._write()
        prompts = [
            Prompt(id=f"{category.replace(' ', '-')}-{number:03d}", prompt=text, category=category)
            for category, texts in found.items()
            for number, text in enumerate(texts)
        ]
        return assign_splits(prompts, counts, seed)

    def _write(self) -> dict[str, list[str]]:
        c, asked_before = self.config, self._client.asked
        found: dict[str, list[str]] = {category: [] for category in c.categories}
        seen: set[str] = set()
        answers: list[Answer] = []
        useless: list[Failure] = []
        duplicates = 0
        for number in range(1, -(-c.per_category // c.per_request) + c.spare_requests + 1):
            short = [category for category, texts in found.items() if len(texts) < c.per_category]
            if not short:
                break
            outcomes = self._client.ask({k: self._request(k, found[k], number) for k in short}, batch=c.batch)
            self._check(o for o in outcomes.values() if isinstance(o, Failure))
            for category, outcome in outcomes.items():
                if not isinstance(outcome, Answer):
                    continue
                answers.append(outcome)
                useless += filter(None, [unusable(outcome)])
                for text in prompts_of(outcome.said):
                    same = "".join(ch for ch in text.casefold() if ch.isalnum())
                    duplicates += same in seen
                    if same not in seen and len(found[category]) < c.per_category:
                        found[category].append(text)
                        seen.add(same)
        self._notes = {
            "duplicate_prompts": duplicates,
            "unusable_answers": dict(Counter(failure.kind for failure in useless)),
            **notes_of(self._client, answers, self._client.asked - asked_before),
        }
        if lacking := [f"{k} {len(v)} of {c.per_category}" for k, v in found.items() if len(v) < c.per_category]:
            why = Counter(f"{f.kind} ({f.message})" if f.message else f.kind for f in useless)
            counted = ", ".join(f"{n} × {reason}" for reason, n in why.most_common())
            raise SteerkitError(
                f"{c.model} wrote too few different prompts: {', '.join(lacking)}; raise spare_requests, lower "
                "per_category, or take another model or seed (what was answered is kept)"
                + (f". Answers without any prompt: {counted}; max_tokens is how long one may be" if useless else "")
            )
        return found

    def _request(self, category: str, before: list[str], number: int) -> dict[str, Any]:
        count = min(self.config.per_request, self.config.per_category - len(before))
        ask = ASK.format(count=count, category=category, number=number)
        if before:
            ask += BEFORE.format(prompts="\n".join(f"- {text}" for text in before))
        return self.config.request([{"role": "system", "content": TASK}, {"role": "user", "content": ask}])

    def _check(self, failures: Iterable[Failure]) -> None:
        if found := list(failures):
            raise lost(self.config, f"{len(found)} requests for prompts have no answer", found)


def prompts_of(content: str) -> list[str]:
    """The prompts of an answer: a JSON list, also in prose or cut off, or numbered or bulleted lines."""
    start, end = content.find("["), content.rfind("]")
    values = _json(content[start : end + 1])
    if not isinstance(values, list):
        values = [_json(text) for text in STRING.findall(content[start:])] if start >= 0 else []
    if not values:
        values = [found[1] for line in content.splitlines() if (found := ITEM.match(line.strip()))]
    return [" ".join(value.split()) for value in values if isinstance(value, str) and len(value.split()) > 2]


def _json(text: str) -> Any:
    """A JSON value; None where a text is none."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
