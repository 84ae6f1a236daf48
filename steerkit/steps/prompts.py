"""Prompts: drawn from their source, dealt to three disjoint splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.data.rows import as_prompts
from steerkit.data.trace import Prompt, read_rows, write_rows
from steerkit.models.limits import check_ids, check_lengths
from steerkit.provenance import prompt_settings
from steerkit.sources import assign_splits, check_splits

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer

FILE = "prompts.jsonl"


def prompts(trainer: SteeringTrainer) -> list[Prompt]:
    """All prompts of the run, `split` set."""
    path = trainer.folder / FILE

    def make(key: str) -> tuple[list[Prompt], list[str]]:
        source = trainer.source
        if source is not None:
            source.open(trainer.folder / f"sources/{source.name}", trainer.progress)
            found = as_prompts(source.read(trainer.counts, trainer.args.seed))  # a plugin's may be anything
            check_splits(found, trainer.counts)
            if notes := source.notes():
                trainer.log(prompts=len(found), **notes)
        else:
            found = assign_splits(trainer.given, trainer.counts, trainer.args.seed)
        write_rows(path, found)
        return found, [FILE]

    inputs = [prompt_settings(trainer), trainer.identities.get("prompts"), trainer.args.seed]
    read = trainer.stage("prompts", inputs, make, lambda: read_rows(path, Prompt))
    _check_limits(trainer, read)
    return read


def _check_limits(trainer: SteeringTrainer, prompts: list[Prompt]) -> None:
    """Raises: SteerkitError when a model has too few ids or positions for the prompts and what it writes on them."""
    args, pair = trainer.args, trainer.pair
    answered = [prompt for prompt in prompts if prompt.split != "extract" or not args.traces]
    if not answered:
        return
    own = [trainer.chats.ids(prompt.prompt) for prompt in answered]
    longest = max(range(len(own)), key=lambda number: len(own[number]))
    what = f"prompt {answered[longest].id!r} with max_new_tokens"
    for role in ("reasoning", "base"):
        check_ids(pair[role], [pair.ids_for(role, ids) for ids in own])
        check_lengths(pair[role], len(own[longest]) + args.max_new_tokens - 1, what)
