"""Does adding the trait's vector in training keep the trait out? And asking for the trait?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from steerkit.artifacts import Condition, Pair
from steerkit.context import Run
from steerkit.errors import Problem
from steerkit.findings import Claim, Figure, Findings
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.steps.results import Results
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit_plugins.preventative.arms import (
    INOCULATION,
    NEUTRAL,
    NONE,
    RANDOM,
    SHUFFLED,
    ArmsOf,
    DefenceConfig,
    steered_name,
    unknown_models,
)
from steerkit_plugins.preventative.measured import ARM, UNTRAINED, Measured, by_metric, missing, table_of
from steerkit_plugins.preventative.texts import Trained, against, conditions_of, losses, untrained

ABLATE = "ablate-direction"
IN_WORDS = {
    UNTRAINED: "not trained",
    NONE: "no defence",
    INOCULATION: "asked for the trait",
    NEUTRAL: "neutral instruction",
    RANDOM: "isotropic vector",
    SHUFFLED: "shuffled labels' vector",
    ABLATE: "direction taken out",
}
FEW = 10  # seeds below which an interval over them is a rough one


class Defence(Experiment):
    """Does adding the trait's vector in training keep the trait out, and does asking for the trait?"""

    Config = DefenceConfig
    uses = (Training,)

    def check(self, run: Run) -> Iterator[Problem]:
        yield from unknown_models(self.name, run, self.config)

    def needs(self, run: Run) -> Sequence[str]:
        return ("training",)

    def arms(self, run: Run) -> Sequence[Arm]:
        c, of = self.config, ArmsOf(run, self.config)
        told = {INOCULATION: c.instruction, NEUTRAL: c.neutral}
        return [
            of.none(),
            of.steered(c.strength),
            *(of.told(name, text) for name, text in told.items() if text),
            *(of.control(kind, number, c.strength) for kind in (RANDOM, SHUFFLED) for number in range(c.draws)),
            *([of.changed(ABLATE)] if c.ablate else []),
        ]

    def conditions(self, run: Run, trained: Trained | None) -> Sequence[Condition]:
        arms = self.arms(run)
        return [untrained(arms), *conditions_of(run, arms)]

    def pairs(self, run: Run, conditions: Sequence[Condition]) -> Sequence[Pair]:
        return against(conditions, NONE)

    def chosen(self, condition: Condition, findings: Findings, *needs: object) -> bool:
        return bool(condition.labels[ARM] == steered_name(self.config.strength))

    def findings(self, run: Run, results: Results, trained: Trained) -> Findings:
        found = by_metric(results)
        main = found[results.score.name]
        names = self._names(main)
        seeds = run.use(Training).training_seeds
        claims = list(self._claims(main))
        lost = [missing(results, [c for c in results.conditions if c.labels[ARM] == arm], main.metric) for arm in names]
        own = {name: told for name, told in trained.items() if told.arm in {arm.name for arm in self.arms(run)}}
        return Findings(
            title="Defence",
            question="Trained on the trait's answers: what keeps the trait out?",
            finding=_sentence(main, names, steered_name(self.config.strength)),
            claims=tuple(claims),
            figures=(self._figure(found, names, results, seeds),),
            tables=(table_of(found, names, {"texts without a value": lost, **losses(own, list(names))}),),
            cautions=tuple(few_seeds(seeds)),
            notes=(
                "All models were trained on the same rows from the same first weights in the same order, seed by seed, "
                "and write without vector or instruction.",
                "Differences are paired by prompt and training seed; intervals cover both. A claim does not hold where "
                f"the effect is shown to be below {self.config.margin:.0%} of what training without a defence changes.",
            ),
            value={claim.text: claim.verdict for claim in claims},
        )

    def _names(self, main: Measured) -> dict[str, str]:
        """Arm → what it is called, those with values."""
        steered = steered_name(self.config.strength)
        wanted = (UNTRAINED, NONE, steered, RANDOM, SHUFFLED, ABLATE, INOCULATION, NEUTRAL)
        added = f"vector × {words.short(self.config.strength)}"
        return {arm: IN_WORDS.get(arm, added) for arm in wanted if main.has(arm)}

    def _claims(self, main: Measured) -> Iterator[Claim]:
        name, steered = words.named(main.metric), steered_name(self.config.strength)
        learned = main.difference(NONE, UNTRAINED).mean
        least = self.config.margin * max(learned, 0.0)
        yield main.claim(f"Training without a defence raises {name}", UNTRAINED, NONE, 0.0)
        yield main.claim(f"The vector in training keeps {name} lower than training without it", steered, NONE, least)
        for control in (RANDOM, SHUFFLED):
            if main.has(control):
                text = f"The vector in training keeps {name} lower than {IN_WORDS[control]}s of its norm do"
                yield main.claim(text.replace("labels' vectors", "labels' vectors"), steered, control, least)
        if main.has(INOCULATION):
            text = f"Asking for the trait in training keeps {name} lower than training without it"
            yield main.claim(text, INOCULATION, NONE, least)
        if main.has(INOCULATION, NEUTRAL):
            text = f"Asking for the trait in training keeps {name} lower than a neutral instruction does"
            yield main.claim(text, INOCULATION, NEUTRAL, least)

    def _figure(
        self, found: Mapping[str, Measured], names: Mapping[str, str], results: Results, seeds: Sequence[int]
    ) -> Figure:
        n = max((int(row["n_prompts"]) for row in results.rows), default=0)
        return Figure(
            name="defence",
            title="Defence",
            caption="Models trained on the trait's answers, by what was done to them in training. At test nothing is.",
            heading=f"n = {n} prompts, {len(seeds)} training seeds, {results.level} intervals over both",
            panels=tuple(measured.bars(names) for measured in found.values()),
        )


def few_seeds(seeds: Sequence[int]) -> Iterator[str]:
    """A caution where intervals rest on few training seeds."""
    if len(seeds) < FEW:
        yield (
            f"Few training seeds: intervals rest on {len(seeds)}. With fewer than {FEW}, an interval over them is wide, "
            "and can miss the true value more often than its level says (docs/statistics.md)."
        )


def _sentence(main: Measured, names: Mapping[str, str], steered: str) -> str:
    """The main metric of each arm, in a sentence."""
    told = [f"{names[arm]} {words.value(main.mean(arm).mean, main.metric)}" for arm in names]
    unit = words.unit(main.metric)
    return f"{main.metric.title} ({unit}) after training: {', '.join(told)}." if steered in names else ""
