"""Adapters without some features, or with these alone: a step that writes them, and their names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerkit.context import Run
from steerkit.models.adapters import CONFIG
from steerkit.parts import Step
from steerkit.training.derived import FOLDER, Derived
from steerkit.training.settings import Training
from steerkit_plugins.transcoder.arms import Diffing
from steerkit_plugins.transcoder.hesitation_config import (
    BIASES,
    MATCHED,
    NEGATED,
    ONLY,
    RANDOM,
    WITHOUT,
    config_of,
    models_looked_at,
)
from steerkit_plugins.transcoder.variants import write_variant

VARIANTS = "transcoder-variants"
"""The step."""


@dataclass(frozen=True)
class Variant:
    """A model that is made of a trained adapter.

    Attributes:
        kind, way: as of the experiment's settings; no way for `biases`.
        model, seed: the trained adapter and its training seed.
        draw: of matched and random features.
    """

    kind: str
    way: str
    model: str
    seed: int
    draw: int | None = None

    @property
    def name(self) -> str:
        """What conditions call it."""
        more = [part for part in (self.way, "" if self.draw is None else str(self.draw)) if part]
        return ".".join([self.model, self.kind, *more])

    @property
    def arm(self) -> str:
        """What variants of other seeds and draws have in common."""
        return arm_of(self.kind, self.way)


def arm_of(kind: str, way: str) -> str:
    """Label of the conditions of a kind."""
    return f"{kind} ({way})" if way else kind


def variants_of(run: Run) -> list[Variant]:
    """All that the experiment `hesitation` asks for, seed by seed."""
    pairs = zip(models_looked_at(run), run.use(Training).training_seeds, strict=True)
    return [variant for model, seed in pairs for variant in _of_model(run, model, seed)]


def _of_model(run: Run, model: str, seed: int) -> Iterator[Variant]:
    c = config_of(run)
    for kind in c.kinds:
        for way in ("",) if kind == BIASES else c.chosen_by:
            for draw in range(c.draws) if kind in (MATCHED, RANDOM) else (None,):
                yield Variant(kind, way, model, seed, draw)


def derived_of(run: Run) -> list[Derived]:
    """The same as models of the run: on the hybrid, those with `negated` features on the target."""
    c = config_of(run)
    return [Derived(v.name, c.target if v.kind == NEGATED else c.hybrid, VARIANTS) for v in variants_of(run)]


class TranscoderVariants(Step):
    """``derived/NAME/``: adapters without some features, or with these alone, that conditions name."""

    uses = (Training, Diffing)

    def needs(self, run: Run) -> Sequence[str]:
        return ("hesitation-features", "training")

    def depends(self, run: Run, *needs: Any) -> Any:
        return [[variant.name for variant in variants_of(run)], config_of(run).negated_scale]

    def make(self, run: Run, chosen: Mapping[str, Any], trained: Any) -> list[str]:
        variants = variants_of(run)
        for number, variant in enumerate(variants):
            source = run.folder / f"trained/{variant.model}"
            how = _how(variant, chosen[variant.model])
            if variant.kind == NEGATED:
                told = json.loads((source / CONFIG).read_text(encoding="utf-8"))
                how["scale"] = config_of(run).negated_scale * float(told["scale"])
            write_variant(source, run.folder / f"{FOLDER}/{variant.name}", **how)
            run.progress(number + 1, len(variants))
        return [variant.name for variant in variants]

    def save(self, run: Run, value: list[str]) -> Sequence[str]:
        folders = [run.folder / f"{FOLDER}/{name}" for name in value]
        return [str(path.relative_to(run.folder.path)) for folder in folders for path in sorted(folder.iterdir())]

    def load(self, run: Run) -> list[str]:
        return [variant.name for variant in variants_of(run)]


def _how(variant: Variant, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What `write_variant` is told."""
    if variant.kind == BIASES:
        return {"only": {}}
    own = chosen["ways"][variant.way]
    sets = {MATCHED: own["matched"], RANDOM: own["random"]}
    which = own["chosen"] if variant.draw is None else sets[variant.kind][variant.draw]
    features = dict(zip(chosen["layers"], which, strict=True))
    if variant.kind in (WITHOUT, MATCHED, RANDOM):
        return {"off": features}
    return {"only": features, "biases": variant.kind == ONLY}
