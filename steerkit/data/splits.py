"""Prompts dealt to disjoint splits: what is chosen on one must not be claimed on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from steerkit.data.chats import Message, identity, messages_of
from steerkit.data.trace import Prompt
from steerkit.errors import SteerkitError
from steerkit.stats.noise import key_of

SPLITS = ("extract", "choose", "test")


def assign_splits(prompts: Sequence[Prompt], counts: Mapping[str, int], seed: int) -> list[Prompt]:
    """Deal a list of prompts to the splits: those with a `split` of their own as they say, others by a seeded hash.

    Raises:
        SteerkitError: there are too few, or one prompt stands in two splits.
    """
    unknown = sorted({p.split for p in prompts} - {"", *SPLITS, *counts})
    if unknown:
        raise SteerkitError(f"prompts have the split {unknown[0]!r}; splits are {', '.join(counts)}")
    order = sorted((p for p in prompts if not p.split), key=lambda p: key_of(seed, identity(p.prompt)))
    found: list[Prompt] = []
    for split in counts:
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
