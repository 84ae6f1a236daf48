"""What a check measures, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steerkit.checks.probe import Probe


class Skip(Exception):
    """The check can't be made on this model; the message says why."""


@dataclass(frozen=True)
class Measured:
    """One check's figure.

    Attributes:
        error: size of the largest difference found; in the check's own unit, relative unless it says otherwise.
        tolerance: largest error that passes.
        detail: what was compared, in a few words.
    """

    error: float
    tolerance: float
    detail: str = ""


@dataclass(frozen=True)
class Check:
    """A named invariant. The docstring of `measure` says what is compared and, after `Failure:`, what to do."""

    name: str
    measure: Callable[[Probe], Measured]

    @property
    def about(self) -> str:
        return self._parts[0]

    @property
    def failure(self) -> str:
        """What a failure means and what to do about it."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str, str]:
        about, _, failure = " ".join((self.measure.__doc__ or "").split()).partition("Failure: ")
        return about.strip(), failure.strip()


@dataclass(frozen=True)
class Outcome:
    """A check's result; `passed` is None when it was skipped, and `detail` says why."""

    name: str
    error: float | None
    tolerance: float | None
    passed: bool | None
    detail: str

    @property
    def verdict(self) -> str:
        return "skipped" if self.passed is None else "pass" if self.passed else "FAIL"
