"""Is a row's result its own, whatever stands beside it, around it or in a cache?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steerkit.checks.forward import distance, each_alone, logits, own_tokens, padded, running
from steerkit.checks.outcome import Measured, Skip
from steerkit.checks.probe import KINDS, Probe
from steerkit.interventions.steering import Edit, Steering
from steerkit.models.setup import BATCHES
from steerkit.models.supported import cache_argument

STEPS = 4  # tokens decoded one by one with a cache


def batch_is_single(probe: Probe) -> Measured:
    """Logits of a batch of equally long prompts with mixed conditions, against each row alone.

    Failure: one row's condition reaches another row. A sweep's batches would mix conditions.
    """
    shortest = min(map(len, probe.prompts))
    prompts = [prompt[:shortest] for prompt in probe.prompts] * 2
    edits = probe.mixed(len(prompts))
    found, expected = logits(probe.lm, prompts, edits), each_alone(probe.lm, prompts, edits)
    return Measured(distance(found, expected), probe.tolerance, f"{len(prompts)} rows of {shortest} tokens")


def left_padded_is_alone(probe: Probe) -> Measured:
    """Steered logits of prompts padded on the left, as for generation, against each prompt alone.

    Failure: attention or positions see the padding. Generate with `batch_size: 1`, or with prompts of one length.
    """
    if probe.lm.batches != "padded":
        raise Skip("steerkit pads no row of this model: " + BATCHES[probe.lm.batches])
    edits = probe.mixed(len(probe.prompts))
    found, expected = logits(probe.lm, probe.prompts, edits), each_alone(probe.lm, probe.prompts, edits)
    return Measured(distance(found, expected), probe.tolerance, f"{len(edits)} rows")


def order_is_irrelevant(probe: Probe) -> Measured:
    """Steered logits of a batch, against those of the same rows in reverse order.

    Failure: a result depends on its place in the batch, so sweeps can't be repeated.
    """
    edits = probe.mixed(len(probe.prompts))
    found = logits(probe.lm, probe.prompts, edits)
    turned = logits(probe.lm, probe.prompts[::-1], edits[::-1])[::-1]
    return Measured(distance(turned, found), probe.tolerance, f"{len(edits)} rows")


def cache_is_no_cache(probe: Probe) -> Measured:
    """Steered logits token by token with the model's own cache, against one forward without it.

    A left-padded batch (or rows of one length); rows with tokens: all, prompt and generated.
    Failure: the cache keeps unsteered or other rows' states, or a decoded token's position is off.
    """
    prompts = probe.together
    edits = probe.mixed(len(prompts), KINDS)
    error = _cached_against_whole(probe, edits)
    detail = f"{len(edits)} rows, {STEPS} steps"
    if error > probe.tolerance:
        bare = _cached_against_whole(probe, [None] * len(prompts))
        detail += f"; {bare:.1e} without steering, which is the model's own"
    return Measured(error, probe.tolerance, detail)


def _cached_against_whole(probe: Probe, edits: Sequence[Edit | None]) -> float:
    import torch
    from transformers import DynamicCache

    lm, prompts = probe.lm, probe.together
    inputs = padded(lm, prompts)
    ids, mask, position = inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"]
    begin = ids.shape[1] - STEPS
    given: dict[str, Any] = {cache_argument(lm): DynamicCache(config=lm.config)}
    parts = []
    with running(lm), Steering(lm, list(edits)):
        for first, last in [(0, begin), *((at, at + 1) for at in range(begin, begin + STEPS))]:
            out = lm.model(
                input_ids=ids[:, first:last],
                attention_mask=mask[:, :last] if lm.batches == "padded" else None,
                position_ids=position[:, first:last],
                use_cache=True,
                **given,
            )
            parts.append(out.logits)
    lengths = [len(prompt) - STEPS for prompt in prompts]
    expected = logits(lm, prompts, edits, prompt_lengths=lengths)
    return distance(own_tokens(torch.cat(parts, 1), mask), expected)
