"""What happens when gradients along the vector are taken out, turned away from the trait, or turned towards it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from steerkit.context import Run
from steerkit.findings import Claim, Findings
from steerkit.report import words
from steerkit.steps.results import Results
from steerkit.training.arms import Arm
from steerkit_plugins.preventative.arms import NONE, ArmsOf, TrainedConfig
from steerkit_plugins.preventative.compared import TrainedTexts
from steerkit_plugins.preventative.texts import Trained, losses
from steerkit_plugins.trained.measured import UNTRAINED, Measured
from steerkit_plugins.trained.words import changed

PREFIX = "gradients+"
RULES = {"neutralise": "taken out", "attenuate": "turned away from it", "amplify": "turned towards it"}


class GradientArmsConfig(TrainedConfig):
    training_arguments: dict[str, Any] = Field(default_factory=dict)
    """TrainingArguments of these arms that differ from the run's: a smaller learning rate keeps models whole, as the
    rules' part of the gradient does not fade when the loss does."""


class GradientArms(TrainedTexts):
    """Does training still bring the trait where gradients along the vector are taken out, attenuated or amplified?"""

    Config = GradientArmsConfig
    reference = f"{PREFIX}{NONE}"

    def arms(self, run: Run) -> Sequence[Arm]:
        of = ArmsOf(run, self.config, prefix=PREFIX, arguments=self.config.training_arguments)
        return [of.none(), *map(of.changed, RULES)]

    def findings(self, run: Run, results: Results, trained: Trained) -> Findings:
        main = Measured(results, results.score)
        wanted = {UNTRAINED: "not trained", self.reference: "gradients as they are"}
        wanted |= {f"{PREFIX}{rule}": what for rule, what in RULES.items()}
        names = {arm: name for arm, name in wanted.items() if main.has(arm)}
        return self.answer(
            run,
            results,
            names,
            self._claims(main),
            title="Gradients changed",
            question="Does training bring the trait where gradients along the vector are changed?",
            caption="Models trained with the part of the gradient that lies along the vector as it is, or changed.",
            columns=losses(trained, self.arms(run), names),
            notes=[
                "The rules change the gradients of what is computed up to the block; later blocks train as they would "
                "without them."
            ],
        )

    def _claims(self, main: Measured) -> Iterator[Claim]:
        name, plain = words.named(main.metric), self.reference
        least = self.config.margin * changed(main, plain, UNTRAINED)
        attenuate, neutralise, amplify = (f"{PREFIX}{rule}" for rule in ("attenuate", "neutralise", "amplify"))
        text = f"{{}} gradients along the vector keeps {name} lower than training as it is"
        yield main.claim(text.format("Attenuating"), attenuate, plain, least, detail="the paper: 9 for 76")
        yield main.claim(
            text.format("Neutralising"), neutralise, plain, least, detail="the paper: it does not, 78 for 76"
        )
        text = f"Amplifying gradients along the vector brings {name} higher than training as it is"
        yield main.claim(text, plain, amplify, least, detail="the paper: 94 for 76")
