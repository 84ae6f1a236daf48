"""Gradients on the training rows before training, in each setting of a defence: a step of many small passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit.artifacts import Placed
from steerkit.context import Run
from steerkit.data.chats import instructed
from steerkit.data.gradient_statistics import GradientStatistics
from steerkit.data.site import Site
from steerkit.data.trace import Prompt
from steerkit.extraction.gradient_rows import GradientRow
from steerkit.extraction.gradients import gradients
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.settings import Chatting, Steering
from steerkit.steps.generations import edits_of
from steerkit.steps.training_rows import dealt
from steerkit.steps.vectors import Vectors
from steerkit.training.masks import encode_rows
from steerkit.training.rows import TrainingRow
from steerkit.training.settings import Training
from steerkit_plugins.preventative.arms import NONE

MECHANISM = "gradient-mechanism"
"""The experiment whose settings these are."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is done while gradients are read: interventions, an instruction, or nothing."""

    name: str
    interventions: tuple[Placed, ...] = ()
    system: str = ""
    prefix: str = ""

    def to_json(self) -> Any:
        """JSON of it."""
        return [self.name, [placed.to_json() for placed in self.interventions], self.system, self.prefix]


@dataclass(frozen=True)
class GradientPiece:
    """Rows of one setting.

    Attributes:
        against: the same responses with nothing done, where differences of gradients are read.
        sites: where; all block outputs for None.
    """

    model: str
    rows: tuple[GradientRow, ...]
    against: tuple[GradientRow, ...] | None
    sites: tuple[Site, ...] | None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Gradients:
    """What was read.

    Attributes:
        all_blocks: setting → a group of rows each: gradients at every block's output.
        moments: setting → a group of rows each, at the steered block: with second moments, of the gradients for
            the setting without a defence, and of their differences from these for the others.
    """

    all_blocks: Mapping[str, Sequence[GradientStatistics]]
    moments: Mapping[str, Sequence[GradientStatistics]]


class TrainingGradients(Step):
    """``gradients/``: gradients of the loss on the training rows, in each setting of the experiment
    gradient-mechanism, before anything is trained."""

    uses = (Training, Chatting, Steering)

    def needs(self, run: Run) -> Sequence[str]:
        return ("rows", "vectors")

    def models(self, run: Run) -> Sequence[str]:
        return (self._experiment(run).model_of(run),)

    def _experiment(self, run: Run) -> Any:
        return run.experiment(MECHANISM)

    def depends(self, run: Run, prompts: list[Prompt], vectors: Vectors) -> Any:
        own = self._experiment(run)
        return [[setting.to_json() for setting in own.settings(run)], own.config.rows, own.config.groups]

    def pieces(self, run: Run, prompts: list[Prompt], vectors: Vectors) -> list[GradientPiece]:
        own, site = self._experiment(run), Site(run.use(Steering).layer)
        name, groups = own.model_of(run), own.config.groups
        by_setting = self._rows(run, prompts, vectors)
        found = []
        for rows in by_setting.values():
            found += [GradientPiece(name, rows[i::groups], None, None) for i in range(groups)]
        for setting, rows in by_setting.items():
            plain = None if setting == NONE else by_setting[NONE]
            found += [
                GradientPiece(name, rows[i::groups], plain[i::groups] if plain else None, (site,))
                for i in range(groups)
            ]
        return found

    def _rows(self, run: Run, prompts: list[Prompt], vectors: Vectors) -> dict[str, tuple[GradientRow, ...]]:
        """Setting → the rows as the model reads them."""
        own, built = self._experiment(run), dict[str, Any]()
        rows = dealt(prompts).train[: own.config.rows]
        found = {}
        for setting in own.settings(run):
            edits = tuple(edits_of(setting.interventions, vectors, built))
            told = [
                TrainingRow(row.id, instructed(row.prompt, setting.system, setting.prefix), row.response)
                for row in rows
            ]
            encoded = encode_rows(told, run.chats, **run.use(Training).encoding)
            found[setting.name] = tuple(GradientRow(r.ids, r.prompt_length, edits, r.id) for r in encoded)
        return found

    def work(self, models: Models, piece: GradientPiece) -> GradientStatistics:
        moments = None if piece.sites is None else "response"
        return gradients(
            models[piece.model],
            piece.rows,
            against=piece.against,
            sites=piece.sites,
            moments=moments,  # type: ignore[arg-type]
            on_batch=lambda done, total: models.progress(len(piece) * done // total),
        )

    def keep(self, path: Path, result: GradientStatistics) -> None:
        result.save(path)

    def kept(self, path: Path) -> GradientStatistics:
        return GradientStatistics.load(path)

    def join(self, run: Run, results: Iterable[GradientStatistics], *needs: Any) -> Gradients:
        own, rest = self._experiment(run), iter(results)
        names = [setting.name for setting in own.settings(run)]
        both = [{name: [next(rest) for _ in range(own.config.groups)] for name in names} for _ in range(2)]
        return Gradients(*both)

    def save(self, run: Run, value: Gradients) -> Sequence[str]:
        files = []
        for part, by_setting in (("blocks", value.all_blocks), ("moments", value.moments)):
            for name, group in by_setting.items():
                for number, statistics in enumerate(group):
                    files.append(_file(part, name, number))
                    statistics.save(run.folder / files[-1])
        return files

    def load(self, run: Run) -> Gradients:
        own = self._experiment(run)
        names, groups = [setting.name for setting in own.settings(run)], range(own.config.groups)
        both = [
            {name: [GradientStatistics.load(run.folder / _file(part, name, n)) for n in groups] for name in names}
            for part in ("blocks", "moments")
        ]
        return Gradients(*both)


def _file(part: str, setting: str, number: int) -> str:
    return f"gradients/{part}.{setting}.{number:02}.safetensors"
