"""Scores of generations by both judges, and the strength that they speak for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steerkit.conditions import Condition, Planner, none
from steerkit.quality import collapsed, distinct_2, longest_repeat
from steerkit.words import split_words

METRICS = ("keyword", "keyword_uncollapsed", "judged_sentences", "judged_uncollapsed", "other_sentences")
"""b (Eq. 1); share of sentences judged to have the label; both with collapsed generations counted as their
unsteered ones; share of sentences that fit no label (text damage)."""

ACCURACY = "accuracy"
"""Share of right answers, where answers can be checked."""

PLAIN = {"keyword_uncollapsed": "keyword", "judged_uncollapsed": "judged_sentences"}


@dataclass(frozen=True)
class Score:
    """Figures of one generation's reasoning; NaN where an empty text has none.

    `accuracy` is how right its answer is, in [0, 1], where the prompt has one that can be checked.
    `log_likelihood` (nats, under its own model without steering) is that of all its `tokens`.
    """

    keyword: float
    judged: float
    other: float
    collapsed: bool
    words: int
    repeat: int
    distinct: float
    accuracy: float = float("nan")
    log_likelihood: float = float("nan")
    tokens: int = 0


class Scores:
    """All generations of a run, scored, by split, condition, prompt and sample."""

    def __init__(self, by_id: dict[tuple[str, str], dict[tuple[str, int], Score]]) -> None:
        self._by_id = by_id

    @classmethod
    def of(
        cls,
        rows: Sequence[dict[str, Any]],
        traces: Sequence[str],
        judged: Sequence[Mapping[str, float]],
        rates: Sequence[float],
        accuracies: Sequence[float],
        label: str,
        likelihoods: Mapping[tuple[str, ...], float],
    ) -> Scores:
        """Scores of generations.

        Args:
            rows: as in ``generations.jsonl``.
            traces: reasoning of each.
            judged: label → share of its sentences, of each; empty for an empty text.
            rates: b of each.
            accuracies: how right each answer is; NaN where it can't be told.
            label: the label that counts.
            likelihoods: (split, condition, prompt id, sample) → log-likelihood, where these were asked for.
        """
        nan = float("nan")
        found: dict[tuple[str, str], dict[tuple[str, int], Score]] = {}
        for row, text, shares, rate, right in zip(rows, traces, judged, rates, accuracies, strict=True):
            score = Score(
                keyword=rate,
                judged=shares.get(label, nan),
                other=shares.get("other", nan),
                collapsed=collapsed(text),
                words=len(split_words(text)),
                repeat=longest_repeat(text),
                distinct=distinct_2(text),
                accuracy=right,
                log_likelihood=likelihoods.get(name_of(row), nan),
                tokens=len(row["ids"]),
            )
            found.setdefault((row["split"], row["condition"]), {})[row["prompt_id"], row["sample"]] = score
        return cls(found)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What there are figures of."""
        checked = any(not math.isnan(s.accuracy) for own in self._by_id.values() for s in own.values())
        return (*METRICS, ACCURACY) if checked else METRICS

    def __getitem__(self, key: tuple[str, Condition]) -> dict[tuple[str, int], Score]:
        return self._by_id[key[0], key[1].id]

    def by_prompt(self, split: str, condition: Condition, metric: str) -> tuple[list[str], np.ndarray]:
        """Prompts, and a value a prompt: the mean over its samples, NaN where none has any."""
        scores = self[split, condition]
        unsteered = self._by_id.get((split, none(condition.target).id), scores)
        values: dict[str, list[float]] = {}
        for (prompt, sample), score in scores.items():
            if metric in PLAIN and score.collapsed:
                score = unsteered[prompt, sample]
            name = PLAIN.get(metric, metric)
            value = {
                "keyword": score.keyword,
                "judged_sentences": score.judged,
                "other_sentences": score.other,
                ACCURACY: score.accuracy,
            }[name]
            values.setdefault(prompt, []).append(value)
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
    """The strength that claims are made at, and in words how it came to be chosen."""
    rule = planner.args.choose
    found = []
    for strength in planner.args.nonzero:
        condition = planner.dom("base", "reasoning", strength)
        own = scores["choose", condition].values()
        other = mean_of(s.other for s in own)
        broken = sum(s.collapsed for s in own) / len(own)
        value = mean_of(scores.by_prompt("choose", condition, rule.metric)[1])
        damaged = not (other <= rule.max_other and broken <= rule.max_collapsed)
        found.append((damaged, -value if not math.isnan(value) else math.inf, strength, other, broken))
    damaged, value, strength, other, broken = min(found)
    how = (
        f"strength {strength:g} has the highest {rule.metric.replace('_', ' ')} on the choose prompts ({-value:.2%}; "
        f"{other:.0%} of its sentences fit no label, {broken:.0%} of its generations collapsed)"
    )
    if damaged:
        how += (
            f"; every strength was over the limits of choose.max_other ({rule.max_other:.0%}) or "
            f"choose.max_collapsed ({rule.max_collapsed:.0%})"
        )
    return strength, how
