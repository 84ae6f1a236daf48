"""The answer that a text ends with, out of the sentence around it."""

from __future__ import annotations

import re

BEGIN, END = "<answer>", "</answer>"
BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")


def final_answer(text: str) -> str:
    """What stands in the last ``<answer>`` or, without one, the last ``\\boxed{}``; else the whole text."""
    tagged = _last_tagged(text)
    if tagged is None:
        boxed = BOXED.findall(text)
        tagged = str(boxed[-1]) if boxed else text
    return tagged.strip()


def _last_tagged(text: str) -> str | None:
    """Tags are paired from the left; a text may repeat one that is never closed."""
    found, at = None, 0
    while (begin := text.find(BEGIN, at)) >= 0 and (end := text.find(END, begin)) >= 0:
        found, at = text[begin + len(BEGIN) : end], end + len(END)
    return found
