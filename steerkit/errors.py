"""Errors that a user can act on. The command line prints them without a traceback and exits with 2."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SECRET = re.compile(
    r"(?<=://)[^/\s@'\"]*:[^/\s@'\"]*(?=@)|\bhf_[A-Za-z0-9]{16,}|\bsk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}"
    r"|(?<=Bearer )(?!\[)[^\s'\"]*[^\s'\".,:;)\]}]"
)
_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)$")
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class SteerkitError(Exception):
    """What was wrong, where, and what to do about it, in words; without secrets, and safe to print."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(redacted(message)))


def redacted(text: str) -> str:
    """A text without passwords in addresses, keys of known forms, and the values of variables such as HF_TOKEN."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, "[secret]")
    return _SECRET.sub("[secret]", text)


def printable(text: str) -> str:
    """A text that can't steer a terminal: what isn't printable (line breaks and tabs aside) as escapes."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


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


@contextmanager
def readable(folder: object) -> Iterator[None]:
    """Turn what goes wrong in files that don't fit together (edited, cut off, someone else's) into a plain message.

    Raises:
        SteerkitError: which folder, and what was run into.
    """
    try:
        yield
    except (SteerkitError, BrokenPipeError):
        raise
    except Exception as error:  # whatever the files led to: a reader can't foresee all of it
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        at = f", {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
        raise SteerkitError(
            f"{folder}: its files are damaged, or not of one run ({type(error).__name__}: {str(error)[:200]}{at}); if "
            "nobody changed them, that is a mistake of steerkit's: please report it"
        ) from error


def nearest(name: str, valid: Sequence[str]) -> str:
    """The way out of a misspelt name: ``did you mean 'x'?`` or the list of valid ones."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose from " + ", ".join(sorted(valid)) if valid else "there are none to choose from"
