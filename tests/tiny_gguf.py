"""A tiny random Llama as a GGUF file, with a byte-level tokenizer, as llama.cpp writes one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import pre_tokenizers

WIDTH, INNER, HEADS, BLOCKS = 32, 48, 2, 3
MERGES = ["t h", "th e", "Ġ the", "i t", "a it", "W ait", "i s", "Ġ is"]


def write_gguf(path: Path, seed: int = 0) -> Path:
    """Write the file; its path again."""
    from gguf import GGUFWriter

    tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(m.replace(" ", "") for m in MERGES)]
    writer = GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_block_count(BLOCKS)
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    draw = np.random.default_rng(seed)
    shapes = {"token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    for block in range(BLOCKS):
        shapes |= {f"blk.{block}.{name}": (WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"blk.{block}.{name}": (INNER, WIDTH) for name in ("ffn_gate", "ffn_up")}
        shapes |= {f"blk.{block}.ffn_down": (WIDTH, INNER), f"blk.{block}.attn_norm": (WIDTH,)}
        shapes |= {f"blk.{block}.ffn_norm": (WIDTH,)}
    for name, shape in shapes.items():
        values = np.ones(shape) if name.endswith("norm") else 0.3 * draw.standard_normal(shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
