"""Ablations of the adapters' units, on the run's traces or on held-out rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steerkit.context import Run
from steerkit.data.trace import Prompt, Trace
from steerkit.errors import SteerkitError
from steerkit.models.lora_units import lora_groups
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.settings import Chatting, Reading
from steerkit.steps.training_rows import dealt
from steerkit.training.masks import encode_rows
from steerkit.training.settings import Training
from steerkit.units.ablating import ablate
from steerkit.units.between import kl_between
from steerkit.units.divergence import CountedText
from steerkit_plugins.rank1_lora.ablation_options import AblationOptions
from steerkit_plugins.rank1_lora.ablation_sets import blocks, named_sets, projections, removed_in_turn
from steerkit_plugins.rank1_lora.arms import adapted

ABLATION = "ablation"
"""The experiment whose settings these are."""
TEXTS = 8  # of a piece


@dataclass(frozen=True)
class AblationPiece:
    """Texts, as a model with a LoRA reads them.

    Attributes:
        kind: `sets` (all named ones), `removal` (one after the other), `scale` (against the base and full fine-tuning).
        full: name of the fully fine-tuned model, and the same texts as it reads them.
    """

    kind: str
    model: str
    texts: tuple[CountedText, ...]
    options: AblationOptions
    batch_tokens: int
    full: str = ""
    theirs: tuple[CountedText, ...] = ()

    def __len__(self) -> int:
        return 100 * len(self.texts)


class Ablations(Step):
    """``steps/ablations.json``: for each trained model what zeroing named sets of units does, text by text.

    Model → `sets` (names, kl, ce, full, counts: sums in nats, [sets][texts]), `removal` (names in their order, kl after
    each on the texts that it was not chosen on), `scale` (kl of whole models).
    """

    uses = (Training, Chatting)

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces" if self._options(run).text == "traces" else "rows", "training")

    def models(self, run: Run) -> Sequence[str]:
        options = self._options(run)
        return tuple(dict.fromkeys((options.base, *([options.full] if options.full else []))))

    def _options(self, run: Run) -> AblationOptions:
        options: AblationOptions = run.experiment(ABLATION).config
        return options

    def depends(self, run: Run, *needs: Any) -> Any:
        options = self._options(run)
        mapped = [run.models.mapped(name) for name in self.models(run)]
        return [adapted(run, options), options.model_dump(mode="json"), mapped, run.seed]

    def pieces(self, run: Run, texts: list[Any], trained: Any) -> list[AblationPiece]:
        options, tokens, found = self._options(run), run.peek(Reading).batch_tokens, list[AblationPiece]()
        for name in adapted(run, options):
            own = self._texts(run, name, texts)
            theirs = self._texts(run, options.full, texts) if options.full else ()
            for begin in range(0, len(own), TEXTS):
                part = slice(begin, begin + TEXTS)
                found.append(AblationPiece("sets", name, own[part], options, tokens))
                found.append(AblationPiece("scale", name, own[part], options, tokens, options.full, theirs[part]))
            if options.removal != "none":
                found.append(AblationPiece("removal", name, own, options, tokens))
        return found

    def _texts(self, run: Run, model: str, given: Sequence[Any]) -> tuple[CountedText, ...]:
        """Texts as a model reads them: drawn once for all models, by the run's seed; the short ones first."""
        options = self._options(run)
        whole = self._tokens(run, given)
        cut = [(name, ids[: options.max_tokens], prompt) for name, ids, prompt in whole]
        own = [(name, ids, 1 if options.tokens == "all" else max(prompt, 1)) for name, ids, prompt in cut]
        own = [text for text in own if len(text[1]) > text[2]]
        if not own:
            raise SteerkitError(f"{ABLATION}: no text has a token that counts; see {ABLATION}.max_tokens and .tokens")
        if len(own) > options.texts:
            chosen = np.random.default_rng(run.seed).choice(len(own), options.texts, replace=False)
            own = [own[number] for number in sorted(chosen)]
        own.sort(key=lambda text: (len(text[1]), text[0]))
        return tuple(
            CountedText(name, tuple(run.models.ids_for(model, ids)), tuple(n >= first for n in range(len(ids))))
            for name, ids, first in own
        )

    def _tokens(self, run: Run, given: Sequence[Trace] | list[Prompt]) -> list[tuple[str, tuple[int, ...], int]]:
        """(id, ids of prompt and response, tokens of the prompt) of each text."""
        if self._options(run).text == "traces":
            return [(t.id, t.tokens, len(t.prompt_ids)) for t in given if isinstance(t, Trace)]
        prompts = [prompt for prompt in given if isinstance(prompt, Prompt)]
        return [(row.id, row.ids, row.prompt_length) for row in encode_rows(dealt(prompts).held_out, run.chats)]

    def work(self, models: Models, piece: AblationPiece) -> dict[str, Any]:
        return {"sets": _sets, "removal": _removal, "scale": _scale}[piece.kind](models, piece)

    def join(self, run: Run, results: Iterable[dict[str, Any]], texts: list[Any], trained: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for piece, result in zip(self.pieces(run, texts, trained), results, strict=True):
            own = found.setdefault(piece.model, {"sets": None, "removal": None, "scale": None})
            own[piece.kind] = _joined(own[piece.kind], result)
        return found


def _joined(before: dict[str, Any] | None, result: dict[str, Any]) -> dict[str, Any]:
    """The same with more texts: the last axis of what is measured."""
    if before is None:
        return result
    for key in result.keys() & {"kl", "ce"}:
        joined = {name: [*before[key][name], *own] for name, own in result[key].items()}
        before[key] = joined
    for key in result.keys() & {"full", "counts", "noise", "texts"}:
        before[key] = [*before[key], *result[key]]
    return before


def _progress(models: Models, piece: AblationPiece, begin: float = 0.0, share: float = 1.0) -> Any:
    return lambda done, total: models.progress(int(len(piece) * (begin + share * done / max(total, 1))))


def _sets(models: Models, piece: AblationPiece) -> dict[str, Any]:
    lm, options = models[piece.model], piece.options
    groups = lora_groups(lm)
    sets = named_sets(lm, groups, options.group_size)
    found = ablate(
        lm,
        groups,
        piece.texts,
        [each.units for each in sets],
        direction=options.direction,
        batch_tokens=piece.batch_tokens,
        with_noise=True,
        on_batch=_progress(models, piece),
    )
    return {
        "names": {each.name: each.kind for each in sets},
        "units": {each.name: sorted(f"{unit.layer}.{unit.part}" for unit in each.units) for each in sets},
        "kl": {each.name: own.tolist() for each, own in zip(sets, found.kl, strict=True)},
        "ce": {each.name: own.tolist() for each, own in zip(sets, found.ce, strict=True)},
        "full": found.full.tolist(),
        "counts": found.counts.tolist(),
        "noise": found.noise.tolist(),
        "texts": [text.id for text in piece.texts],
        "whole": list(found.whole),
    }


def _removal(models: Models, piece: AblationPiece) -> dict[str, Any]:
    """Chosen on every other text, measured on those between; on the same one where there is only one."""
    lm, options = models[piece.model], piece.options
    groups = lora_groups(lm)
    choosing, testing = piece.texts[::2], piece.texts[1::2] or piece.texts
    candidates = projections(groups) if options.removal_of == "projection" else blocks(groups)
    assert options.removal != "none"
    order = removed_in_turn(
        lm,
        groups,
        choosing,
        candidates,
        how=options.removal,
        steps=options.removal_steps or len(candidates),
        average=options.average,
        direction=options.direction,
        batch_tokens=piece.batch_tokens,
        on_step=_progress(models, piece, 0.0, 0.9),
    )
    gone = [frozenset(unit for each in order[:n] for unit in each.units) for n in range(1, len(order) + 1)]
    found = ablate(
        lm,
        groups,
        testing,
        gone,
        direction=options.direction,
        batch_tokens=piece.batch_tokens,
        on_batch=_progress(models, piece, 0.9, 0.1),
    )
    return {
        "names": [each.name for each in order],
        "curve": found.kl.tolist(),
        "counts": found.counts.tolist(),
        "candidates": len(candidates),
    }


def _scale(models: Models, piece: AblationPiece) -> dict[str, Any]:
    """KL divergences of whole models: what single units are held against."""
    lm = models[piece.model]
    base = replace(lm, adapter=False)
    pairs = {"base || adapter": (base, lm, piece.texts, piece.texts)}
    if piece.full:
        full = models[piece.full]
        pairs["full || base"] = (full, base, piece.theirs, piece.texts)
        pairs["full || adapter"] = (full, lm, piece.theirs, piece.texts)
    kl, ce = {}, {}
    for number, (name, (first, second, mine, theirs)) in enumerate(pairs.items()):
        progress = _progress(models, piece, number / len(pairs), 1 / len(pairs))
        texts = list(zip(mine, theirs, strict=True))
        found = kl_between(first, second, texts, batch_tokens=piece.batch_tokens, on_batch=progress)
        kl[name], ce[name] = (values.tolist() for values in found)
    return {"kl": kl, "ce": ce, "counts": [text.count for text in piece.texts]}
