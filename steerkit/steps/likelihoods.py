"""How likely the unsteered model finds each generation: broken text is improbable text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from steerkit.context import Run
from steerkit.data.chats import instructed
from steerkit.data.generated import Generation
from steerkit.data.trace import Prompt
from steerkit.generation.likelihood import ScoredText, log_likelihoods
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.settings import Chatting
from steerkit.steps.generations import conditions_of, needs_of_split
from steerkit.store.files import read_whole_lines, write_jsonl

TEXTS = 512  # of a piece

Likelihoods = dict[tuple[str, str, str, int], float]
"""`Generation.name` → log-likelihood in nats."""


@dataclass(frozen=True)
class LikelihoodPiece:
    """Texts of one model."""

    model: str
    texts: tuple[ScoredText, ...]

    def __len__(self) -> int:
        return len(self.texts)


class TextLikelihoods(Step):
    """``likelihoods/SPLIT.jsonl``: each generation's log-likelihood under its own model without steering."""

    uses = (Chatting,)

    def needs(self, run: Run) -> Sequence[str]:
        return (*self.follows(run), *needs_of_split(run, self.of))

    def follows(self, run: Run) -> Sequence[str]:
        return ("prompts", f"generations.{self.of}")  # the others only say which conditions there are

    def models(self, run: Run) -> Sequence[str]:
        return tuple(run.models)

    def _texts(
        self, run: Run, prompts: list[Prompt], rows: list[Generation], needs: Sequence[Any]
    ) -> dict[str, list[tuple[Generation, ScoredText]]]:
        """Model → its texts with the ids that it reads; empty texts are left out."""
        by_id = {prompt.id: prompt.prompt for prompt in prompts}
        wanted = conditions_of(run, self.of, dict(zip(needs_of_split(run, self.of), needs, strict=True)))
        formatted: dict[tuple[str, str, str], list[int]] = {}
        found: dict[str, list[tuple[Generation, ScoredText]]] = {}
        for row in rows:
            condition = wanted[row.condition]
            place = condition.system, condition.prefix, row.prompt_id
            if place not in formatted:
                formatted[place] = run.chats.ids(instructed(by_id[row.prompt_id], *place[:2]))
            if row.ids:
                before, own = (run.models.ids_for(condition.model, ids) for ids in (formatted[place], row.ids))
                found.setdefault(condition.model, []).append((row, ScoredText(before, own)))
        return {name: found[name] for name in (*run.models, *run.models.trained) if name in found}

    def pieces(self, run: Run, prompts: list[Prompt], rows: list[Generation], *needs: Any) -> list[LikelihoodPiece]:
        return [
            LikelihoodPiece(model, tuple(text for _, text in own[i : i + TEXTS]))
            for model, own in self._texts(run, prompts, rows, needs).items()
            for i in range(0, len(own), TEXTS)
        ]

    def work(self, models: Models, piece: LikelihoodPiece) -> list[float]:
        found = [0.0] * len(piece)
        done = 0
        for places, values in log_likelihoods(models[piece.model], piece.texts):
            for place, value in zip(places, values, strict=True):
                found[place] = value
            done += len(places)
            models.progress(done)
        return found

    def join(
        self, run: Run, results: Iterable[list[float]], prompts: list[Prompt], rows: list[Generation], *needs: Any
    ) -> Likelihoods:
        texts = [row for own in self._texts(run, prompts, rows, needs).values() for row, _ in own]
        values = [value for each in results for value in each]
        return {row.name: value for row, value in zip(texts, values, strict=True)}

    def save(self, run: Run, value: Likelihoods) -> Sequence[str]:
        rows = ({"name": list(name), "log_likelihood": likelihood} for name, likelihood in value.items())
        write_jsonl(run.folder / self._file, rows)
        return [self._file]

    def load(self, run: Run) -> Likelihoods:
        rows = read_whole_lines(run.folder / self._file)
        return {tuple(row["name"]): row["log_likelihood"] for row in rows}

    @property
    def _file(self) -> str:
        return f"likelihoods/{self.of}.jsonl"
