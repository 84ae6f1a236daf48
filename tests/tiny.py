"""Tiny random models of every architecture, tokenizers built in code, and random labelled traces."""

from __future__ import annotations

import random
import warnings
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM as Auto
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from steerkit.data.trace import Item, Span, Trace
from steerkit.models.language_model import LanguageModel

VOCABULARY = 64
EOS = 1
UNUSED = VOCABULARY - 1  # no random text holds this id
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 2,
    "eos_token_id": EOS,
    "pad_token_id": 0,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SIZES, num_hidden_layers=4),
    "qwen2": lambda: Qwen2Config(**SIZES, num_hidden_layers=3),
    "qwen3": lambda: Qwen3Config(**SIZES, num_hidden_layers=3),
    "gemma2": lambda: Gemma2Config(**SIZES, num_hidden_layers=3, sliding_window=6, query_pre_attn_scalar=8),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, num_hidden_layers=3, sliding_window=6, query_pre_attn_scalar=8),
    "mistral": lambda: MistralConfig(**SIZES, num_hidden_layers=3, sliding_window=5),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=16,
        n_layer=3,
        n_head=2,
        n_positions=256,
        bos_token_id=2,
        eos_token_id=EOS,
        initializer_range=0.3,
        tie_word_embeddings=False,
    ),
    "gpt_neox": lambda: GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=2,
        eos_token_id=EOS,
        initializer_range=0.3,
    ),
}
ARCHITECTURES = tuple(CONFIGS)
WORDS = ["<pad>", "</s>", "<s>", "wait", "hmm", "but", "the", "sum", "is", "."]


@cache
def word_tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Word level, whitespace kept by decoding each word with a space before it."""
    words = [*WORDS, *(f"w{i}" for i in range(VOCABULARY - len(WORDS))), "<unk>", *extra]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


@cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with few merges: characters outside ASCII take several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "t"), ("a", "it"), ("W", "ait"), ("â", "Ĥ")]
    tokens = [*alphabet, *(a + b for a, b in merges)]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def build(architecture: str, seed: int = 0) -> LanguageModel:
    """A model of its own (free to be changed) with random weights, norms' weights and biases included."""
    torch.manual_seed(seed)
    model = Auto.from_config(CONFIGS[architecture](), attn_implementation="eager").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.add_(0.2 * torch.randn_like(weight))
            if "embed" in name or "wte" in name:
                weight.mul_(3)
    return LanguageModel(architecture, model, word_tokenizer())


@cache
def tiny(architecture: str) -> LanguageModel:
    """The shared, read-only model of an architecture."""
    return build(architecture)


def wrap_with_lora(seed: int = 0) -> LanguageModel:
    """A PEFT-wrapped Llama whose adapter really changes it (B is not zero)."""
    from peft import LoraConfig, get_peft_model

    lm = build("llama", seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft's
        model = get_peft_model(lm.model, config).eval()
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    return LanguageModel("llama+lora", model, lm.tokenizer, adapter=True)


LABELS = ("backtracking", "deduction")
UNLISTED = "musing"  # a label that is on spans and gets no groups of its own


def random_items(count: int = 9, seed: int = 0, *, longest: int = 50) -> list[Item]:
    """Traces with spans at random places, some so near an end that their windows run off."""
    draw = random.Random(seed)
    items = []
    for number in range(count):
        prompt = tuple(draw.randrange(3, UNUSED) for _ in range(draw.randint(3, 9)))
        ids = tuple(draw.randrange(3, UNUSED) for _ in range(draw.randint(12, longest)))
        starts = sorted(draw.sample(range(len(ids)), min(len(ids), draw.randint(4, 12))))
        labels = [draw.choice((*LABELS, UNLISTED) if number % 3 else ("deduction", UNLISTED)) for _ in starts]
        spans = [
            Span(
                trace_id=f"t{number}",
                label=label,
                judge="test",
                start=at,
                end=at + 1,
                first=len(prompt) + at,
                last=len(prompt) + at,
            )
            for at, label in zip(starts, labels, strict=True)
        ]
        trace = Trace(
            id=f"t{number}",
            prompt_id=f"t{number}",
            prompt="",
            text="x" * len(ids),
            prompt_ids=prompt,
            ids=ids,
            starts=tuple(range(len(ids))),
        )
        items.append(Item(trace, spans, trace.tokens))
    return items
