"""Rows that models are trained on, and rows whose loss is measured: read once, for all trainings of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        train, held_out = {TRAIN: s.train_rows}, {HELD_OUT: s.held_out_rows} if s.held_out else {}
        if s.held_out == s.train_on:  # one source deals to both, so that they share no row
            found = self._read(run, s.train_on, train | held_out)
        else:
            found = self._read(run, s.train_on, train)
            found += self._read(run, s.held_out, held_out) if s.held_out else []
        check_splits(found, train | held_out)
        rows_of(found)
        return found

    def _read(self, run: Run, spec: PluginSpec, counts: dict[str, int]) -> list[Prompt]:
        """Rows of a source; two sources may have the same ids."""
        source = run.plugin("prompts", spec)
        found = as_prompts(source.read(counts, run.seed))
        if notes := source.notes():
            run.log(rows=len(found), **notes)
        return [replace(prompt, id=f"{prompt.split}/{prompt.id}") for prompt in found]

    def save(self, run: Run, value: list[Prompt]) -> Sequence[str]:
        write_rows(run.folder / FILE, value)
        return [FILE]

    def load(self, run: Run) -> list[Prompt]:
        return read_rows(run.folder / FILE, Prompt)


def dealt(prompts: Sequence[Prompt]) -> Rows:
    """The rows of both kinds."""
    by_split = {split: rows_of(p for p in prompts if p.split == split) for split in (TRAIN, HELD_OUT)}
    return Rows(by_split[TRAIN], by_split[HELD_OUT])
