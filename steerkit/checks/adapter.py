"""Is the model's adapter there, and does it act where steerkit reads and steers?"""

from __future__ import annotations

from steerkit.checks.outcome import Measured, Skip
from steerkit.checks.probe import Probe
from steerkit.models.adapter_effect import effect, tried_ids


def has_an_effect(probe: Probe) -> Measured:
    """Logits with the adapter against logits without it: rounding's share of the change, at most a half.

    Also the last block's output when the decoder runs by itself, against PEFT's whole model: rounding at most.
    Failure: the adapter changes nothing (it was never trained, or its tensors were not read), or it acts outside the
    decoder, where steerkit neither reads nor steers.
    """
    if not probe.lm.model_is_wrapped:
        raise Skip("the model has no adapter")
    change, apart = effect(probe.lm, [*probe.prompts, tried_ids(probe.lm)])
    error = probe.tolerance / change if change and apart <= probe.tolerance else float("inf")
    return Measured(error, 0.5, f"it changes the logits by {change:.2g}; the decoder by itself is {apart:.1g} off")
