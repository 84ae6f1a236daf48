"""Reasoning traces to train on: rows that the reasoning model's fine-tuning is made of."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from steerkit.data.chats import Message
from steerkit.data.trace import Prompt
from steerkit.errors import InputError, nearest
from steerkit.errors import Problem as Fault
from steerkit.interfaces import PromptSource

SPLITS = ("train", "held_out")


class PocketTraces(PromptSource):
    """Problems with a trace that turns back where its author is in doubt, as `pocket:reasoning` was fine-tuned on.

    Split `train` has problems that pocket models were trained on, `held_out` others, which no split of source `pocket`
    but `extract` has.
    """

    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        """Raises: InputError for every split that there is none of."""
        from steerkit_plugins.pocket.corpus import trace_of
        from steerkit_plugins.pocket.instructed import split_of
        from steerkit_plugins.pocket.prompts import distinct, row
        from steerkit_plugins.pocket.prompts import split_of as split_of_all

        if unknown := [Fault(f"split {s!r}", "there is none", nearest(s, SPLITS)) for s in counts if s not in SPLITS]:
            raise InputError("prompt source pocket-traces", unknown)
        found = []
        for split, n in counts.items():
            dealt = distinct(n, seed, split, split_of_all if split == "train" else split_of)
            for number, p in enumerate(dealt):
                told = trace_of(p, Random(f"{seed}-{p.question}"))
                chat = (Message("user", told.given), Message("assistant", told.learned))
                found.append(Prompt(split=split, **{**row(p, number, seed, split), "prompt": chat}))
        return found
