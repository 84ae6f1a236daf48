"""The answer that a text ends with, out of the sentence around it."""

from __future__ import annotations

import re

TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")


def final_answer(text: str) -> str:
    """What stands in the last ``<answer>`` or, without one, the last ``\\boxed{}``; else the whole text."""
    for pattern in (TAGGED, BOXED):
        found = pattern.findall(text)
        if found:
            return str(found[-1]).strip()
    return text.strip()
