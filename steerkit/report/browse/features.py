"""What the page shows: features, their figures, and the contexts in which they are strongest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from steerkit.errors import Problem, SteerkitError

Value = float | int | str | None
"""A figure or a word; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the list.

    Attributes:
        key: by which `Feature.values` has its values.
        title: its heading.
        about: what it is, in a line.
        digits: after the point.
        better: which end comes first when the list is sorted by it; the high one where it is left out.
    """

    key: str
    title: str
    about: str = ""
    digits: int = 2
    better: Literal["up", "down", ""] = ""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A context: a stretch of a text, and the feature's value at each of its tokens.

    Attributes:
        tokens: their texts, line breaks and all.
        values: one a token.
        at: number of the token that the context was taken for.
        facts: where it is from, in a few words.

    Raises:
        SteerkitError: not one value a token, values that are not finite, or no token `at`.
    """

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    at: int
    facts: str = ""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.values) or not all(map(math.isfinite, self.values)):
            raise SteerkitError(
                f"context {self.facts!r}: a finite value is wanted for each of its {len(self.tokens)} tokens"
            )
        if not 0 <= self.at < len(self.tokens):
            raise SteerkitError(f"context {self.facts!r}: has {len(self.tokens)} tokens, so none at {self.at}")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A unit with one of its signs, a latent, a neuron: a line of the list.

    Attributes:
        name: its own on the page; links name it.
        kind: ``unit``, ``latent``, ``neuron``, ...
        values: by the key of a column. Columns of few different words can be filtered by.
        explanation: what it fires on, in words.
        label: a class that it was given.
        contexts: the strongest first.
    """

    name: str
    kind: str
    values: Mapping[str, Value] = field(default_factory=dict)
    explanation: str = ""
    label: str = ""
    contexts: tuple[Shown, ...] = ()

    @cached_property
    def largest(self) -> float:
        """The largest |value| in its contexts."""
        return max((max(max(shown.values), -min(shown.values)) for shown in self.contexts), default=0.0)

    @property
    def strongest(self) -> list[str]:
        """Texts of the tokens that its contexts were taken for, the commonest first."""
        return [token for token, _ in Counter(shown.tokens[shown.at] for shown in self.contexts).most_common()]


def problems(features: Sequence[Feature], columns: Sequence[Column]) -> Iterator[Problem]:
    """What can't be shown: names that are there twice, values of no column."""
    keys = {column.key for column in columns}
    if len(keys) < len(columns):
        yield Problem("columns", "two have one key", "give each one its own")
    counts = Counter(feature.name for feature in features)
    for name, count in counts.items():
        if count > 1 or not name.strip():
            yield Problem(f"feature {name!r}", f"{count} have this name", "give each one its own: links name it")
    for feature in features:
        if unknown := sorted(feature.values.keys() - keys):
            yield Problem(f"feature {feature.name!r}", f"has values of no column: {', '.join(unknown)}")
