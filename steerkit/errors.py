"""Errors that a user can act on. The command line prints them without a traceback and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class SteerkitError(Exception):
    """What was wrong, where, and what to do about it, in words."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a user's input.

    Attributes:
        where: ``file:line:column``, ``--set key`` or the like.
        message: what is wrong there.
        fix: what to do; empty when the message says it.
    """

    where: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f"; {self.fix}" if self.fix else "")


class InputError(SteerkitError):
    """All problems of one input, at once."""

    def __init__(self, what: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"{what}: {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


def nearest(name: str, valid: Sequence[str]) -> str:
    """The way out of a misspelt name: ``did you mean 'x'?`` or the list of valid ones."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose from " + ", ".join(sorted(valid)) if valid else "there are none to choose from"
