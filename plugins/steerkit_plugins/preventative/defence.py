"""Does adding the trait's vector in training keep the trait out? And asking for the trait?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.findings import Claim, Findings
from steerkit.report import words
from steerkit.settings import Steering
from steerkit.steps.results import Results
from steerkit.steps.vectors import Vectors
from steerkit.training.arms import Arm
from steerkit.vectors.facts import cosine
from steerkit_plugins.preventative.arms import (
    INOCULATION,
    NEUTRAL,
    NONE,
    RANDOM,
    SHUFFLED,
    ArmsOf,
    DefenceConfig,
    steered_name,
)
from steerkit_plugins.preventative.compared import TrainedTexts
from steerkit_plugins.preventative.texts import Trained, group, losses
from steerkit_plugins.trained.measured import ARM, UNTRAINED, Measured, missing
from steerkit_plugins.trained.words import changed

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
CONTROLS = {RANDOM: "isotropic vectors", SHUFFLED: "vectors of shuffled labels"}


class Defence(TrainedTexts):
    """Does adding the trait's vector in training keep the trait out, and does asking for the trait?"""

    Config = DefenceConfig

    def needs(self, run: Run) -> Sequence[str]:
        return ("training", "vectors")

    def arms(self, run: Run) -> Sequence[Arm]:
        c, of = self.config, ArmsOf(run, self.config)
        asked = {INOCULATION: c.instruction, NEUTRAL: c.neutral}
        return [
            of.none(),
            of.steered(c.strength),
            *(of.told(name, text) for name, text in asked.items() if text),
            *(of.control(kind, number, c.strength) for kind in (RANDOM, SHUFFLED) for number in range(c.draws)),
            *([of.changed(ABLATE)] if c.ablate else []),
        ]

    def chosen(self, condition: Condition, findings: Findings, *needs: object) -> bool:
        return bool(condition.labels[ARM] == steered_name(self.config.strength))

    def findings(self, run: Run, results: Results, trained: Trained, vectors: Vectors) -> Findings:
        main = Measured(results, results.score)
        names = self._names(main)
        lost = [missing(results, [c for c in results.conditions if c.labels[ARM] == arm], main.metric) for arm in names]
        return self.answer(
            run,
            results,
            names,
            self._claims(main),
            title="Defence",
            question="Trained on the trait's answers: what keeps the trait out?",
            caption="Models trained on the trait's answers, by what was done to them in training. At test nothing is.",
            columns={"texts without a value": lost, **losses(trained, self.arms(run), names)},
            notes=self._drawn(run, vectors),
        )

    def _drawn(self, run: Run, vectors: Vectors) -> Iterator[str]:
        """How much of the vector the control vectors have."""
        layer, found = run.peek(Steering).layer, []
        for arm in self.arms(run):
            if group(arm.name) in CONTROLS:
                (placed,) = arm.interventions
                one, other = (vectors[key].direction(layer) for key in (placed.vector, placed.norm_of) if key)
                found.append(f"{IN_WORDS[group(arm.name)]} {words.number(cosine(one, other), 2)}")
        if found:
            yield f"Cosines of the control vectors with the vector: {', '.join(found)}."

    def _names(self, main: Measured) -> dict[str, str]:
        """Arm → what it is called, those with values."""
        steered = steered_name(self.config.strength)
        wanted = (UNTRAINED, NONE, steered, RANDOM, SHUFFLED, ABLATE, INOCULATION, NEUTRAL)
        added = f"vector × {words.short(self.config.strength)}"
        return {arm: IN_WORDS.get(arm, added) for arm in wanted if main.has(arm)}

    def _claims(self, main: Measured) -> Iterator[Claim]:
        name, steered = words.named(main.metric), steered_name(self.config.strength)
        least = self.config.margin * changed(main, NONE, UNTRAINED)
        yield main.claim(f"Training without a defence raises {name}", UNTRAINED, NONE, 0.0)
        yield main.claim(f"The vector in training keeps {name} lower than training without it", steered, NONE, least)
        for control, what in CONTROLS.items():
            if main.has(control):
                text = f"The vector in training keeps {name} lower than {what} of its norm do"
                yield main.claim(text, steered, control, least)
        if main.has(INOCULATION):
            text = f"Asking for the trait in training keeps {name} lower than training without it"
            yield main.claim(text, INOCULATION, NONE, least)
        if main.has(INOCULATION, NEUTRAL):
            text = f"Asking for the trait in training keeps {name} lower than a neutral instruction does"
            yield main.claim(text, INOCULATION, NEUTRAL, least)
