"""The two small contracts beside the four: where models (`source:name`) and prompts come from."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from steerkit.data.chats import Message, identity, messages_of
from steerkit.data.trace import Prompt
from steerkit.errors import SteerkitError
from steerkit.interfaces import Plugin
from steerkit.stats.noise import key_of

SPLITS = ("extract", "choose", "test")


class ModelSource(Plugin):
    """Gives `prefix:name` a meaning wherever a model may be named."""

    @abstractmethod
    def path(self, name: str) -> Path:
        """Folder of a transformers model. Raises SteerkitError when there is no such model."""


class PromptSource(Plugin):
    """Where prompts come from."""

    @abstractmethod
    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        """`counts[split]` prompts a split, `Prompt.split` set. `assign_splits` does it for a finite list."""

    def correct(self, prompt: Prompt, answer: str) -> float | None:
        """How right an answer to one of this source's prompts is.

        Args:
            prompt: as `read` gave it, maybe in another process.
            answer: what the model wrote after the end of its reasoning, marker left out; empty when it got no further.

        Returns:
            From 0 (wrong) to 1 (right); None when this source can't tell, as here.
        """
        return None


def checks_answers(source: PromptSource | type[PromptSource] | None) -> bool:
    """Whether a prompt source can say that an answer is right."""
    cls = source if isinstance(source, type) or source is None else type(source)
    return cls is not None and cls.correct is not PromptSource.correct


def assign_splits(prompts: Sequence[Prompt], counts: Mapping[str, int], seed: int) -> list[Prompt]:
    """Deal a list of prompts to the splits: those with a `split` of their own as they say, others by a seeded hash.

    Raises:
        SteerkitError: there are too few, or one prompt stands in two splits.
    """
    unknown = sorted({p.split for p in prompts} - {"", *SPLITS})
    if unknown:
        raise SteerkitError(f"prompts have the split {unknown[0]!r}; splits are {', '.join(SPLITS)}")
    order = sorted((p for p in prompts if not p.split), key=lambda p: key_of(seed, identity(p.prompt)))
    found: list[Prompt] = []
    for split in SPLITS:
        own = [p for p in prompts if p.split == split][: counts[split]]
        missing = counts[split] - len(own)
        found += own + [replace(p, split=split) for p in order[:missing]]
        order = order[missing:]
    check_splits(found, counts, len(prompts))
    return found


def check_splits(prompts: Sequence[Prompt], counts: Mapping[str, int], available: int | None = None) -> None:
    """Enough prompts a split, no id twice, no text in two splits.

    Raises:
        SteerkitError: which of these does not hold, and for which prompts.
    """
    have = Counter(p.split for p in prompts)
    short = [f"{split} {have[split]} of {n}" for split, n in counts.items() if have[split] < n]
    if short:
        total = f" of {available} prompts" if available is not None else ""
        raise SteerkitError(
            f"too few prompts{total}: {', '.join(short)}; give more, or ask for fewer (prompts.extract, .choose, .test)"
        )
    twice = [name for name, n in Counter(p.id for p in prompts).items() if n > 1]
    if twice:
        raise SteerkitError(f"prompt id {twice[0]!r} stands twice; ids must differ")
    home: dict[tuple[Message, ...], Prompt] = {}
    for prompt in prompts:
        other = home.setdefault(messages_of(prompt.prompt), prompt)
        if other.split != prompt.split:
            raise SteerkitError(
                f"prompts {other.id!r} ({other.split}) and {prompt.id!r} ({prompt.split}) have the same text: what is "
                "chosen on one split must not be claimed on it"
            )
