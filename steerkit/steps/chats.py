"""Prompts through the chat template: all of them once before anything is generated, with what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.data.trace import Prompt

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer


def chats(trainer: SteeringTrainer, prompts: Sequence[Prompt]) -> None:
    """Log what happens to the prompts on the way to the model, where there is something to say.

    Raises:
        InputError: every prompt that the chat template refuses.
    """
    notes = trainer.chats.check(prompts)

    def make(key: str) -> tuple[None, list[str]]:
        trainer.log(chats=notes)
        return None, []

    if notes:
        trainer.stage("chats", [trainer.keys["prompts"], trainer.chats.settings()], make, lambda: None)
