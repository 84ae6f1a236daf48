"""Spans labelled by a language model, found again in the original text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from steerkit.data.annotation import Aligned, align
from steerkit.errors import SteerkitError
from steerkit.interfaces import Judge
from steerkit.judging.taxonomy import load_taxonomy
from steerkit_plugins.judges.llm.asking import Asking, Reply
from steerkit_plugins.judges.llm.config import LLMJudgeConfig
from steerkit_plugins.llm.answers import Answers, default_folder
from steerkit_plugins.llm.client import Client
from steerkit_plugins.llm.cost import expected_tokens
from steerkit_plugins.llm.failures import UNUSABLE, Failure, described
from steerkit_plugins.llm.notes import notes_of


class LLMJudge(Judge):
    """Asks a language model to split each text into sections and to label them.

    The answers are kept (`LLMConfig.cache`): the same text is never paid for twice, and a run replays offline.
    """

    Config = LLMJudgeConfig

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._labels = load_taxonomy(self.config.taxonomy)
        self._notes: dict[str, Any] = {}
        self.open(default_folder("llm"), lambda done, total: None)

    def open(self, folder: Path, progress: Callable[[int, int], None]) -> None:
        answers = Answers(Path(self.config.cache).expanduser() if self.config.cache else folder)
        self._client = Client(self.config, answers, progress)
        self._asking = Asking(self.config, self._client, self._labels)

    def labels(self) -> Sequence[str]:
        return tuple(self._labels)

    def notes(self) -> dict[str, Any]:
        return self._notes

    def estimate(self, texts: Iterable[str]) -> dict[str, float]:
        """Calls, tokens and dollars (where prices are known) for the texts that were not answered before, about."""
        requests = self._asking.unanswered(dict.fromkeys(text for text in texts if text.strip()))
        calls, sums = 0, [0.0, 0.0]
        for request in requests:
            calls += 1
            sums = [total + more for total, more in zip(sums, expected_tokens(request), strict=True)]
        prices = self.config.prices()
        dollars = {"dollars": round(prices.dollars(*sums), 4)} if prices else {}
        return {"calls": calls, "input tokens": round(sums[0]), "output tokens": round(sums[1]), **dollars}

    def annotate(self, texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        """For each text its spans in order; none for a text that was left out.

        Raises:
            SteerkitError: texts without a usable answer, counted by kind; what was answered is kept.
        """
        asked_before = self._client.asked
        replies = self._asking.replies(list(dict.fromkeys(text for text in texts if text.strip())))
        labels = (*self._labels, "other")
        aligned = {t: align(t, r.sections, labels) for t, r in replies.items() if isinstance(r, Reply)}
        failures = {t: r for t, r in replies.items() if isinstance(r, Failure)}
        low = {text for text, found in aligned.items() if found.coverage < self.config.min_coverage}
        self._notes = self._noted(replies, aligned, low, self._client.asked - asked_before)
        self._check(failures, len(replies))
        return [list(aligned[text].spans) if text in aligned and text not in low else [] for text in texts]

    def _check(self, failures: dict[str, Failure], total: int) -> None:
        lost = [f for f in failures.values() if f.kind not in UNUSABLE or self.config.unusable == "error"]
        if lost:
            c = self.config
            raise SteerkitError(
                f"{c.model} at {c.base_url}: {len(lost):,} of {total:,} texts have no usable answer; what was "
                f"answered is kept and not paid for again: mend this and give the same command again\n{described(lost)}"
            )

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
