"""Which kinds of PEFT adapters steerkit handles; the others are refused by name, with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from steerkit import registry
from steerkit.errors import SteerkitError

WORK = (
    "ADALORA",
    "ADAMSS",
    "ADAPTION_PROMPT",
    "BEFT",
    "BOFT",
    "C3A",
    "DEFT",
    "DELORA",
    "FOURIERFT",
    "FROD",
    "GLORA",
    "GRALORA",
    "HIRA",
    "HRA",
    "IA3",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "LORA",
    "MISS",
    "OFT",
    "OSF",
    "PEANUT",
    "PSOFT",
    "PVERA",
    "RANDLORA",
    "ROAD",
    "SHIRA",
    "SUPERTUNING",
    "TINYLORA",
    "TRAINABLE_TOKENS",
    "UNILORA",
    "VBLORA",
    "VERA",
    "WAVEFT",
)
"""Each of them changes what modules inside the blocks compute, token by token."""

_VIRTUAL = (
    "it puts trained vectors before the text, in PEFT's own forward; steerkit reads and steers the decoder itself, "
    "which never sees them"
)
REFUSED = {
    **dict.fromkeys(
        ("CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"), _VIRTUAL
    ),
    "LILY": "it weighs its experts by a mean over all tokens of a batch, so rows and padding would change each other",
    "POLY": "it needs a task's number with every forward",
    "SHADOW": "its blocks hand on a second stream beside the hidden states",
    "XLORA": "it reads the whole prompt a first time to weigh its adapters, in PEFT's own forward",
}
OPTIONS = {
    "alora_invocation_tokens": "it acts from certain tokens on, which PEFT's own forward looks for",
    "arrow_config": "it routes tokens to adapters that are loaded by name, which PEFT's own forward prepares",
    "layer_replication": "it makes more blocks than the base has, so layers would not be the same in both",
    "sample_at_inference": "its weights are drawn anew at each forward",
}
"""Options of kinds that work, with which they don't."""

OFFLOADED = frozenset({"LN_TUNING", "LORA", "OFT", "PSOFT", "TRAINABLE_TOKENS"})
"""Kinds that are right where accelerate offloads weights; the others read weights that are not there."""
NOT_OFFLOADED = ("kasa_config", "monteclora_config", "target_parameters", "use_dora")
"""Options of LoRA with which it is not."""


def kind_of(config: Any) -> str:
    """`LORA`, `IA3`, ... of an adapter's configuration."""
    kind = config.peft_type
    return str(getattr(kind, "value", kind))


@cache
def brought(kind: str) -> bool:
    """Whether a registered adapter brings this kind to PEFT (`Adapter.kind`); if so, PEFT knows it from now on."""
    for name in registry.entries("adapters"):
        found = registry.get("adapters", name)
        if found.kind == kind:
            found.bring()
            return True
    return False


def own_tokens(config: Any) -> list[int]:
    """Ids that an adapter has trained vectors for."""
    found: list[int] = []
    for option in ("token_indices", "trainable_token_indices"):
        listed = getattr(config, option, None) or []
        found += [index for part in listed.values() for index in part] if isinstance(listed, dict) else listed
    return found


def refuse_adapters(name: str, model: Any) -> None:
    """Raises: SteerkitError when a PEFT model's adapters are of a kind that can't be used, or of several kinds."""
    if not hasattr(model, "get_base_model"):
        raise SteerkitError(
            f"{name}: a {type(model).__name__} can't be used: merge its adapters into the weights first"
        )
    refuse_kind(name, [model.peft_config[each] for each in model.active_adapters])


def refuse_kind(name: str, configs: Iterable[Any], *, offloaded: bool = False, half: bool = False) -> None:
    """Refuse adapters that steerkit can't read and steer right.

    Args:
        name: of the model or the adapter, for the message.
        configs: the adapters' PEFT configurations.
        offloaded: whether accelerate keeps some of the model's weights elsewhere.
        half: whether the model is in half precision.

    Raises:
        SteerkitError: a kind or an option that doesn't work; says why, and which kinds do.
    """
    for config in configs:
        kind = kind_of(config)
        if kind not in WORK and not brought(kind):
            reason = REFUSED.get(kind, "steerkit was never tried with it")
            raise SteerkitError(
                f"{name}: a {kind} adapter can't be used: {reason}; these kinds can: {', '.join(WORK)}\n"
                "  Others may be merged into the weights first (PEFT's merge_and_unload, where it has it)"
            )
        for option, reason in OPTIONS.items():
            if getattr(config, option, None):
                raise SteerkitError(f"{name}: a {kind} adapter with {option} can't be used: {reason}")
        if offloaded and (kind not in OFFLOADED or any(getattr(config, option, None) for option in NOT_OFFLOADED)):
            raise SteerkitError(
                f"{name}: a {kind} adapter with these options can't be used where weights are offloaded: it would read "
                "weights that are not there; leave device_map out, or merge the adapter into the weights first"
            )
        if half and kind == "FROD":
            raise SteerkitError(f"{name}: FROD's bases lose their meaning in half precision; load without bf16")
