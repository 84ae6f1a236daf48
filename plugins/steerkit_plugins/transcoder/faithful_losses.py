"""Step `faithful-losses`: what models predict on the held-out rows, beside the target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerkit.context import Run
from steerkit.data.trace import Prompt
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.settings import Chatting
from steerkit.steps.training_rows import dealt
from steerkit.training.masks import IGNORED, Encoded, encode_rows
from steerkit.training.settings import Training
from steerkit.units.divergence import CountedText
from steerkit_plugins.transcoder.arms import Diffing, adapter_arms, models_of
from steerkit_plugins.transcoder.faithful_options import FaithfulnessOptions

FAITHFULNESS = "faithfulness"
"""The experiment whose settings these are."""
PARTS, BASE = "parts", "base"
"""Names of the pieces that are no adapter's."""


@dataclass(frozen=True)
class FaithfulPiece:
    """A model, and the texts.

    Attributes:
        name: `parts`, `base`, or the model of an adapter.
        texts: as the target reads them.
        theirs: as the base reads them.
    """

    name: str
    texts: tuple[CountedText, ...]
    theirs: tuple[CountedText, ...]
    options: FaithfulnessOptions

    def __len__(self) -> int:
        return len(self.texts)


class FaithfulLosses(Step):
    """``steps/faithful-losses.json``: ``counts`` [N] tokens of each held-out row, and for each model its sums in nats
    (`faithful_sums.Sums`; ``alive`` is the number of features a block that were active anywhere)."""

    uses = (Training, Chatting, Diffing)

    def needs(self, run: Run) -> Sequence[str]:
        return ("rows", "training")

    def models(self, run: Run) -> Sequence[str]:
        c = self._options(run)
        return tuple(dict.fromkeys((c.target, c.base, c.hybrid)))

    def _options(self, run: Run) -> FaithfulnessOptions:
        options: FaithfulnessOptions = run.experiment(FAITHFULNESS).config
        return options

    def _names(self, run: Run) -> list[str]:
        arms = adapter_arms(run, self._options(run))
        return [BASE, *([PARTS] if self._options(run).parts else []), *(m for arm in arms for m in models_of(run, arm))]

    def depends(self, run: Run, *needs: Any) -> Any:
        c = self._options(run)
        return [self._names(run), c.model_dump(mode="json", exclude={*c.how})]

    def pieces(self, run: Run, prompts: list[Prompt], trained: Any) -> list[FaithfulPiece]:
        c = self._options(run)
        rows = encode_rows(dealt(prompts).held_out, run.chats, **run.use(Training).encoding)
        texts, theirs = (
            tuple(_counted(row, run.models.ids_for(model, row.ids), c.tokens) for row in rows)
            for model in (c.target, c.base)
        )
        return [FaithfulPiece(name, texts, theirs, c) for name in self._names(run)]

    def work(self, models: Models, piece: FaithfulPiece) -> dict[str, Any]:
        from steerkit_plugins.transcoder.faithful_sums import adapter_sums, model_sums, part_sums

        c, tokens, told = piece.options, piece.options.batch_tokens, models.progress
        if piece.name == BASE:
            found = model_sums(models[c.base], models[c.target], piece.theirs, piece.texts, tokens, told)
        elif piece.name == PARTS:
            found = part_sums(models[c.target], models[c.base], c.parts, piece.texts, tokens, told)
        else:
            found = adapter_sums(models[piece.name], piece.texts, tokens, told)
        blocks = range(len(found.get("error", ())))
        alive = [found.pop(f"alive.{layer}", ()) for layer in blocks]  # none where a block has no transcoder
        sizes = {"alive": [int(sum(own)) for own in alive], "features": [len(own) for own in alive]}
        return {name: values.tolist() for name, values in found.items()} | sizes

    def join(self, run: Run, results: Iterable[Any], prompts: list[Prompt], trained: Any) -> Mapping[str, Any]:
        pieces = self.pieces(run, prompts, trained)
        counts = [text.count for text in pieces[0].texts]
        return {"counts": counts, "models": dict(zip(self._names(run), results, strict=True))}


def _counted(row: Encoded, ids: Sequence[int], tokens: str) -> CountedText:
    counts = [True] * len(ids) if tokens == "all" else [label != IGNORED for label in row.labels]
    return CountedText(row.id, tuple(ids), tuple(counts))
