"""The ways of training that the experiments compare: nothing, a vector, an instruction, and their controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from steerkit.artifacts import PluginSpec
from steerkit.context import Run
from steerkit.data.draws import ISOTROPIC, OVER, draw_name
from steerkit.errors import Problem, nearest
from steerkit.interfaces import Config
from steerkit.report import words
from steerkit.settings import distinct
from steerkit.training.arms import Arm

NONE, INOCULATION, NEUTRAL = "none", "inoculation", "neutral"
RANDOM, SHUFFLED = "random", "shuffled"
KIND_OF = {RANDOM: ISOTROPIC, SHUFFLED: OVER}
"""Control vectors of the same norm → how they are drawn (`steerkit.data.draws`)."""


Strengths = Annotated[tuple[Annotated[float, Field(gt=0)], ...], AfterValidator(distinct), Field(min_length=1)]
"""Multipliers of the fitter's scale, each once."""


class TrainedConfig(Config):
    model: str = ""
    """Model that is trained; the one that writes the traces when left out."""
    source: str = ""
    """Model whose vector is added; the first of the recipe's when left out."""
    place: str = Field(default="system", pattern="^(system|prefix)$")
    """Where instructions stand: in a `system` message, or as a `prefix` of the first user message."""
    margin: float = Field(default=0.25, gt=0, lt=1)
    """A claim does not hold where its effect is shown to be below this share of what training without a defence
    changes; where neither this nor the claim is shown, it is unclear."""


class DefenceConfig(TrainedConfig):
    strength: float = Field(gt=0)
    """Multiplier of the fitter's scale at which the vector is added in training, fixed beforehand: claims are about
    it."""
    instruction: str = ""
    """What asks for the trait in training (inoculation prompting); empty for no such arm."""
    neutral: str = ""
    """An instruction that asks for nothing, of about as many tokens; empty for no such arm."""
    draws: int = Field(default=1, ge=0)
    """Control vectors of the same norm, of each of two kinds: isotropic ones, and ones of shuffled labels."""
    ablate: bool = True
    """Whether the vector's direction is taken out in training, too (as CAFT does)."""


class ArmsOf:
    """Arms of one config.

    Args:
        config: as of the experiment.
        after: arm that all of them go on from; empty for the model as it is.
        prefix: what their names begin with.
        arguments: as of `Arm`, for all of them.
    """

    def __init__(
        self,
        run: Run,
        config: TrainedConfig,
        *,
        after: str = "",
        prefix: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.run, self.after, self.place = run, after, config.place
        self.prefix, self.arguments = prefix or (f"{after}+" if after else ""), dict(arguments or {})
        self.model = config.model or run.models.writer
        self.source = config.source or next(iter(run.models))

    def none(self) -> Arm:
        """Training as it is."""
        return self._arm(NONE)

    def steered(self, strength: float) -> Arm:
        """With the vector added."""
        placed = self.run.place(self.run.vector(self.source), strength)
        return self._arm(steered_name(strength), interventions=(placed,))

    def control(self, kind: str, number: int, strength: float) -> Arm:
        """With a vector that knows less, of the same norm."""
        main = self.run.vector(self.source)
        drawn = self.run.vector(self.source, draw=draw_name(KIND_OF[kind], number))
        placed = self.run.place(drawn, strength, norm_of=main)
        return self._arm(f"{kind}-{number}", interventions=(placed,))

    def changed(self, steerer: str) -> Arm:
        """With another intervention of the vector's direction (`neutralise`, ...), which has no strength."""
        placed = self.run.place(self.run.vector(self.source), 1.0, steerer=PluginSpec(name=steerer))
        return self._arm(steerer, interventions=(placed,))

    def told(self, name: str, text: str) -> Arm:
        """With an instruction before every row."""
        return self._arm(name, **instruction(self.place, text))

    def _arm(self, name: str, **options: Any) -> Arm:
        return Arm(name=f"{self.prefix}{name}", model=self.model, after=self.after, arguments=self.arguments, **options)


def instruction(place: str, text: str) -> dict[str, Any]:
    """Where an instruction stands, as arms and conditions take it."""
    return {"system": text} if place == "system" else {"prefix": f"{text} "}


def steered_name(strength: float) -> str:
    """Name of the arm that has the vector added."""
    return f"steered-{words.short(strength)}"


def unknown_models(experiment: str, run: Run, config: TrainedConfig) -> Iterator[Problem]:
    """Models that the run does not have."""
    for key in ("model", "source"):
        if (name := getattr(config, key)) and name not in run.models.specs:
            fix = nearest(name, list(run.models.specs))
            yield Problem(f"{experiment}.{key}", f"no model is called {name!r}", fix)
