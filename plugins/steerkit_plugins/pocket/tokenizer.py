"""A word-level tokenizer that gives every text back exactly.

A token is a word, a number, a sign or a change such as "+5", with the blank before it if there is
one. It is a BPE model without merges: what stands in the vocabulary is one token, and anything else
falls apart into characters, so that a user's own text can be read too.
"""

from __future__ import annotations

from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from steerkit_plugins.pocket.corpus import document, trace
from steerkit_plugins.pocket.ledger import MOST

PIECE = Regex(r" ?[A-Za-z]+:?| ?[+-]?[0-9]+| ?[^\sA-Za-z0-9]|\s")
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
THINK = ("<think>", "</think>")
CHARACTERS = [chr(c) for c in range(ord(" "), ord("~") + 1)] + ["\n"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ bos_token + 'Question: ' + message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<think>' }}{% endif %}"
)
"""The pair's: answers begin with a trace."""

DIRECT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'Solution: ' + message['content'] + eos_token }}"
    "{% else %}{{ bos_token + 'Question: ' + message['content'] + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Solution:' }}{% endif %}"
)
"""That of a model which answers without a trace, after the token that opens the base corpus' solutions."""


def words() -> list[str]:
    """Every piece in a fixed sample of the corpus, in a fixed order."""
    rng = Random(0)
    cut = pre_tokenizers.Split(PIECE, "isolated")
    texts = [document(rng).learned for _ in range(3000)] + [trace(rng).learned for _ in range(3000)]
    seen = {piece for text in texts for piece, _ in cut.pre_tokenize_str(text)}
    seen |= {f" {n}" for n in range(MOST + 1)}
    return sorted(seen - set(CHARACTERS) - {" " + t for t in THINK})


def build(chat_template: str = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """The tokenizer all models share; their chat templates differ."""
    special = [*SPECIAL.values(), *THINK]
    vocabulary = {piece: i for i, piece in enumerate([*special, *CHARACTERS, *words()])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(PIECE, "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=chat_template,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        **SPECIAL,
    )
