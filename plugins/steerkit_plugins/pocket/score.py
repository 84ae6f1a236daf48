"""Whether a generated trace ends with the right answer."""

from __future__ import annotations

import re

ANSWER = re.compile(r"has (\d+) \w+\.")


def stated(answer: str) -> str | None:
    """The count that an answer states last, or None."""
    found = ANSWER.findall(answer)
    return found[-1] if found else None


def final_answer(text: str) -> str | None:
    """The count stated after `</think>`, or None where the text doesn't get there."""
    return stated(text.partition("</think>")[2])


def is_right(text: str, answer: str) -> bool:
    """Whether the text's final answer is the problem's."""
    return final_answer(text) == answer
