"""Small chat templates with the features of real ones, and a tokenizer that uses them."""

from __future__ import annotations

import copy

from tiny import byte_tokenizer
from transformers import PreTrainedTokenizerFast

TURNS = "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
OPENED = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
PLAIN = TURNS + OPENED

R1 = TURNS + "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
"""The model's turn is opened with a tag."""

LED = TURNS + "{% if add_generation_prompt %}{{ '<|assistant|>Let me think.\\n' }}{% endif %}"
"""The model's turn is opened with a sentence."""

QWEN = TURNS + (
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
"""Thinking can be turned off: an empty thought is written."""

PAST_THOUGHTS = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}"
    "{{ '<|assistant|><think>\\n\\n</think>\\n\\n' + m.content + '<|end|>' }}"
    "{% else %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
)
"""A last assistant turn gets a thought of its own, as Qwen3's templates write one."""

STRICT = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}" + OPENED
)
"""No system role: it raises, and turns must alternate."""

DROPPING = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ '<|' + m.role + '|>' + m.content }}{% endif %}{% endfor %}"
    + OPENED
)
"""No system role: its text is left out without a word."""

ALL_USERS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{% else %}{{ '<|user|>' + m.content }}"
    "{% endif %}{% endfor %}" + OPENED
)
"""No system role: whoever is not the model is the user."""

LAST_ONLY = "{{ '<|user|>' + messages[-1].content }}" + OPENED
"""Only the last message is read."""

DATED = (
    "\n  {%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% macro today() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}"
    "{{ 'Today: ' + date_string + '\\n' }}{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    + OPENED
)
"""Llama 3.1's date, which can be given."""

ALWAYS_DATED = "{% macro today() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}{{ today() }}" + PLAIN
"""gpt-oss's date, which can't."""


def tokenizer_with(template: str | None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose tags are single tokens; it puts no token before a plain text."""
    found = copy.deepcopy(byte_tokenizer())
    tags = [f"<|{name}|>" for name in ("system", "user", "assistant", "end")]
    found.add_special_tokens({"bos_token": "<s>", "eos_token": "<|end|>", "extra_special_tokens": tags})
    found.add_tokens(["<think>", "</think>"])
    found.chat_template = template
    return found
