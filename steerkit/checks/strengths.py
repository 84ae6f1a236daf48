"""Strengths whose effect is known beforehand."""

from __future__ import annotations

from steerkit.checks.forward import distance, logits, own_tokens, padded, running
from steerkit.checks.outcome import Measured
from steerkit.checks.probe import Probe
from steerkit.interventions.steering import Steering


def zero_is_unsteered(probe: Probe) -> Measured:
    """Logits steered with strength 0, against logits without steerkit: equal bit for bit.

    Failure: steering leaves a trace where there should be none; a baseline at strength 0 is no baseline.
    """
    inputs = padded(probe.lm, probe.together)
    with running(probe.lm):
        bare = own_tokens(probe.lm.model(**inputs, use_cache=False).logits, inputs["attention_mask"])
    edits = [probe.edit(probe.layers[row % len(probe.layers)], 0.0) for row in range(len(probe.together))]
    found = logits(probe.lm, probe.together, edits)
    return Measured(distance(found, bare), 0.0, f"{len(edits)} rows")


def plus_then_minus(probe: Probe) -> Measured:
    """Logits with +s and then −s on the same block, at each layer, against unsteered logits.

    Failure: an edit is applied twice, once, or with the wrong sign.
    """
    inputs = padded(probe.lm, probe.together)
    rows, worst, least = len(probe.together), 0.0, float("inf")
    plain = logits(probe.lm, probe.together, [None] * rows)
    for layer in probe.layers:
        plus, minus = ([probe.edit(layer, sign)] * rows for sign in (1.0, -1.0))
        with running(probe.lm), Steering(probe.lm, plus), Steering(probe.lm, minus):
            both = probe.lm.model(**inputs, use_cache=False).logits
        worst = max(worst, distance(own_tokens(both, inputs["attention_mask"]), plain))
        least = min(least, distance(logits(probe.lm, probe.together, plus), plain))
    return Measured(
        worst if least > probe.tolerance else float("inf"),
        probe.tolerance,
        f"{len(probe.layers)} layers; +s alone changes the logits by {least:.2g} or more",
    )
