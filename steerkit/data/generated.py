"""Generated texts and their scores, as rows on disk."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Label = str | float | int
"""Value of a condition's label: a column of the tables."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A text that was written under a condition, a line of ``generations/SPLIT.jsonl``.

    Attributes:
        labels: the condition's.
        added_norm: L2 norm that is added at every steered token; 0 for the plain model.
        sample: number of the text, where a prompt has several.
        finished: whether the model ended it (not the length limit).
        ids: generated token ids, the end token left out.
        starts: character of `text` at which each token starts.
        continues: tokens that continue a character which one before them began.
        broken: where values stopped being finite, in words; empty for a whole text.
    """

    split: str
    condition: str
    labels: Mapping[str, Label]
    added_norm: float
    prompt_id: str
    sample: int
    finished: bool
    text: str
    ids: tuple[int, ...]
    starts: tuple[int, ...]
    continues: tuple[int, ...] = ()
    broken: str = ""

    @property
    def name(self) -> tuple[str, str, str, int]:
        """What tells it from all other texts of a run."""
        return self.split, self.condition, self.prompt_id, self.sample

    @property
    def id(self) -> str:
        """`Span.trace_id` of a span that stands in it."""
        return f"{self.condition}/{self.prompt_id}/{self.sample}"

    def to_json(self) -> dict[str, Any]:
        """A row of the file: labels are fields of their own; what is empty for most texts is left out."""
        return {
            "split": self.split,
            "condition": self.condition,
            **self.labels,
            "added_norm": round(self.added_norm, 6),
            "prompt_id": self.prompt_id,
            "sample": self.sample,
            "finished": self.finished,
            "text": self.text,
            "ids": list(self.ids),
            "starts": list(self.starts),
            **({"continues": list(self.continues)} if self.continues else {}),
            **({"broken": self.broken} if self.broken else {}),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Generation:
        """A row of the file. Raises: KeyError where a field is missing."""
        fields = {field.name for field in dataclasses.fields(cls)}
        return cls(
            split=row["split"],
            condition=row["condition"],
            labels={name: value for name, value in row.items() if name not in fields},
            added_norm=row["added_norm"],
            prompt_id=row["prompt_id"],
            sample=row["sample"],
            finished=row["finished"],
            text=row["text"],
            ids=tuple(row["ids"]),
            starts=tuple(row["starts"]),
            continues=tuple(row.get("continues", ())),
            broken=row.get("broken", ""),
        )


@dataclass(frozen=True, kw_only=True)
class Score:
    """Figures of one generation, a line of ``scores/SPLIT.jsonl``.

    Attributes:
        values: metric → value; what a text has no value of is left out, as of an empty reasoning.
        collapsed: whether it repeats itself (`steerkit.judging.repetition`).
        words: number of words of the reasoning.
        repeat: longest run of one word.
        distinct: share of its word pairs that are different ones.
        log_likelihood: of all its tokens, in nats, under its own model without steering; None where it wasn't taken.
        tokens: number of generated tokens.
    """

    split: str
    condition: str
    prompt_id: str
    sample: int
    values: Mapping[str, float]
    collapsed: bool
    words: int
    repeat: int
    distinct: float
    log_likelihood: float | None = None
    tokens: int = 0

    def value(self, metric: str) -> float:
        """The value of a metric; NaN where there is none."""
        return self.values.get(metric, math.nan)
