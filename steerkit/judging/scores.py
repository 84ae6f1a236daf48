"""Scores of generations by both judges, and the strength that they speak for."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steerkit.conditions import Condition, Planner, none
from steerkit.data.words import split_words
from steerkit.errors import SteerkitError
from steerkit.judging.metrics import ACCURACY, OTHERS, RunMetric
from steerkit.judging.quality import collapsed, distinct_2, longest_repeat


@dataclass(frozen=True)
class Score:
    """Figures of one generation.

    Attributes:
        values: metric → value; what a text has no value of is left out, as of an empty reasoning.
        log_likelihood: of all its `tokens`, in nats, under its own model without steering; NaN where it wasn't taken.
    """

    values: Mapping[str, float]
    collapsed: bool
    words: int
    repeat: int
    distinct: float
    log_likelihood: float = float("nan")
    tokens: int = 0

    def value(self, metric: str) -> float:
        """The value of a metric; NaN where there is none."""
        return self.values.get(metric, float("nan"))


class Scores:
    """All generations of a run, scored, by split, condition, prompt and sample.

    Args:
        by_id: (split, condition's id) → (prompt, sample) → figures.
        metrics: what the judges and the prompt source have figures of.
        broken: (split, condition's id) of conditions of which a text broke off (a value was not finite). The texts that
            are left would be a selection, so such a condition has no values at all.
    """

    def __init__(
        self,
        by_id: Mapping[tuple[str, str], dict[tuple[str, int], Score]],
        metrics: Sequence[RunMetric],
        broken: Collection[tuple[str, str]] = (),
    ) -> None:
        self._by_id, self._known, self._broken = by_id, tuple(metrics), frozenset(broken)
        checked = any(ACCURACY in score.values for own in by_id.values() for score in own.values())
        self.metrics = tuple(metric for metric in metrics if checked or metric.name != ACCURACY)

    @classmethod
    def of(
        cls,
        rows: Sequence[dict[str, Any]],
        traces: Sequence[str],
        values: Sequence[Mapping[str, float]],
        metrics: Sequence[RunMetric],
        likelihoods: Mapping[tuple[str, ...], float],
    ) -> Scores:
        """Scores of generations.

        Args:
            rows: as in ``generations.jsonl``.
            traces: reasoning of each.
            values: metric → value, of each; without those that a text has none of.
            metrics: what these metrics are.
            likelihoods: (split, condition, prompt id, sample) → log-likelihood, where these were asked for.
        """
        found: dict[tuple[str, str], dict[tuple[str, int], Score]] = {}
        broken = {(row["split"], row["condition"]) for row in rows if row.get("broken")}
        for row, text, own in zip(rows, traces, values, strict=True):
            whole = (row["split"], row["condition"]) not in broken
            score = Score(
                values=own if whole else {},
                collapsed=whole and collapsed(text),
                words=len(split_words(text)),
                repeat=longest_repeat(text),
                distinct=distinct_2(text),
                log_likelihood=likelihoods.get(name_of(row), float("nan")),
                tokens=len(row["ids"]),
            )
            found.setdefault((row["split"], row["condition"]), {})[row["prompt_id"], row["sample"]] = score
        return cls(found, metrics, broken)

    def is_broken(self, split: str, condition: Condition) -> bool:
        """Whether a text of the condition broke off."""
        return (split, condition.id) in self._broken

    def metric(self, name: str) -> RunMetric:
        """A metric by its name; accuracy too, where no answer could be checked."""
        return next(metric for metric in self._known if metric.name == name)

    def __getitem__(self, key: tuple[str, Condition]) -> dict[tuple[str, int], Score]:
        return self._by_id[key[0], key[1].id]

    def by_prompt(
        self, split: str, condition: Condition, metric: RunMetric, *, plain: bool = False
    ) -> tuple[list[str], np.ndarray]:
        """Prompts, and a value a prompt: the mean over its samples, NaN where none has any.

        Args:
            plain: count collapsed generations as they are also where the metric has them as unsteered ones.
        """
        scores = self[split, condition]
        unsteered = self._by_id.get((split, none(condition.target).id), scores)
        values: dict[str, list[float]] = {}
        for (prompt, sample), score in scores.items():
            if metric.plain and score.collapsed and not plain:
                score = unsteered[prompt, sample]
            values.setdefault(prompt, []).append(score.value(metric.plain or metric.name))
        prompts = sorted(values)
        return prompts, np.array([mean_of(values[p]) for p in prompts])


def name_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells a generation from all others of a run."""
    return (row["split"], row["condition"], row["prompt_id"], str(row["sample"]))


def perplexity(scores: Iterable[Score]) -> float:
    """exp of the mean negative log-likelihood a token; NaN where none was taken."""
    own = [s for s in scores if not math.isnan(s.log_likelihood)]
    tokens = sum(s.tokens for s in own)
    return math.exp(min(-sum(s.log_likelihood for s in own) / tokens, 700.0)) if tokens else float("nan")


def mean_of(values: Iterable[float]) -> float:
    real = [v for v in values if not math.isnan(v)]
    return sum(real) / len(real) if real else float("nan")


def choose_strength(scores: Scores, planner: Planner) -> tuple[float, str]:
    """The strength that claims are made at, and in words how it came to be chosen.

    Raises:
        SteerkitError: texts broke off at every strength.
    """
    rule = planner.args.choose
    metric = scores.metric(rule.metric)
    found, lost = [], []
    for strength in planner.args.nonzero:
        condition = planner.dom("base", "reasoning", strength)
        if scores.is_broken("choose", condition):
            lost.append(strength)
            continue
        own = scores["choose", condition].values()
        other = mean_of(s.value(OTHERS) for s in own)
        broken = sum(s.collapsed for s in own) / len(own)
        value = mean_of(scores.by_prompt("choose", condition, metric)[1])
        damaged = not (other <= rule.max_other and broken <= rule.max_collapsed)
        rank = math.inf if math.isnan(value) else -metric.sign * value
        found.append((damaged, rank, strength, value, other, broken))
    broke = f"texts broke off (values that are not finite) at {', '.join(f'{strength:g}' for strength in lost)}"
    if not found:
        raise SteerkitError(
            f"no strength can be chosen: {broke}; lower strengths, or load the models in float32 or bfloat16 (the "
            "texts are kept)"
        )
    damaged, _, strength, value, other, broken = min(found, key=lambda each: each[:3])
    name = metric.name.replace("_", " ")
    if math.isnan(value):
        return strength, f"strength {strength:g} is taken: no text of the choose prompts has a value of {name}"
    how = (
        f"strength {strength:g} has the {'lowest' if metric.sign < 0 else 'highest'} {name} on the choose prompts "
        f"({metric.text(value)}; {other:.0%} of its sentences fit no label, {broken:.0%} of its generations collapsed)"
    )
    if damaged:
        how += (
            f"; every strength was over the limits of choose.max_other ({rule.max_other:.0%}) or "
            f"choose.max_collapsed ({rule.max_collapsed:.0%})"
        )
    if lost:
        how += f"; {broke}"
    return strength, how
