"""Points from 0 to 100 by a language model, one metric a rubric."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from steerkit.interfaces import Metric
from steerkit_plugins.judges.llm_score.asking import Asking, Replies
from steerkit_plugins.judges.llm_score.config import LLMScoreConfig
from steerkit_plugins.judges.llm_score.reading import Reading
from steerkit_plugins.judges.llm_score.rubric import Rubric
from steerkit_plugins.llm.batch import Request
from steerkit_plugins.llm.failures import Failure
from steerkit_plugins.llm.judging import AskingJudge, written
from steerkit_plugins.llm.notes import notes_of

POINTS = "points 0 to 100"
EXAMPLES = 3  # of texts without points, a metric
SHOWN = 80  # characters of an example


class LLMScoreJudge(AskingJudge):
    """Asks a language model how far each text is what a rubric says."""

    Config = LLMScoreConfig

    def open(self, folder: Path, progress: Callable[[int, int], None]) -> None:
        super().open(folder, progress)
        self._asking = Asking(self.config, self._client, self._rubrics)

    @cached_property
    def _rubrics(self) -> Mapping[str, Rubric]:
        rubrics: dict[str, Rubric] = self.config.loaded()
        return rubrics

    def metrics(self) -> Sequence[Metric]:
        return [
            Metric(name, POINTS, (0.0, 100.0), rubric.better, about=rubric.about)
            for name, rubric in self._rubrics.items()
        ]

    def _unanswered(self, texts: Sequence[str]) -> Iterable[Request]:
        return self._asking.unanswered(texts)

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """For each text its points by metric: NaN where an answer has none, nothing for a text of whitespace.

        Raises:
            SteerkitError: answers that can't be used, counted by kind; what was answered is kept.
        """
        asked_before = self._client.asked
        replies = self._asking.replies(written(texts))
        self._notes = self._noted(replies, self._client.asked - asked_before)
        failures = [r for r in replies.readings.values() if isinstance(r, Failure)]
        self._check(failures, len(replies.readings), "scores")
        values = {key: r.value if isinstance(r, Reading) else math.nan for key, r in replies.readings.items()}
        return [{name: values[name, text] for name in self._rubrics if text.strip()} for text in texts]

    def _noted(self, replies: Replies, asked: int) -> dict[str, Any]:
        by_metric: dict[str, dict[str, Reading | Failure]] = {name: {} for name in self._rubrics}
        for (name, text), reading in replies.readings.items():
            by_metric[name][text] = reading
        return {
            "method": replies.method,
            **({"calibration": replies.seen} if replies.seen else {}),
            "scores": {name: _counted(own) for name, own in by_metric.items()},
            "unusable_answers": _kinds(replies.readings.values()),
            **notes_of(self._client, replies.answers, asked),
        }


def _kinds(readings: Iterable[Reading | Failure]) -> dict[str, int]:
    """Why there are no points → how many have none for that."""
    return dict(Counter(reading.kind for reading in readings if isinstance(reading, Failure)))


def _counted(readings: Mapping[str, Reading | Failure]) -> dict[str, Any]:
    """Figures on a metric's texts: how many have no points, why, and which, for one."""
    failures = {text: r for text, r in readings.items() if isinstance(r, Failure)}
    shares = [r.share for r in readings.values() if isinstance(r, Reading)]
    refused = sum(failure.kind == "refused" for failure in failures.values())
    total = max(len(readings), 1)
    return {
        "texts": len(readings),
        "missing": len(failures),
        "missing_share": len(failures) / total,
        "refused": refused,
        "refused_share": refused / total,
        "unusable_answers": _kinds(readings.values()),
        "mean_mass": math.fsum(shares) / len(shares) if shares else 0.0,
        "examples": [
            {"text": text[:SHOWN], "why": failure.kind, "answer": failure.message}
            for text, failure in list(failures.items())[:EXAMPLES]
        ],
    }
