"""What the steering hook costs a decode step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from steerkit.bench.measure import Question, Result, Tick, no_tick, ratio, result, timed
from steerkit.bench.sizes import Sizes
from steerkit.bench.sweep import left_pad, make_sweep
from steerkit.generation.sampling import GREEDY
from steerkit.interfaces import Steerer
from steerkit.interventions.steering import Steering
from steerkit.models.language_model import LanguageModel
from steerkit.models.supported import cache_argument

if TYPE_CHECKING:
    from torch import Tensor


def hook_costs(lm: LanguageModel, steerer: Steerer, sizes: Sizes, tick: Tick = no_tick) -> list[Result]:
    """A steered decode step against an unsteered one: step by step in turns, on two models that share weights."""
    import torch

    size = sizes.batch_sizes[len(sizes.batch_sizes) // 2]
    sweep = make_sweep(
        lm,
        steerer,
        prompts=1,
        conditions=size,
        new_tokens=sizes.steps,
        sampling=GREEDY,
        prompt_tokens=sizes.prompt_tokens,
    )
    twin = sharing_weights(lm)
    ratios = []
    for _ in range(sizes.rounds + 1):
        with torch.inference_mode(), Steering(twin, [row.edits for row in sweep.rows]):
            ratios.append(_round([row.prompt_ids for row in sweep.rows], lm, twin, sizes.steps))
        tick()
    question = Question(
        f"{lm.name}: steered decode step / unsteered decode step",
        "",
        "",
        1.01,
        note=f"{size} rows; each round the ratio of the medians of {sizes.steps} steps done in turns",
    )
    return [result(question, ratios[1:])]  # the first warms up


def _round(prompts: Sequence[Sequence[int]], plain: LanguageModel, steered: LanguageModel, steps: int) -> float:
    """Both decode the same tokens, those that the plain model chooses."""
    import torch

    ids, mask = (part.to(plain.device) for part in left_pad(prompts))
    plain_steps, steered_steps = _Decoding(plain), _Decoding(steered)
    order = [plain_steps, steered_steps]
    for _ in range(steps + 1):
        for decoding in order:
            decoding.step(ids, mask)
        order.reverse()
        ids = plain_steps.logits[:, -1:].argmax(-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    own, other = (median(decoding.seconds[1:]) for decoding in (steered_steps, plain_steps))  # without the prompt's
    return ratio(own, other, "steered decode step")


class _Decoding:
    """A model's cache, its last logits, and how long each step took."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.cache: Any = None
        self.seconds: list[float] = []
        self.logits: Tensor

    def step(self, ids: Tensor, mask: Tensor) -> None:
        name, padded = cache_argument(self.lm), self.lm.batches == "padded"

        def forward() -> None:
            given: dict[str, Any] = {name: self.cache}
            out = self.lm.model(
                input_ids=ids, attention_mask=mask if padded else None, use_cache=True, logits_to_keep=1, **given
            )
            self.cache, self.logits = getattr(out, name), out.logits

        self.seconds.append(timed(forward))


def sharing_weights(lm: LanguageModel) -> LanguageModel:
    """Another model over the same tensors: hooks on one are not on the other."""
    tensors = {id(t): t for t in (*lm.model.parameters(), *lm.model.buffers())}
    return replace(lm, model=copy.deepcopy(lm.model, tensors))
