"""The metrics of a run: the score judge's own, the span judge's shares of sentences, and right answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from steerkit.errors import InputError, Problem, nearest
from steerkit.interfaces import OTHER, Judge, Metric
from steerkit.judging.ask import metrics_of, name_of
from steerkit.store.files import write_json

FILE = "metrics.json"
"""What the metrics of the tables are, beside them in the run folder."""

JUDGED, OTHERS, ACCURACY = "judged_sentences", "other_sentences", "accuracy"
OWN = (JUDGED, "judged_uncollapsed", OTHERS, ACCURACY)
"""Metrics that a run has whatever its score judge is."""

WORDS = "share of words"
SHARE = (0.0, 1.0)
AS_UNSTEERED = ", collapsed texts as unsteered"


class MetricsError(InputError):
    """Settings that don't fit the metrics; each problem's `where` is the setting's key, dotted."""


@dataclass(frozen=True)
class RunMetric(Metric):
    """A metric in a run's tables.

    Attributes:
        judge: plugin whose number it is; ``answer`` for what the prompt source checks.
        plain: the metric that this is with collapsed generations counted as their unsteered ones; empty for others.
        main: whether claims are made about it.
        shown: whether reports draw and tabulate it; the tables have all.
    """

    judge: str = ""
    plain: str = ""
    main: bool = False
    shown: bool = True

    @property
    def difference(self) -> tuple[float, float]:
        """Limits of the difference of two values."""
        low, high = self.limits
        return low - high, high - low

    @property
    def sign(self) -> int:
        """1 where up is better, -1 where down is, 0 where neither."""
        return {"up": 1, "down": -1, "neither": 0}[self.better]

    def text(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.2%}" if self.of else f"{value:.4g}, {self.unit}"


def run_metrics(
    span_judge: Judge, score_judge: Judge, *, label: str, scored: str, per: str, answers: bool
) -> tuple[RunMetric, ...]:
    """The metrics of a run, in the order of its tables.

    Args:
        label: the label that the vector is fitted to.
        scored: the text that the score judge reads (`Scoring.scored`).
        per: what its rates are per (`Scoring.per`).
        answers: whether the prompt source can check answers.

    Raises:
        MetricsError: the span judge lacks the label; a metric of the score judge has a name of the run's own, or none
            is a rate per word where `per: tokens` asks for one.
        SteerkitError: a judge can't say what its labels or metrics are.
    """
    problems = unlabelled("fitter.label", "span judge", span_judge, label)
    same = same_numbers(span_judge, score_judge, scored)
    found = list(_scored(score_judge, label, same))
    if per == "tokens" and not any(metric.unit == WORDS for metric in found):
        units = ", ".join(dict.fromkeys(metric.unit for metric in found))
        what = f"the score judge {name_of(score_judge)!r} has no rate per word ({WORDS!r}) to take per token ({units})"
        problems.append(Problem("per", what, "leave it out"))
    own = [*(_judged(name_of(span_judge), label) if span_judge.labels_texts else ()), _accuracy()]
    metrics = tuple(_per_token(m) if per == "tokens" else m for m in (*found, *own[: None if answers else -1]))
    twice = [name for name, n in Counter(metric.name for metric in (*found, *own)).items() if n > 1]
    if twice:
        what = f"the score judge {name_of(score_judge)!r} has metrics with names of the run's own: {', '.join(twice)}"
        problems.append(Problem("score_judge", what, "rename them"))
    if problems:
        raise MetricsError("metrics", problems)
    return metrics


def unlabelled(key: str, role: str, judge: Judge, label: str) -> list[Problem]:
    """A judge that can't count the sentences with the fitted label, as it never gives it."""
    labels = list(judge.labels())
    if label in labels:
        return []
    what = f"the {role} {name_of(judge)!r} has no label {label!r} (fitter.label) to count sentences by"
    return [Problem(key, what, nearest(label, labels))]


def shares_labels(judge: Judge) -> bool:
    """Whether a judge's metrics are the shares of its labels."""
    return type(judge).metrics is Judge.metrics and type(judge).score is Judge.score


def same_numbers(span_judge: Judge, score_judge: Judge, scored: str) -> bool:
    """Whether the score judge's shares of labels are those that the span judge gives: one judge, the same texts."""
    same = type(span_judge) is type(score_judge) and span_judge.config == score_judge.config
    return same and scored == "trace" and shares_labels(score_judge)


def _scored(judge: Judge, label: str, known: bool) -> Iterator[RunMetric]:
    """The score judge's metrics; each one with a direction also with collapsed texts counted as unsteered.

    Of shares of labels the fitted label's comes first: it is to rise. Where the span judge gives the same numbers, the
    label and `other` have their names there.
    """
    metrics, shares = metrics_of(judge), shares_labels(judge)
    if shares:
        metrics = [replace(m, better="up") if m.name == label else m for m in metrics]
        metrics = sorted(metrics, key=lambda m: m.name != label)
    if known:
        metrics = [metric for metric in metrics if metric.name not in (label, OTHER)]
    for index, metric in enumerate(metrics):
        given = {field.name: getattr(metric, field.name) for field in fields(Metric)}
        main = index == 0 and not known
        found = RunMetric(
            **{**given, "title": metric.title or metric.name}, judge=name_of(judge), main=main, shown=main or not shares
        )
        yield found
        if found.sign:
            yield _uncollapsed(found, f"{found.name}_uncollapsed")


def _judged(judge: str, label: str) -> list[RunMetric]:
    judged = RunMetric(
        JUDGED, "share of sentences", SHARE, "up", "judged sentences", f"sentences judged {label}", judge, main=True
    )
    damage = "sentences that fit no label (text damage)"  # a gauge: nothing is claimed or chosen by it
    others = RunMetric(OTHERS, "share of sentences", SHARE, "neither", "other sentences", damage, judge, shown=False)
    return [judged, _uncollapsed(judged, "judged_uncollapsed"), others]


def _accuracy() -> RunMetric:
    return RunMetric(ACCURACY, "share of texts", SHARE, "up", "right answers", judge="answer", shown=False)


def _uncollapsed(metric: RunMetric, name: str) -> RunMetric:
    title = f"{metric.title}{AS_UNSTEERED}"
    return replace(metric, name=name, title=title, about="", plain=metric.name, main=False, shown=False)


def _per_token(metric: RunMetric) -> RunMetric:
    return replace(metric, unit="share of tokens") if metric.unit == WORDS else metric


def unchoosable(key: str, name: str, metrics: Sequence[RunMetric]) -> list[Problem]:
    """What keeps a strength from being chosen by a metric.

    Args:
        key: of the option that names it.
        name: empty for the first metric that claims are about.
    """
    found = {metric.name: metric for metric in metrics}
    directed = [metric.name for metric in metrics if metric.sign]
    name = name or next((metric.name for metric in metrics if metric.main), "")
    if name not in found:
        return [Problem(key, f"there is no metric {name!r} in this run", nearest(name, directed))]
    if not found[name].sign:
        what = f"{name!r} ({found[name].unit}) is better neither up nor down, so nothing can be chosen by it"
        return [Problem(key, what, f"choose from {', '.join(directed)}")]
    return []


def write_metrics(folder: Path, metrics: Sequence[RunMetric]) -> None:
    """Write ``metrics.json``."""
    write_json(folder / FILE, [asdict(metric) for metric in metrics])


def read_metrics(folder: Path) -> tuple[RunMetric, ...]:
    """Read ``metrics.json``."""
    rows: list[dict[str, Any]] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return tuple(RunMetric(**{**row, "bounds": tuple(row["bounds"])}) for row in rows)
