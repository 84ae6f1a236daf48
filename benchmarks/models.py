"""Random models of the sizes that claims are made on: costs don't depend on what the weights say."""

from __future__ import annotations

from typing import Any

import torch

from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_tokenizer

BLOCKS = {"full": 30, "quick": 6, "smallest": 3}
SMALL = {
    "vocab_size": 512,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
}


def smollm2_shaped(size: str, layers: int | None = None) -> LanguageModel:
    """A random Llama with SmolLM2-135M's shape, float32; fewer blocks than its 30 where ratios don't need them.

    Args:
        size: `full`, `quick`, or `smallest`, which is narrow too and shows only that a measurement runs.
        layers: another number of blocks.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        **(SMALL if size == "smallest" else {}),
    }
    config = LlamaConfig(
        **shape,
        num_hidden_layers=layers or BLOCKS[size],
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        initializer_range=0.04,
    )
    blocks = config.num_hidden_layers
    name = ("tiny " if size == "smallest" else "") + "SmolLM2-135M-shaped" + (f", {blocks} blocks" * (blocks != 30))
    # Only ids go in and come out: any tokenizer does.
    return LanguageModel(name, LlamaForCausalLM(config).eval(), load_tokenizer("pocket:base"))
