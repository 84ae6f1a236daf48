"""A tiny Llama in a GGUF file, as llama.cpp's converter writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tiny import byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

HEADS, KV_HEADS, WIDTH, BLOCKS = 4, 2, 32, 2
LLAMA31 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def save_gguf(
    path: Path,
    *,
    drop: str = "",
    extra: Mapping[str, torch.Tensor] | None = None,
    blocks: int = BLOCKS,
    rope: dict[str, Any] | None = None,
) -> Any:
    """Write a random model and return it.

    Args:
        drop: tensor that is left out.
        extra: tensors that the model hasn't.
        blocks: what the header says.
        rope: rotary settings of HF; llama.cpp keeps those of Llama 3.1 as a divisor for each frequency.
    """
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
        **({"rope_parameters": rope} if rope else {}),
    )
    model = LlamaForCausalLM(config).eval()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(blocks)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokenizer))
    _add_tokenizer(writer, tokenizer)
    tensors = {_name(key): _permuted(key, value) for key, value in model.state_dict().items()}
    if rope:
        plain = 1 / 10000.0 ** (torch.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS))
        tensors["rope_freqs.weight"] = plain / model.model.rotary_emb.inv_freq
    for name, value in {**tensors, **(extra or {})}.items():
        if name != drop:
            writer.add_tensor(name, np.ascontiguousarray(value.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _name(key: str) -> str:
    plain = key.removesuffix(".weight")
    if plain in NAMES:
        return f"{NAMES[plain]}.weight"
    _, _, block, part = plain.split(".", 3)
    return f"blk.{block}.{NAMES[part]}.weight"


def _permuted(key: str, value: torch.Tensor) -> torch.Tensor:
    """Rotary pairs side by side, where HF has them half a head apart."""
    heads = HEADS if "q_proj" in key else KV_HEADS if "k_proj" in key else 0
    if not heads:
        return value
    return value.view(heads, 2, -1, value.shape[1]).transpose(1, 2).reshape(value.shape)


def _add_tokenizer(writer: Any, tokenizer: Any) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
