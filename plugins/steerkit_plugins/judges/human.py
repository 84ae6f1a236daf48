"""Labels that people gave, as a judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from steerkit.annotate.store import ADJUDICATED, HUMAN, labels_of, read_log
from steerkit.data.trace import Span, Trace, read_jsonl, read_rows
from steerkit.errors import SteerkitError
from steerkit.interfaces import Config, Judge
from steerkit.store.files import digest

Labels = dict[tuple[int, int], dict[str, str]]
"""(start, end) → judge → label."""


class HumanConfig(Config):
    labels: tuple[str, ...] = Field(min_length=1)
    """Files with labels: RUN/annotations/NAME.jsonl, or what `steerkit annotate RUN --export` wrote."""
    traces: str | None = None
    """traces.jsonl that exported labels belong to; annotation files know their texts themselves."""

    @field_validator("labels", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        # a recipe's list becomes a tuple here: behind a validator pydantic no longer knows that it is JSON's
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value

    def reads(self) -> dict[str, list[Path]]:
        return {"labels": [*map(Path, self.labels)], "traces": [Path(self.traces)] if self.traces else []}


class HumanJudge(Judge):
    """People's labels, found again by the text. Where annotators differ, the adjudicated label counts.

    Only what was labelled is answered: of a text that is labelled in part, `score` gives shares of that part.
    """

    Config = HumanConfig

    def labels(self) -> Sequence[str]:
        given = {label for spans in self._by_text.values() for votes in spans.values() for label in votes.values()}
        return sorted(given - {"other"})

    def annotate(self, texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        """Raises: SteerkitError when a text has no labels, or annotators differ and nobody has decided."""
        unknown = [text for text in texts if text.strip() and digest(text) not in self._by_text]
        if unknown:
            raise SteerkitError(
                f"{len(unknown)} of {len(texts)} texts have no labels by people in {', '.join(self.config.labels)}, "
                f"the first begins {unknown[0].strip()[:60]!r}; label them with `steerkit annotate RUN --annotator "
                "NAME`, and name RUN/annotations/NAME.jsonl under `labels`"
            )
        found = [self._by_text.get(digest(text), {}) for text in texts]
        open_ = sum(_decided(votes) is None for spans in found for votes in spans.values())
        if open_:
            raise SteerkitError(
                f"annotators differ on {open_} spans; decide them with `steerkit annotate RUN --adjudicate`, and name "
                f"RUN/annotations/{ADJUDICATED}.jsonl under `labels` too"
            )
        return [[(*place, str(_decided(votes))) for place, votes in sorted(spans.items())] for spans in found]

    @cached_property
    def _by_text(self) -> dict[str, Labels]:
        found: dict[str, Labels] = {}
        for name in self.config.labels:
            for text, place, judge, label in self._read(Path(name)):
                found.setdefault(text, {}).setdefault(place, {})[judge] = label
        return found

    def _read(self, path: Path) -> Iterator[tuple[str, tuple[int, int], str, str]]:
        """(digest of the text, place, judge, label) of each label in a file."""
        if not path.is_file():
            raise SteerkitError(f"{path}: no such file of labels; the path is relative to {Path.cwd()}")
        rows = read_jsonl(path, [])
        if rows and isinstance(rows[0][1], dict) and "action" in rows[0][1]:
            for (_, start, end), row in labels_of(read_log(path)).items():
                yield row["digest"], (start, end), row["judge"], row["label"]
            return
        if self.config.traces is None:
            raise SteerkitError(
                f"{path}: holds spans without their texts; name the traces.jsonl that they are of under `traces`, or "
                "give the recipe this file as `spans`"
            )
        texts = {trace.id: digest(trace.text) for trace in read_rows(self.config.traces, Trace)}
        for span in read_rows(path, Span):
            if span.trace_id not in texts:
                raise SteerkitError(f"{path}: has spans of {span.trace_id!r}, which is not in {self.config.traces}")
            yield texts[span.trace_id], (span.start, span.end), span.judge, span.label


def _decided(votes: dict[str, str]) -> str | None:
    """The label of a span; None where annotators differ and nobody has decided."""
    labels = set(votes.values())
    return votes.get(HUMAN + ADJUDICATED) or (labels.pop() if len(labels) == 1 else None)
