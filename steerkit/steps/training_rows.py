"""Rows that models are trained on, and rows whose loss is measured: read once, for all trainings of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerkit.artifacts import PluginSpec
from steerkit.context import Run
from steerkit.data.rows import as_prompts
from steerkit.data.splits import check_splits
from steerkit.data.trace import Prompt, read_rows, write_rows
from steerkit.parts import Step
from steerkit.training.rows import TrainingRow, rows_of
from steerkit.training.settings import HELD_OUT, TRAIN, Training

FILE = "rows.jsonl"


@dataclass(frozen=True)
class Rows:
    """What is learned, and what is only measured."""

    train: Sequence[TrainingRow]
    held_out: Sequence[TrainingRow]


class RowsToTrainOn(Step):
    """Rows to train on and held-out rows, in ``rows.jsonl``: chats that end in the response."""

    uses = (Training,)

    def make(self, run: Run) -> list[Prompt]:
        s = run.use(Training)
        held_out = self._read(run, s.held_out, HELD_OUT, s.held_out_rows) if s.held_out else []
        found = [*self._read(run, s.train_on, TRAIN, s.train_rows), *held_out]
        check_splits(found, {TRAIN: s.train_rows})
        rows_of(found)
        return found

    def _read(self, run: Run, spec: PluginSpec, split: str, count: int) -> list[Prompt]:
        source = run.plugin("prompts", spec)
        found = as_prompts(source.read({split: count}, run.seed))
        if notes := source.notes():
            run.log(rows=len(found), **notes)
        return found

    def save(self, run: Run, value: list[Prompt]) -> Sequence[str]:
        write_rows(run.folder / FILE, value)
        return [FILE]

    def load(self, run: Run) -> list[Prompt]:
        return read_rows(run.folder / FILE, Prompt)


def dealt(prompts: Sequence[Prompt]) -> Rows:
    """The rows of both kinds."""
    by_split = {split: rows_of(p for p in prompts if p.split == split) for split in (TRAIN, HELD_OUT)}
    return Rows(by_split[TRAIN], by_split[HELD_OUT])
