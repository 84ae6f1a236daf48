"""The strength that claims are made at, found on prompts that no claim is made on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.errors import InputError, Problem, SteerkitError, nearest
from steerkit.findings import Findings
from steerkit.interfaces import Config
from steerkit.judging.metrics import OTHERS, RunMetric
from steerkit.judging.scored import mean_of
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Steering
from steerkit.steps.compose import table
from steerkit.steps.results import Results
from steerkit.steps.scores import metrics_of_run
from steerkit_plugins.backtracking.conditions import BASE, REASONING, fitted, plain


class ChooseConfig(Config):
    metric: str = "judged_sentences"
    """What the strength is chosen by, on the choose prompts: `judged_sentences` or `judged_uncollapsed` (the span
    judge's), `accuracy`, or a metric that the score judge declares, as the keyword judge's `keyword` (and
    `keyword_uncollapsed`, with collapsed texts counted as unsteered). The best mean wins: the highest where up is
    better, the lowest where down is."""
    max_other: float = Field(default=0.35, ge=0, le=1)
    """A strength is left out when more than this share of its sentences fits no label (text damage) ..."""
    max_collapsed: float = Field(default=0.2, ge=0, le=1)
    """... or more than this share of its generations is collapsed."""


class Choose(Experiment):
    """Which strength? The base-derived vector on the reasoning model, at every strength, on prompts of its own."""

    Config = ChooseConfig
    split = "choose"
    rows = "transfer"
    uses = (Steering,)

    def check(self, run: Run) -> Iterator[Problem]:
        name = self.config.metric
        try:
            metrics = {metric.name: metric for metric in metrics_of_run(run)}
        except InputError:
            return  # the scores say what is wrong
        except SteerkitError:
            metrics = {}  # a judge that reads its labels from files, which need not be there yet
        directed = [metric.name for metric in metrics.values() if metric.sign]
        if metrics and name not in metrics:
            yield Problem("choose.metric", f"there is no metric {name!r} in this run", nearest(name, directed))
        elif metrics and not metrics[name].sign:
            what = f"{name!r} ({metrics[name].unit}) is better neither up nor down, so nothing can be chosen by it"
            yield Problem("choose.metric", what, f"choose from {', '.join(directed)}")

    def conditions(self, run: Run) -> Sequence[Condition]:
        return strengths(run)

    def findings(self, run: Run, results: Results) -> Findings:
        metric = results.metric(self.config.metric)
        chosen, how = self._choose(run, results, metric)
        run.log(chosen_strength=chosen, how=how)
        columns = {
            "vector": lambda c: f"{c.labels['source']}-derived" if c.interventions else "none",
            "strength": lambda c: words.short(c.labels["strength"]),
        }
        shown = table(results, columns, strong=lambda c: c.labels["strength"] == chosen)
        return Findings(
            title="How the strength was chosen",
            notes=(f"{how[:1].upper()}{how[1:]}.",),
            tables=(shown,),
            value={"strength": chosen, "how": how},
        )

    def chosen(self, condition: Condition, findings: Findings, *needs: Any) -> bool:
        return bool(condition.labels["strength"] == findings.value["strength"])

    def planned(self, run: Run) -> Findings:
        return Findings(title="", value={"strength": run.peek(Steering).nonzero[0]})

    def _choose(self, run: Run, results: Results, metric: RunMetric) -> tuple[float, str]:
        """The strength, and in words how it came to be chosen. Raises: SteerkitError when all texts broke off."""
        rule, found, lost = self.config, [], []
        for condition in results.conditions:
            strength = float(condition.labels["strength"])
            if not strength:
                continue
            if results.scored.is_broken(condition):
                lost.append(strength)
                continue
            own = results.scored[condition].values()
            other = mean_of(score.value(OTHERS) for score in own)
            collapsed = sum(score.collapsed for score in own) / len(own)
            value = mean_of(results.scored.by_prompt(condition, metric)[1])
            damaged = not (other <= rule.max_other and collapsed <= rule.max_collapsed)
            rank = math.inf if math.isnan(value) else -metric.sign * value
            found.append((damaged, rank, strength, value, other, collapsed))
        broke = f"texts broke off (values that are not finite) at {', '.join(f'{strength:g}' for strength in lost)}"
        if not found:
            raise SteerkitError(
                f"no strength can be chosen: {broke}; lower strengths, or load the models in float32 or bfloat16 (the "
                "texts are kept)"
            )
        damaged, _, strength, value, other, collapsed = min(found, key=lambda each: each[:3])
        name = metric.name.replace("_", " ")
        if math.isnan(value):
            return strength, f"strength {strength:g} is taken: no text of the choose prompts has a value of {name}"
        how = (
            f"strength {strength:g} has the {'lowest' if metric.sign < 0 else 'highest'} {name} on the choose prompts "
            f"({metric.text(value)}; {other:.0%} of its sentences fit no label, {collapsed:.0%} of its generations "
            "collapsed)"
        )
        if damaged:
            how += (
                f"; every strength was over the limits of choose.max_other ({rule.max_other:.0%}) or "
                f"choose.max_collapsed ({rule.max_collapsed:.0%})"
            )
        return strength, f"{how}; {broke}" if lost else how


def strengths(run: Run) -> list[Condition]:
    """The reasoning model unsteered, and with the base-derived vector at every strength."""
    return [plain(run, REASONING), *(fitted(run, BASE, REASONING, s) for s in run.peek(Steering).nonzero)]


class AtChosenStrength(Experiment):
    """An experiment whose claims are about the strength that `choose` found."""

    def needs(self, run: Run) -> Sequence[str]:
        return ("vectors", "choose")

    def chosen(self, condition: Condition, findings: Findings, *needs: Any) -> bool:
        choice: Findings = needs[-1]
        return bool(condition.labels["strength"] == choice.value["strength"])
