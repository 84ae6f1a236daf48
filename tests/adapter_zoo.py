"""An adapter of every kind that PEFT knows, for the tiny Llama, with weights that really change it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from tiny import build, word_tokenizer

from steerkit.models.models import Models, load_models

THREE = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
SQUARE = {"target_modules": ["q_proj", "o_proj"]}
WORKING: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10, "init_r": 4, "target_r": 2, **THREE},
    "ADAMSS": {"r": 4, "num_subspaces": 2, "subspace_rank": 1, **THREE},
    "ADAPTION_PROMPT": {"adapter_len": 3, "adapter_layers": 2},
    "BEFT": {"target_modules": ["v_proj"]},
    "BOFT": {"boft_block_size": 4, **THREE},
    "C3A": {"block_size": 8, **THREE},
    "DEFT": {"r": 2, **THREE},
    "DELORA": {"r": 2, **THREE},
    "FOURIERFT": {"n_frequency": 20, **THREE},
    "FROD": {"progressbar": False, **SQUARE},
    "GLORA": {"r": 2, **THREE},
    "GRALORA": {"r": 4, "gralora_k": 2, "alpha": 4, **THREE},
    "HIRA": {"r": 2, **THREE},
    "HRA": {"r": 4, **THREE},
    "IA3": {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "LOHA": {"r": 2, **THREE},
    "LOKR": {"r": 2, **THREE},
    "LORA": {"r": 4, **THREE},
    "MISS": {"r": 4, **SQUARE},
    "OFT": {"r": 0, "oft_block_size": 4, **THREE},
    "OSF": {"effective_rank": 4, **SQUARE},
    "PEANUT": {"r": 2, **THREE},
    "PSOFT": {"r": 4, **THREE},
    "PVERA": {"r": 4, **SQUARE},
    "RANDLORA": {"r": 2, **SQUARE},
    "ROAD": {"group_size": 4, **THREE},
    "SHIRA": {"r": 2, **THREE},
    "SUPERTUNING": {"r": 2, **THREE},
    "TINYLORA": {"r": 2, "u": 4, **THREE},
    "TRAINABLE_TOKENS": {"token_indices": [5, 9], "target_modules": ["embed_tokens"]},
    "UNILORA": {"r": 2, "theta_d_length": 64, **THREE},
    "VBLORA": {"r": 2, "num_vectors": 8, "vector_length": 4, "topk": 2, **SQUARE},
    "VERA": {"r": 4, **SQUARE},
    "WAVEFT": {"n_frequency": 20, **THREE},
}
"""By kind, the options of its configuration."""
VARIANTS: dict[str, dict[str, Any]] = {
    "rank-stabilised": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "with biases of its own": {"lora_bias": True},
    "one block": {"layers_to_transform": [1]},
    "parameters": {"target_modules": [], "target_parameters": ["self_attn.q_proj.weight"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head"]},
    "whole modules": {"modules_to_save": ["lm_head", "embed_tokens", "norm"]},
    "single tokens": {"trainable_token_indices": [5, 9]},
    "MonteCLoRA": {"monteclora_config": {"num_samples": 4}},
}
"""LoRA's."""
CHANGES_BASE: dict[str, dict[str, Any]] = {
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "KASA": {"kasa_config": {}},
}
"""LoRA's that leave the base another one when they are off."""


def put_on(model: Any, kind: str, options: dict[str, Any], seed: int = 1) -> Any:
    """A PEFT model with an adapter whose trained tensors are random."""
    from peft import PeftType, get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)](task_type="CAUSAL_LM", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT's, on what it does on a CPU or on a Llama
        wrapped = get_peft_model(model, config).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn(weight.shape, generator=draw))
    return wrapped


def save_base(folder: Path, architecture: str = "llama") -> str:
    """A tiny model's folder, tokenizer included."""
    build(architecture).model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


def save_adapter(folder: Path, kind: str = "LORA", options: dict[str, Any] | None = None, base: Any = None) -> str:
    """An adapter's folder."""
    wrapped = put_on(base or build("llama").model, kind, WORKING["LORA"] if options is None else options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.save_pretrained(folder)
    return str(folder)


def with_and_without(base: str, adapter: str, id_map: dict[int, int] | None = None) -> Models:
    """A model as `base`, and as `reasoning` with an adapter on; `id_map` is the base's, of the other's ids."""
    plain = {"weights": base, "id_map": {"reasoning": id_map or {}}}
    return load_models({"base": plain, "reasoning": {"weights": base, "adapter": adapter}}, writer="reasoning")
