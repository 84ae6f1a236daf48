"""Tiny random multimodal models: a text model, and a tower for images beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny import SIZES, word_tokenizer
from zoo import shake

TEXT = {**SIZES, "num_hidden_layers": 3}
TIED = {**TEXT, "tie_word_embeddings": True}
SEES = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
PATCHES = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 16, "patch_size": 4}
MARKS = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 58, "vision_end_token_id": 59}
LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
SHARED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "full_attention"]


def _turning(*sections: int) -> dict[str, Any]:
    return {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}}


def _config(kind: str, text: dict[str, Any], sees: dict[str, Any], **options: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, kind)(text_config=dict(text), vision_config=dict(sees), **options)


TOWERS: dict[str, Callable[[], Any]] = {
    "mistral3": _config(
        "Mistral3Config",
        {**TEXT, "model_type": "mistral"},
        {**SEES, "model_type": "pixtral", "head_dim": 4},
        image_token_index=60,
        tie_word_embeddings=False,
    ),
    "llava": _config(
        "LlavaConfig",
        {**TEXT, "model_type": "llama"},
        {**SEES, "model_type": "clip_vision_model"},
        image_token_index=60,
        image_seq_length=4,
    ),
    "llava_onevision": _config(
        "LlavaOnevisionConfig",
        {**TEXT, "model_type": "qwen2"},
        {**SEES, "model_type": "siglip_vision_model"},
        image_token_index=60,
    ),
    "qwen2_5_vl": _config("Qwen2_5_VLConfig", _turning(1, 1, 2), {**PATCHES, "fullatt_block_indexes": [0]}, **MARKS),
    "qwen3_vl": _config(
        "Qwen3VLConfig",
        _turning(2, 1, 1),
        {**PATCHES, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        **MARKS,
    ),
    "qwen3_5": _config(
        "Qwen3_5Config", {**TEXT, **LINEAR, "num_hidden_layers": 4}, {**PATCHES, "num_position_embeddings": 16}, **MARKS
    ),
    "llama4": _config(
        "Llama4Config",
        {
            **TEXT,
            "num_hidden_layers": 4,
            "intermediate_size_mlp": 24,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 8,
            "moe_layers": [1, 3],
        },
        {**SEES, "intermediate_size": 16, "vision_output_dim": 8, "projector_input_dim": 8, "projector_output_dim": 8},
    ),
    "gemma3": _config(
        "Gemma3Config",
        {**TIED, "sliding_window": 6, "query_pre_attn_scalar": 8},
        SEES,
        mm_tokens_per_image=4,
        image_token_index=60,
        boi_token_index=58,
        eoi_token_index=59,
    ),
    "gemma4": _config(
        "Gemma4Config",
        {
            **TIED,
            "num_hidden_layers": 5,
            "sliding_window": 6,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 4,
            "vocab_size_per_layer_input": 64,
            "num_kv_shared_layers": 2,
            "layer_types": SHARED,
        },
        {**SEES, "num_key_value_heads": 2, "head_dim": 4, "position_embedding_size": 16},
        audio_config=None,
        image_token_id=60,
        boi_token_id=58,
        eoi_token_id=59,
        audio_token_id=57,
        video_token_id=56,
        boa_token_id=55,
        eoa_token_index=54,
    ),
    "internvl": _config(
        "InternVLConfig",
        {**TEXT, "model_type": "qwen2"},
        {**SEES, "image_size": [8, 8], "patch_size": [4, 4]},
        image_token_id=60,
    ),
}


def whole(name: str, seed: int = 0) -> Any:
    """The multimodal model itself, random weights."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForImageTextToText.from_config(TOWERS[name]()).eval()
    shake(model)
    return model


def save(model: Any, folder: Path) -> Path:
    """The checkpoint as transformers writes it, with a tokenizer."""
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder
