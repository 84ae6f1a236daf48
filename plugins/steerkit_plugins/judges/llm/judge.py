"""Spans labelled by a language model, found again in the original text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from steerkit.data.annotation import Aligned, align
from steerkit.judging.taxonomy import load_taxonomy
from steerkit_plugins.judges.llm.asking import Asking, Reply
from steerkit_plugins.judges.llm.config import LLMJudgeConfig
from steerkit_plugins.llm.batch import Request
from steerkit_plugins.llm.failures import Failure
from steerkit_plugins.llm.judging import AskingJudge, written
from steerkit_plugins.llm.notes import notes_of


class LLMJudge(AskingJudge):
    """Asks a language model to split each text into sections and to label them."""

    Config = LLMJudgeConfig

    def open(self, folder: Path, progress: Callable[[int, int], None]) -> None:
        super().open(folder, progress)
        self._asking = Asking(self.config, self._client, self._labels)

    @cached_property
    def _labels(self) -> Mapping[str, str]:
        return load_taxonomy(self.config.taxonomy)

    def labels(self) -> Sequence[str]:
        return tuple(self._labels)

    def _unanswered(self, texts: Sequence[str]) -> Iterable[Request]:
        return self._asking.unanswered(texts)

    def annotate(self, texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        """For each text its spans in order; none for a text that was left out.

        Raises:
            SteerkitError: texts without a usable answer, counted by kind; what was answered is kept.
        """
        asked_before = self._client.asked
        replies = self._asking.replies(written(texts))
        labels = (*self._labels, "other")
        aligned = {t: align(t, r.sections, labels) for t, r in replies.items() if isinstance(r, Reply)}
        failures = {t: r for t, r in replies.items() if isinstance(r, Failure)}
        low = {text for text, found in aligned.items() if found.coverage < self.config.min_coverage}
        self._notes = self._noted(replies, aligned, low, self._client.asked - asked_before)
        self._check(failures.values(), len(replies), "texts")
        return [list(aligned[text].spans) if text in aligned and text not in low else [] for text in texts]

    def _noted(
        self, replies: dict[str, Reply | Failure], aligned: dict[str, Aligned], low: set[str], asked: int
    ) -> dict[str, Any]:
        rejected: Counter[str] = Counter()
        for found in aligned.values():
            rejected += found.rejected
        unusable = Counter(r.kind for r in replies.values() if isinstance(r, Failure))
        return {
            "annotated_traces": len(aligned),
            "mean_coverage": sum(a.coverage for a in aligned.values()) / len(aligned) if aligned else 0.0,
            "left_out_traces": len(low),
            "unlocated_spans": sum(a.unlocated for a in aligned.values()),
            "rejected_spans": dict(rejected),
            "empty_spans": sum(a.empty for a in aligned.values()),
            "unusable_answers": dict(unusable),
            **notes_of(self._client, [r.answer for r in replies.values() if r.answer], asked),
        }
