"""What a reasoning model writes before its answer, cut off.

Servers that know a model's draft put it into a field of its own; others leave it in the text, between marks that
differ by family. Only a draft that the text begins with is cut: marks further on are the answer's own text.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Marks(NamedTuple):
    """How a family's drafts begin and end, as patterns; `sure` where people don't write such marks."""

    begin: str
    end: str
    sure: bool = True


_TAGS = ("think", "thinking", "thought", "thoughts", "reasoning", "analysis", "seed:think")
_CHANNEL = r"<\|channel\|>\s*"

DRAFTS = (
    *(Marks(f"<{name}>", f"</{name}>") for name in _TAGS),  # DeepSeek, Qwen, GLM, EXAONE, Seed and others
    Marks(r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    Marks(  # gpt-oss
        rf"(?:<\|start\|>\s*assistant\s*)?{_CHANNEL}(?:analysis|commentary)\b",
        rf"{_CHANNEL}final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>",
    ),
    Marks(r"analysis(?-i:(?=[A-Z]))", "assistantfinal", sure=False),  # gpt-oss without its special tokens
    Marks(r"<\|channel>\s*thought\b", r"<channel\|>"),  # Gemma
    Marks(r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command
    Marks(r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker
    Marks(r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    Marks(r"<\|open\|>think<\|sep\|>", r"<\|close\|>think<\|sep\|>"),  # Kimi K3
    Marks("◁think▷", "◁/think▷"),  # Kimi VL
    Marks("Here(?:'s| is) my thought process:", "Here(?:'s| is) my response:", sure=False),  # Granite
)

_MARK = re.compile(
    "|".join(f"(?P<begin{n}>{d.begin})|(?P<end{n}>{d.end})" for n, d in enumerate(DRAFTS)), re.IGNORECASE
)
_TEXT = re.compile(r"\S")
_ANSWER = re.compile(r'(?:\{|\[\s*["{\]]|```)')
"""What an answer in a form begins with, and no draft does: JSON, a tag, a fence."""


def after_draft(answer: str, of: str = "") -> str | None:
    """An answer without the draft before it; None when a draft is all that it holds.

    A draft may also begin before the answer does, in the chat template: then it ends with a mark that nothing opened.

    Args:
        of: a text that the answer repeats: the families of marks that stand in there are left alone.
    """
    at = _answer_begins(answer, {number for number, _, _ in _marks(of)})
    return answer if at == 0 else answer[at:].lstrip() or None


def _answer_begins(answer: str, left_alone: set[int]) -> int:
    at, text = 0, _text_from(answer, 0)  # behind the last draft, and the first character there that is no space
    opened: int | None = None
    for number, begins, place in _marks(answer):
        if number in left_alone:
            continue
        if opened is not None:
            if begins or number != opened:
                continue
        elif begins and place.start() == text:
            opened = number
            continue
        elif not DRAFTS[number].sure:
            continue
        elif begins or _ANSWER.match(answer, text):
            return at
        at, text, opened = place.end(), _text_from(answer, place.end()), None
    return at if opened is None else len(answer)


def _text_from(answer: str, at: int) -> int:
    found = _TEXT.search(answer, at)
    return found.start() if found else len(answer)


def _marks(text: str) -> list[tuple[int, bool, re.Match[str]]]:
    """(number in `DRAFTS`, whether it begins a draft, match) of each mark in a text."""
    found = []
    for match in _MARK.finditer(text):
        name = str(match.lastgroup)
        found.append((int(name.removeprefix("begin").removeprefix("end")), name.startswith("begin"), match))
    return found


def draft_marks(text: str) -> list[str]:
    """The marks of drafts that stand in a text, each once: what is sent to a model is better without them."""
    return list(dict.fromkeys(match[0] for number, _, match in _marks(text) if DRAFTS[number].sure))
