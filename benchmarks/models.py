"""Random models of the sizes that claims are made on: costs don't depend on what the weights say."""

from __future__ import annotations

import torch

from steerkit.loading import load_tokenizer
from steerkit.model import LanguageModel


def smollm2_shaped(layers: int = 30) -> LanguageModel:
    """A random Llama with SmolLM2-135M's shape, float32; fewer blocks than its 30 where ratios don't need them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True, rms_norm_eps=1e-5,
        initializer_range=0.04,
    )  # fmt: skip
    name = "SmolLM2-135M-shaped" + (f", {layers} blocks" if layers != 30 else "")
    # Only ids go in and come out: any tokenizer does.
    return LanguageModel(name, LlamaForCausalLM(config).eval(), load_tokenizer("pocket:base"))
