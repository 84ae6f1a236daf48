"""Which tokens a feature makes more and less likely by itself: its decoder column under the unembedding. A step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steerkit.context import Run
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.training.settings import Training
from steerkit.units.parts import save_parts
from steerkit.vectors.lens import LogitLens
from steerkit_plugins.transcoder.arms import Diffing, models_of
from steerkit_plugins.transcoder.feature_config import FEATURES, config_of
from steerkit_plugins.transcoder.units import transcoder_groups

ROOM = 2**24
"""Logits held at once, in numbers."""
SHOWN = 6
"""Tokens that stand in a table."""


@dataclass(frozen=True)
class FeatureLens:
    """Of U features, the k tokens with the highest logits, and the k with the lowest.

    Attributes:
        top, bottom: [U, k] int32 token ids, the furthest from 0 first.
    """

    top: np.ndarray
    bottom: np.ndarray


@dataclass(frozen=True)
class LensPiece:
    """A model whose features are read."""

    model: str
    count: int
    final_norm: bool


class ReadLens(Step):
    """``features/MODEL.lens.safetensors``: the logit lens of all features of one arm's adapters.

    Its name is ``feature-lens.ARM``. No text is read.
    """

    uses = (Training, Diffing)

    def needs(self, run: Run) -> Sequence[str]:
        return ("training",)

    def models(self, run: Run) -> Sequence[str]:
        return (run.arms[self.of].model,)

    def depends(self, run: Run, *needs: Any) -> Any:
        c = config_of(run)
        return [self.names(run), c.lens_tokens, c.lens_norm]

    def names(self, run: Run) -> list[str]:
        """The models."""
        return models_of(run, run.arms[self.of])

    def pieces(self, run: Run, trained: Any) -> list[LensPiece]:
        c = config_of(run)
        return [LensPiece(name, c.lens_tokens, c.lens_norm) for name in self.names(run)]

    def work(self, models: Models, piece: LensPiece) -> FeatureLens:
        import torch

        lm = models[piece.model]
        lens, tops, bottoms = LogitLens(lm, (), final_norm=piece.final_norm), [], []
        for group in transcoder_groups(lm):
            for part in group.writes.split(max(1, ROOM // len(lens.texts))):
                logits = lens.logits(part)
                count = min(piece.count, logits.shape[1])
                tops.append(logits.topk(count).indices)
                bottoms.append(logits.topk(count, largest=False).indices)
        top, bottom = (torch.cat(own).int().numpy() for own in (tops, bottoms))
        return FeatureLens(top, bottom)

    def keep(self, path: Path, result: FeatureLens) -> None:
        _write(path, result)

    def kept(self, path: Path) -> FeatureLens:
        return _read(path)

    def join(self, run: Run, results: Iterable[FeatureLens], trained: Any) -> dict[str, FeatureLens]:
        return dict(zip(self.names(run), results, strict=True))

    def save(self, run: Run, value: Mapping[str, FeatureLens]) -> Sequence[str]:
        for model, own in value.items():
            _write(run.folder / _file(model), own)
        return [_file(model) for model in value]

    def load(self, run: Run) -> dict[str, FeatureLens]:
        return {name: _read(run.folder / _file(name)) for name in self.names(run)}


def _write(path: Path, lens: FeatureLens) -> None:
    save_parts(path, ({"top": lens.top, "bottom": lens.bottom}, {}))


def _read(path: Path) -> FeatureLens:
    from safetensors.numpy import load_file

    return FeatureLens(**load_file(path))


def _file(model: str) -> str:
    return f"{FEATURES}/{model}.lens.safetensors"


def in_words(texts: Sequence[str], ids: Sequence[int] | np.ndarray, count: int = SHOWN) -> str:
    """The first of some tokens in a line, blanks and line breaks made visible.

    Args:
        texts: of the vocabulary.
    """
    return " ".join(_visible(texts[int(i)]) for i in ids[:count])


def _visible(text: str) -> str:
    return text.replace("\n", "↵").replace("\t", "⇥").replace(" ", "·") or "∅"
