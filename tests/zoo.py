"""Tiny random models of many architectures: dense, mixture of experts, hybrid, state-space."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tiny import CONFIGS, EOS, SIZES, VOCABULARY, word_tokenizer

from steerkit.models.language_model import LanguageModel

MOE = {**SIZES, "num_hidden_layers": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
OLD = {"vocab_size": VOCABULARY, "bos_token_id": 2, "eos_token_id": EOS, "pad_token_id": 0, "initializer_range": 0.3}
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("GemmaConfig", {**SIZES, "num_hidden_layers": 3}),
    "glm4": ("Glm4Config", {**SIZES, "num_hidden_layers": 3}),
    "olmo3": ("Olmo3Config", {**SIZES, "num_hidden_layers": 4, "sliding_window": 5}),
    "olmoe": ("OlmoeConfig", {**SIZES, "num_hidden_layers": 3, "num_experts": 4, "num_experts_per_tok": 2}),
    "phi": ("PhiConfig", {**SIZES, "num_hidden_layers": 3}),
    "starcoder2": ("Starcoder2Config", {**SIZES, "num_hidden_layers": 3, "sliding_window": 5}),
    "nemotron": ("NemotronConfig", {**SIZES, "num_hidden_layers": 3}),
    "exaone4": ("Exaone4Config", {**SIZES, "num_hidden_layers": 4, "sliding_window": 5}),
    "ernie4_5": ("Ernie4_5Config", {**SIZES, "num_hidden_layers": 3}),
    "cohere": ("CohereConfig", {**SIZES, "num_hidden_layers": 3}),
    "seed_oss": ("SeedOssConfig", {**SIZES, "num_hidden_layers": 3}),
    "granitemoe": (
        "GraniteMoeConfig",
        {**SIZES, "num_hidden_layers": 3, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "xglm": (
        "XGLMConfig",
        {
            **OLD,
            "d_model": 16,
            "ffn_dim": 24,
            "num_layers": 3,
            "attention_heads": 2,
            "max_position_embeddings": 256,
            "init_std": 0.3,
        },
    ),
    "phi3": ("Phi3Config", {**SIZES, "num_hidden_layers": 3}),
    "olmo2": ("Olmo2Config", {**SIZES, "num_hidden_layers": 3}),
    "granite": ("GraniteConfig", {**SIZES, "num_hidden_layers": 3, "residual_multiplier": 0.5}),
    "opt": (
        "OPTConfig",
        {
            **OLD,
            "hidden_size": 16,
            "word_embed_proj_dim": 16,
            "ffn_dim": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": 256,
            "init_std": 0.3,
        },
    ),
    "bloom": ("BloomConfig", {**OLD, "hidden_size": 16, "n_layer": 3, "n_head": 2}),
    "falcon": ("FalconConfig", {**OLD, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}),
    "gptj": ("GPTJConfig", {**OLD, "n_embd": 16, "n_layer": 3, "n_head": 2, "rotary_dim": 4, "n_positions": 256}),
    "stablelm": ("StableLmConfig", {**SIZES, "num_hidden_layers": 3}),
    "cohere2": ("Cohere2Config", {**SIZES, "num_hidden_layers": 4, "sliding_window": 5}),
    "smollm3": ("SmolLM3Config", {**SIZES, "num_hidden_layers": 4}),
    "mixtral": ("MixtralConfig", {**MOE, "num_local_experts": 4}),
    "qwen2_moe": ("Qwen2MoeConfig", {**MOE, "num_experts": 4, "shared_expert_intermediate_size": 16}),
    "qwen3_moe": ("Qwen3MoeConfig", {**MOE, "num_experts": 4}),
    "gpt_oss": ("GptOssConfig", {**MOE, "num_local_experts": 4, "sliding_window": 5}),
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            **MOE,
            "num_key_value_heads": 2,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "head_dim": 4,
        },
    ),
    "mpt": ("MptConfig", {**OLD, "d_model": 16, "n_layers": 3, "n_heads": 2, "max_seq_len": 256}),
    "lfm2": ("Lfm2Config", {**SIZES, "num_hidden_layers": 3, "full_attn_idxs": [1], "block_multiple_of": 8}),
    "qwen3_next": (
        "Qwen3NextConfig",
        {
            **MOE,
            "num_hidden_layers": 4,
            "num_experts": 4,
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "shared_expert_intermediate_size": 16,
        },
    ),
    "mamba": ("MambaConfig", {**OLD, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 3}),
    "mamba2": (
        "Mamba2Config",
        {
            **OLD,
            "hidden_size": 16,
            "state_size": 4,
            "num_hidden_layers": 3,
            "head_dim": 8,
            "num_heads": 4,
            "n_groups": 1,
            "chunk_size": 8,
        },
    ),
    "jamba": (
        "JambaConfig",
        {
            **SIZES,
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 4,
            "expert_layer_period": 2,
            "mamba_d_state": 4,
        },
    ),
    "falcon_h1": (
        "FalconH1Config",
        {
            **SIZES,
            "num_hidden_layers": 3,
            "mamba_d_ssm": 16,
            "mamba_n_heads": 2,
            "mamba_d_head": 8,
            "mamba_d_state": 4,
            "mamba_chunk_size": 8,
        },
    ),
    "zamba2": (
        "Zamba2Config",
        {
            **SIZES,
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "mamba", "hybrid", "mamba"],
            "num_mem_blocks": 1,
            "mamba_d_state": 4,
            "mamba_expand": 2,
            "n_mamba_heads": 2,
            "mamba_headdim": 16,
            "mamba_ngroups": 1,
            "chunk_size": 8,
            "num_key_value_heads": 2,
            "attention_head_dim": 16,
            "attention_hidden_size": 32,
        },
    ),
    "bamba": (
        "BambaConfig",
        {
            **SIZES,
            "num_hidden_layers": 3,
            "attn_layer_indices": [1],
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 4,
            "mamba_chunk_size": 8,
        },
    ),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        {
            **SIZES,
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 4,
            "mamba_chunk_size": 8,
            "num_local_experts": 4,
            "shared_intermediate_size": 16,
            "residual_multiplier": 0.5,
        },
    ),
    # Shorter time steps are cut off in transformers' whole forward and not in its cached step.
    "nemotron_h": (
        "NemotronHConfig",
        {
            **SIZES,
            "layers_block_type": ["mamba", "moe", "attention", "mlp", "mamba"],
            "ssm_state_size": 4,
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "chunk_size": 8,
            "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 16,
            "n_routed_experts": 4,
            "time_step_min": 1e-9,
        },
    ),
    "olmo_hybrid": (
        "OlmoHybridConfig",
        {
            **SIZES,
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "kimi_linear": (
        "KimiLinearConfig",
        {
            **SIZES,
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_key_value_heads": 2,
            "moe_intermediate_size": 16,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
            "linear_head_dim": 8,
            "linear_num_heads": 2,
            "head_dim": 4,
        },
    ),
    "lfm2_moe": (
        "Lfm2MoeConfig",
        {**MOE, "layer_types": ["conv", "full_attention", "conv"], "num_experts": 4, "num_dense_layers": 1},
    ),
    "falcon_mamba": ("FalconMambaConfig", {**OLD, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 3}),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        {**SIZES, "num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 8},
    ),
    "rwkv": ("RwkvConfig", {**OLD, "hidden_size": 16, "attention_hidden_size": 16, "num_hidden_layers": 3}),
    "minimax": (
        "MiniMaxConfig",
        {**MOE, "num_local_experts": 4, "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    ),
    "gemma3n": (
        "Gemma3nTextConfig",
        {
            **SIZES,
            "num_hidden_layers": 3,
            "vocab_size_per_layer_input": 64,
            "hidden_size_per_layer_input": 4,
            "num_kv_shared_layers": 0,
            "laurel_rank": 4,
            "layer_types": ["full_attention"] * 3,
            "activation_sparsity_pattern": [0.0] * 3,
        },
    ),
}
ZOO = (*CONFIGS, *MORE)
HYBRIDS = (
    "lfm2",
    "qwen3_next",
    "mamba",
    "mamba2",
    "jamba",
    "falcon_h1",
    "zamba2",
    "bamba",
    "granitemoehybrid",
    "nemotron_h",
    "olmo_hybrid",
    "kimi_linear",
    "lfm2_moe",
    "falcon_mamba",
)


def breed(name: str, seed: int = 0) -> LanguageModel:
    """A model of its own (free to be changed), random weights, norms' weights and biases included."""
    if name in CONFIGS:
        config = CONFIGS[name]()
    else:
        kind, options = (MORE | REFUSED)[name]
        config = getattr(transformers, kind)(**options)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    shake(model)
    return LanguageModel(name, model, word_tokenizer())


def shake(model: Any) -> None:
    """Norms' weights and biases that are not 1 and 0, and embeddings that tell tokens apart."""
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.add_(0.2 * torch.randn_like(weight))
            elif "embed" in key or "wte" in key:
                weight.mul_(3)
