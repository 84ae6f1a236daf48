"""What a vector does to a model, strength by strength, for any model, vector and score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerkit.artifacts import Condition, Pair
from steerkit.context import Run
from steerkit.errors import Problem, nearest
from steerkit.findings import Claim, Figure, Findings
from steerkit.interfaces import Config
from steerkit.judging.metrics import RunMetric
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Steering
from steerkit.steps.compose import compared, over_strength, table
from steerkit.steps.results import Results
from steerkit.steps.vectors import Vectors
from steerkit_plugins.experiments.words import pages, strength_label


class SweptConfig(Config):
    source: str = ""
    """Model whose vector it is; the first of the recipe's when left out."""
    target: str = ""
    """Model that is steered; the one that writes the traces when left out."""


class SweepConfig(SweptConfig):
    chosen_by: str = "strength"
    """Experiment whose finding gives the strength that claims are about; empty for the largest of `strengths`."""


def swept(experiment: Experiment, run: Run) -> list[Condition]:
    """The target unsteered, and with the source's vector at every strength."""
    c = experiment.config
    target, vector = c.target or run.models.writer, run.vector(c.source or next(iter(run.models)))
    return [run.unsteered(target), *(run.steered(target, vector, s) for s in run.peek(Steering).nonzero)]


def unknown(experiment: Experiment, run: Run) -> Iterator[Problem]:
    """Models in an experiment's config that the run doesn't have."""
    for key in ("source", "target"):
        if (name := getattr(experiment.config, key)) and name not in run.models.specs:
            fix = nearest(name, list(run.models.specs))
            yield Problem(f"{experiment.name}.{key}", f"no model is called {name!r}", fix)


class Sweep(Experiment):
    """What does the vector do to the model, at every strength?"""

    Config = SweepConfig
    uses = (Steering,)

    def check(self, run: Run) -> Iterator[Problem]:
        yield from unknown(self, run)

    def needs(self, run: Run) -> Sequence[str]:
        return ("vectors", *([self.config.chosen_by] if self.config.chosen_by else []))

    def conditions(self, run: Run, vectors: Vectors, choice: Findings | None = None) -> Sequence[Condition]:
        return swept(self, run)

    def pairs(self, run: Run, conditions: Sequence[Condition]) -> Sequence[Pair]:
        unsteered, *steered = conditions
        return [Pair(ours=each, other=unsteered) for each in steered]

    def chosen(
        self, condition: Condition, findings: Findings, vectors: Vectors, choice: Findings | None = None
    ) -> bool:
        return bool(condition.labels["strength"] == findings.value["strength"])

    def findings(self, run: Run, results: Results, vectors: Vectors, choice: Findings | None = None) -> Findings:
        unsteered, *steered = results.conditions
        strength = float(choice.value["strength"]) if choice else max(run.peek(Steering).nonzero)
        main = next(each for each in steered if each.labels["strength"] == strength)
        at = f"at strength {words.short(strength)}"
        claims = [self._claim(results, main, unsteered, metric, at) for metric in results.shown]
        layer = run.peek(Steering).layer
        figure = Figure(
            name="sweep",
            title="Strength",
            caption=f"The vector added to {main.model} at block {layer}. At 0 nothing is added.",
            heading=pages(f"{main.model}, block {layer}", results),
            panels=over_strength(results, {main.model: results.conditions}, results.shown, strength_label(results)),
        )
        columns = {"strength": lambda c: words.short(c.labels["strength"])}
        chosen = " (chosen on other prompts)" if choice else ""
        changes = "; ".join(_change(results, unsteered, main, metric) for metric in results.shown)
        return Findings(
            title="Strength",
            question="What does the vector do to the model, at every strength?",
            finding=f"{at[:1].upper()}{at[1:]}{chosen}: {changes}.",
            claims=tuple(sorted(claims, key=lambda claim: claim.kind != "claim")),
            figures=(figure,),
            tables=(table(results, columns, strong=lambda c: c.labels["strength"] == strength),),
            value={"strength": strength},
        )

    def _claim(self, results: Results, main: Condition, unsteered: Condition, metric: RunMetric, at: str) -> Claim:
        """That steering moves a metric that claims are about the better way; another metric stands beside."""
        if metric.main and metric.sign:
            text = f"Steering {'raises' if metric.sign > 0 else 'lowers'} {words.named(metric)} over unsteered {at}"
            return compared(results, main, unsteered, text, metric=metric.name)
        name = words.named(metric)
        text = f"{name[:1].upper()}{name[1:]}, steered minus unsteered {at}"
        return compared(results, main, unsteered, text, metric=metric.name, laid_down=False)


def _change(results: Results, unsteered: Condition, main: Condition, metric: RunMetric) -> str:
    """``trait 11.2 → 86.3``, and the difference with its interval."""
    before, after = (words.value(results.row(c, metric.name)["mean"], metric) for c in (unsteered, main))
    row = results.comparison(main, unsteered, metric.name) or {}
    interval = words.interval(row.get("ci_low"), row.get("ci_high"), metric, signed=True)
    unit = f" {words.unit(metric)}" if metric.of else ""
    return f"{metric.title} {before} → {after}{unit} ({words.value(row.get('delta'), metric, signed=True)} {interval})"
