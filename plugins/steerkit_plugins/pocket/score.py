"""Whether a generated trace ends with the right answer."""

from __future__ import annotations

import re

ANSWER = re.compile(r"has (\d+) \w+\.")


def final_answer(text: str) -> str | None:
    """The count stated after `</think>`, or None where the text doesn't get there."""
    _, closed, tail = text.partition("</think>")
    found = ANSWER.findall(tail) if closed else []
    return found[-1] if found else None


def is_right(text: str, answer: str) -> bool:
    """Whether the text's final answer is the problem's."""
    return final_answer(text) == answer
