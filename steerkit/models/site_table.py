"""Where decoder blocks keep the parts that sites name: data for every family in docs/families.md.

A part is looked for under the names below, in this order. What a name can't tell is listed by the class of the module
that holds it (subclasses included), and what is in neither list is refused: a wrong guess would steer another tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steerkit.data.site import Part

ATTENTION = ("self_attn", "attn", "attention", "self_attention", "linear_attn", "mixer")
"""Names of a block's attention module; one without a projection of `NAMES["o"]` or `FUSED` is another mixer."""

MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "shared_mlp", "experts", "mixer")
"""Names of a block's feed-forward module. A block with two of them has no single MLP. Some have none, and keep its
projections themselves."""

NAMES: dict[Part, tuple[str, ...]] = {
    "q": ("q_b_proj", "q_proj"),
    "k": ("k_proj",),
    "v": ("v_proj",),
    "o": ("o_proj", "out_proj", "dense", "c_proj"),
    "gate": ("gate_proj", "w1"),
    "up": ("up_proj", "w3", "c_fc", "fc1", "fc_in", "dense_h_to_4h"),
    "down": ("down_proj", "w2", "c_proj", "fc2", "fc_out", "dense_4h_to_h", "output_linear"),
}
"""Projections that are modules of their own, below the attention and MLP modules."""

ABOVE: dict[Part, Part] = {
    **dict.fromkeys(("q", "k", "v", "o"), "attention"),
    **dict.fromkeys(("gate", "up", "down"), "mlp"),
}
"""The part that holds a projection."""

Layout = Literal["in order", "in groups", "first of each head", "last of each head"]
"""How a projection's output holds several parts: one after another; by group of heads, q of all its heads, then k and
v; or the part is the first or last numbers of each head."""


@dataclass(frozen=True, slots=True)
class Fused:
    """A module whose output holds several parts.

    Attributes:
        name: of the module.
        parts: in the order in which they lie there.
        layout: how they lie.
    """

    name: str
    parts: tuple[Part, ...]
    layout: Layout


QKV: tuple[Part, ...] = ("q", "k", "v")
GATE_UP: tuple[Part, ...] = ("gate", "up")

FUSED: dict[str, Fused] = {
    "GPT2Attention": Fused("c_attn", QKV, "in order"),
    "MptAttention": Fused("Wqkv", QKV, "in order"),
    "Phi3Attention": Fused("qkv_proj", QKV, "in order"),
    "BloomAttention": Fused("query_key_value", QKV, "in groups"),
    "FalconAttention": Fused("query_key_value", QKV, "in groups"),
    "GPTNeoXAttention": Fused("query_key_value", QKV, "in groups"),
    "Glm4MLP": Fused("gate_up_proj", GATE_UP, "in order"),
    "GlmMLP": Fused("gate_up_proj", GATE_UP, "in order"),
    "GraniteMoeHybridMLP": Fused("input_linear", GATE_UP, "in order"),
    "Phi3MLP": Fused("gate_up_proj", GATE_UP, "in order"),
    # Each head's query, then the gate of its attention output.
    "Qwen3NextAttention": Fused("q_proj", ("q",), "first of each head"),
    "Qwen3_5Attention": Fused("q_proj", ("q",), "first of each head"),
    "Qwen3_5MoeAttention": Fused("q_proj", ("q",), "first of each head"),
    # Latent attention: each head's key without its rotated part, then its value.
    "DeepseekV3Attention": Fused("kv_b_proj", ("v",), "last of each head"),
    "KimiLinearAttention": Fused("kv_b_proj", ("v",), "last of each head"),
}
"""By the class of the attention or MLP module."""

HEAD_SIZE = {"first of each head": ("head_dim",), "last of each head": ("v_head_dim",)}
"""Attributes of the attention module: how many numbers of each head the part has."""
