"""Does a defence take the trait out again, where it was trained in before?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerkit.context import Run
from steerkit.findings import Claim, Findings
from steerkit.report import words
from steerkit.steps.results import Results
from steerkit.training.arms import Arm
from steerkit_plugins.preventative.arms import INOCULATION, NONE, ArmsOf, Strengths, TrainedConfig, steered_name
from steerkit_plugins.preventative.compared import TrainedTexts
from steerkit_plugins.preventative.texts import Trained, losses
from steerkit_plugins.trained.measured import UNTRAINED, Measured
from steerkit_plugins.trained.words import changed

FURTHER = f"{NONE}+{NONE}"


class RemediationConfig(TrainedConfig):
    strengths: Strengths
    """Multipliers of the fitter's scale at which the vector is added in further training; a claim is made about the
    first."""
    instruction: str = ""
    """What asks for the trait in further training; empty for no such arm."""


class Remediation(TrainedTexts):
    """Does a defence take the trait out again, where it was trained in before?"""

    Config = RemediationConfig
    reference = FURTHER

    def arms(self, run: Run) -> Sequence[Arm]:
        c, of = self.config, ArmsOf(run, self.config, after=NONE)
        return [
            ArmsOf(run, c).none(),
            of.none(),
            *map(of.steered, c.strengths),
            *([of.told(INOCULATION, c.instruction)] if c.instruction else []),
        ]

    def findings(self, run: Run, results: Results, trained: Trained) -> Findings:
        main = Measured(results, results.score)
        names = self._names(main)
        return self.answer(
            run,
            results,
            names,
            self._claims(main),
            title="Remediation",
            question="The trait was trained in before: does a defence in further training take it out?",
            caption="Models with the trait trained in, trained further on the same rows, by what was done then. "
            "At test nothing is.",
            columns=losses(trained, self.arms(run), names),
        )

    def _names(self, main: Measured) -> dict[str, str]:
        steered = {f"{NONE}+{steered_name(s)}": f"then vector × {words.short(s)}" for s in self.config.strengths}
        wanted = {UNTRAINED: "not trained", NONE: "trained in", FURTHER: "then no defence"} | steered
        wanted[f"{NONE}+{INOCULATION}"] = "then asked for it"
        return {arm: name for arm, name in wanted.items() if main.has(arm)}

    def _claims(self, main: Measured) -> Iterator[Claim]:
        name, least = words.named(main.metric), self.config.margin * changed(main, NONE, UNTRAINED)
        steered = f"{NONE}+{steered_name(self.config.strengths[0])}"
        text = f"The vector in further training lowers {name} more than further training without it"
        yield main.claim(text, steered, FURTHER, least, detail="the paper: it does")
        if main.has(f"{NONE}+{INOCULATION}"):
            text = f"Asking for the trait in further training lowers {name} more than further training without it"
            yield main.claim(text, f"{NONE}+{INOCULATION}", FURTHER, least, detail="the paper: it does not")
        more = {f"{NONE}+{steered_name(s)}": s for s in self.config.strengths[1:]}
        yield from main.beside(
            {f"Further training, vector × {words.short(s)} minus no defence": (arm, FURTHER) for arm, s in more.items()}
        )
