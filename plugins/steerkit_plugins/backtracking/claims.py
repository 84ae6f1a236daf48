"""The paper's claims: the base-derived vector on the reasoning model, at the strength chosen on other prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.findings import Claim
from steerkit.judging.metrics import JUDGED, RunMetric
from steerkit.report import words
from steerkit.stats.intervals import ENOUGH_APART
from steerkit.steps.compose import claim
from steerkit.steps.results import Results
from steerkit.steps.spans import fitted_label
from steerkit_plugins.backtracking.conditions import BASE, REASONING, fitted, plain

HOLDERS = ("transfer", "layers")
"""Experiments that have the main condition beside the unsteered one; the first of a run makes the claim about it."""


def what_of(run: Run, metric: RunMetric) -> str:
    """A metric in a claim."""
    return f"judged {fitted_label(run)} sentences" if metric.name == JUDGED else words.named(metric)


def moves(run: Run, metric: RunMetric) -> str:
    """The beginning of a claim."""
    return f"The {BASE}-derived vector {'raises' if metric.sign > 0 else 'lowers'} {what_of(run, metric)}"


def claimed(results: Results) -> Iterator[tuple[RunMetric, RunMetric, str]]:
    """(metric, it or the same with collapsed texts as unsteered ones, what to add to the claim) where one is made."""
    for metric in results.metrics:
        if metric.main and metric.sign:
            for counted in (metric, results.uncollapsed(metric)):
                if counted is not None:
                    yield (
                        metric,
                        counted,
                        ", its own collapsed texts counted as unsteered ones" if counted.plain else "",
                    )


def over_unsteered(run: Run, results: Results, name: str, strength: float) -> list[Claim]:
    """That the vector does something, in the first experiment of the run that can tell."""
    if next((holder for holder in HOLDERS if holder in run.experiments), "") != name:
        return []
    main, unsteered = fitted(run, BASE, REASONING, strength), plain(run, REASONING)
    found = _some_to_raise(run, results, unsteered)
    for metric, counted, more in claimed(results):
        row = results.comparison(main, unsteered, counted.name)
        if row is not None:
            found.append(claim(counted, row, f"{moves(run, metric)} over unsteered{more}"))
    return found


def collapsed_texts(run: Run, results: Results, strength: float) -> tuple[str, ...]:
    """A caution where a few texts of the main condition are collapsed and the score is a rate of words: one text that
    repeats a counted word then outweighs all others."""
    main, metric = fitted(run, BASE, REASONING, strength), results.score
    if main not in results.conditions or metric.of not in ("words", "tokens"):
        return ()
    n = int(results.row(main, metric.name)["n_collapsed"])
    if not 0 < n < ENOUGH_APART:
        return ()
    return (
        f"{n} collapsed text{'s' * (n > 1)} at the chosen strength: one text that repeats a counted word outweighs all "
        f"others, so the interval of {metric.title} is not reliable there. Claims that count collapsed texts as "
        "unsteered ones do not depend on such a text.",
    )


def uncontrolled(run: Run) -> tuple[str, ...]:
    """A caution where nothing in the run says what of the vector is the label's, and what its traces'."""
    if "controls" in run.experiments:
        return ()
    return (
        "No controls: nothing here says whether the label matters, or only the traces that it comes from; add "
        "`controls` to the experiments.",
    )


def _some_to_raise(run: Run, results: Results, unsteered: Condition) -> list[Claim]:
    """That there is something to raise: a share of 0 is none of it. Other metrics have no such zero."""
    metric = results.score
    if not metric.of or metric.sign <= 0:
        return []
    row = results.row(unsteered, metric.name)
    above = not words.missing(row["ci_low"]) and row["ci_low"] > 0 and row["degenerate"] is not True
    text = f"The unsteered {REASONING} model has {what_of(run, metric)} above 0"
    return [claim(metric, row, text, holds=above)]


def sentence(run: Run, results: Results, claims: Sequence[Claim], strength: float) -> str:
    """The finding: whether the effect over unsteered is there, and from how much to how much."""
    effect = [each for each in claims if "over unsteered" in each.text]
    if not effect:
        return ""
    if all(each.verdict == "cannot be told" for each in effect):
        first = "Nothing can be said: there is nothing to compare."
    elif all(each.holds for each in claims):
        first = "Compared with unsteered, the effect is there on these prompts."
    elif all(each.holds for each in effect):
        first = "Compared with unsteered, the effect is there on these prompts, but not every claim here holds."
    elif any(each.holds for each in effect):
        first = "Compared with unsteered, part of the effect is there on these prompts."
    elif all(_against(run, results, strength)):
        first = "The effect is not there on these prompts: the vector works the other way."
    else:
        first = "The effect is not shown on these prompts."
    same = " Both models are one and the same here, so nothing is said about transfer." * run.models.same(
        BASE, REASONING
    )
    return f"{first}{change(run, results, strength)}{same}"


def _against(run: Run, results: Results, strength: float) -> Iterator[bool]:
    """Of each claimed metric, whether the whole interval lies on the other side of 0; constant data has none."""
    main, unsteered = fitted(run, BASE, REASONING, strength), plain(run, REASONING)
    for _, counted, _ in claimed(results):
        row = results.comparison(main, unsteered, counted.name)
        if row is not None:
            low, high = row["ci_low"], row["ci_high"]
            told = not words.missing(low) and row["degenerate"] is not True
            yield told and (low > 0 if counted.sign < 0 else high < 0)


def change(run: Run, results: Results, strength: float) -> str:
    """From how much to how much, as a sentence after a space; empty where a value is missing."""
    main, unsteered = fitted(run, BASE, REASONING, strength), plain(run, REASONING)
    parts = []
    for metric in sorted((m for m in results.metrics if m.main), key=lambda m: m.name != JUDGED):
        means = [results.row(condition, metric.name)["mean"] for condition in (unsteered, main)]
        if not any(map(words.missing, means)):
            name = f"judged {fitted_label(run)} sentences" if metric.name == JUDGED else metric.title
            values = " → ".join(words.value(mean, metric) for mean in means)
            parts.append(f"{name} {values} {words.unit(metric) if metric.of else f'({metric.unit})'}")
    at = f"strength {words.short(strength)} (chosen on other prompts)"
    where = f"{BASE.capitalize()}-derived vector on the {REASONING} model, {at}"
    return f" {where}: {'; '.join(parts)}." if parts else ""
