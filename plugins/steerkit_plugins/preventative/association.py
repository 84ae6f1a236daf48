"""Does the trait come back when what was there in training is shown again?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.findings import Claim, Findings
from steerkit.report import words
from steerkit.steps.results import Results
from steerkit.training.arms import Arm
from steerkit_plugins.preventative.arms import INOCULATION, NONE, ArmsOf, TrainedConfig, instruction, steered_name
from steerkit_plugins.preventative.compared import TrainedTexts
from steerkit_plugins.preventative.texts import Trained, conditions_of, untrained
from steerkit_plugins.trained.measured import UNTRAINED, Measured, shown_with
from steerkit_plugins.trained.words import changed

VECTOR = "vector"


class AssociationConfig(TrainedConfig):
    strength: float = Field(gt=0)
    """Multiplier of the fitter's scale at which the vector is added, in training and when it is shown again."""
    instruction: str
    """What asks for the trait, in training and when it is shown again."""
    near: tuple[str, ...] = ()
    """Other instructions that are shown to the model which was asked for the trait: near misses, and opposites."""


class Association(TrainedTexts):
    """Does the trait come back when the vector or the instruction is shown again at test, or something near it?"""

    Config = AssociationConfig

    def arms(self, run: Run) -> Sequence[Arm]:
        c, of = self.config, ArmsOf(run, self.config)
        return [of.none(), of.steered(c.strength), of.told(INOCULATION, c.instruction)]

    def conditions(self, run: Run, trained: Trained | None) -> Sequence[Condition]:
        c, (none, steered, asked) = self.config, self.arms(run)
        added = {"interventions": steered.interventions}
        found = [untrained([none]), *conditions_of(run, [none, steered, asked])]
        found += [untrained([none], shown=VECTOR, **added)]
        found += [untrained([none], shown=c.instruction, **instruction(c.place, c.instruction))]
        found += conditions_of(run, [steered, asked], shown=VECTOR, **added)
        for text in (c.instruction, *c.near):
            found += conditions_of(run, [steered, asked], shown=text, **instruction(c.place, text))
        return found

    def findings(self, run: Run, results: Results, trained: Trained) -> Findings:
        main = Measured(results, results.score)
        names, steered = self._names(main), steered_name(self.config.strength)
        near = {shown_with(arm, text) for arm in (steered, INOCULATION) for text in self.config.near}
        return self.answer(
            run,
            results,
            names,
            self._claims(main),
            title="Shown again",
            question="Does the trait come back when what was there in training is shown again at test?",
            caption="Models with nothing at test, and with what is named behind the bar.",
            columns={},
            in_sentence={arm: name for arm, name in names.items() if arm not in near},
        )

    def _names(self, main: Measured) -> dict[str, str]:
        c, steered = self.config, steered_name(self.config.strength)
        wanted = {
            UNTRAINED: "not trained",
            shown_with(UNTRAINED, VECTOR): "not trained, vector shown",
            shown_with(UNTRAINED, c.instruction): f"not trained, told: {c.instruction}",
            NONE: "no defence",
        }
        for arm, name in ((steered, f"vector × {words.short(c.strength)}"), (INOCULATION, "asked for the trait")):
            wanted[arm] = name
            wanted[shown_with(arm, VECTOR)] = f"{name}, vector shown"
            for text in (c.instruction, *c.near):
                wanted[shown_with(arm, text)] = f"{name}, told: {text}"
        return {arm: name for arm, name in wanted.items() if main.has(arm)}

    def _claims(self, main: Measured) -> Iterator[Claim]:
        name, c = words.named(main.metric), self.config
        least = c.margin * changed(main, NONE, UNTRAINED)
        for arm, shown, what in (
            (steered_name(c.strength), VECTOR, "The vector shown again raises"),
            (INOCULATION, c.instruction, "The instruction shown again raises"),
        ):
            of = "the model that had it in training"
            yield main.claim(f"{what} {name} of {of}", arm, shown_with(arm, shown), least)
        near = {f"Asked for the trait, told {text!r} minus told nothing": text for text in c.near}
        yield from main.beside({what: (shown_with(INOCULATION, text), INOCULATION) for what, text in near.items()})
