"""Is a row's result its own, whatever stands beside it, around it or in a cache?"""

from __future__ import annotations

from typing import Any

from steerkit.checks.forward import distance, each_alone, logits, own_tokens, padded, running
from steerkit.checks.outcome import Measured
from steerkit.checks.probe import KINDS, Probe
from steerkit.errors import SteerkitError
from steerkit.steering import Steering

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

    A left-padded batch; rows with tokens: all, prompt and generated.
    Failure: the cache keeps unsteered or other rows' states, or a decoded token's position is off.
    """
    import torch

    lm = probe.lm
    inputs = padded(lm, probe.prompts)
    ids, mask, position = inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"]
    edits = probe.mixed(len(probe.prompts), KINDS)
    begin = ids.shape[1] - STEPS
    parts, cache = [], None
    with running(lm), Steering(lm, edits):
        for first, last in [(0, begin), *((at, at + 1) for at in range(begin, begin + STEPS))]:
            given: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
            out = lm.model(
                input_ids=ids[:, first:last], attention_mask=mask[:, :last], position_ids=position[:, first:last],
                use_cache=True, **given,
            )  # fmt: skip
            cache = getattr(out, "past_key_values", None)
            if cache is None:
                raise SteerkitError(f"{type(lm.model).__name__} gives no past_key_values to go on from")
            parts.append(out.logits)
    lengths = [len(prompt) - STEPS for prompt in probe.prompts]
    expected = logits(lm, probe.prompts, edits, prompt_lengths=lengths)
    found = own_tokens(torch.cat(parts, 1), mask)
    return Measured(distance(found, expected), probe.tolerance, f"{len(edits)} rows, {STEPS} steps")
