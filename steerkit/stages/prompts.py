"""Prompts: drawn from their source, dealt to three disjoint splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.provenance import prompt_settings
from steerkit.sources import assign_splits, check_splits
from steerkit.trace import Prompt, read_rows, write_rows

if TYPE_CHECKING:
    from steerkit.trainer import SteeringTrainer

FILE = "prompts.jsonl"


def prompts(trainer: SteeringTrainer) -> list[Prompt]:
    """All prompts of the run, `split` set."""
    path = trainer.folder / FILE

    def make(key: str) -> tuple[list[Prompt], list[str]]:
        source = trainer.source
        if source is not None:
            source.open(trainer.folder / f"sources/{source.name}", trainer.progress)
            found = list(source.read(trainer.counts, trainer.args.seed))
            check_splits(found, trainer.counts)
            if notes := source.notes():
                trainer.log(prompts=len(found), **notes)
        else:
            found = assign_splits(trainer.given, trainer.counts, trainer.args.seed)
        write_rows(path, found)
        return found, [FILE]

    inputs = [prompt_settings(trainer), trainer.identities.get("prompts"), trainer.args.seed]
    return trainer.stage("prompts", inputs, make, lambda: read_rows(path, Prompt))
