"""Conditions that add one norm along other directions: a scalar's, a latent's, random ones, a vector's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PrivateAttr

from steerkit import registry
from steerkit.artifacts import Condition, Placed, PluginSpec, VectorKey
from steerkit.context import Run
from steerkit.data.generated import Label
from steerkit.data.site import Site
from steerkit.errors import Problem, nearest
from steerkit.models.lora_units import PROJECTIONS
from steerkit.models.units import Unit
from steerkit.parts import Experiment
from steerkit.settings import Steering, distinct
from steerkit.stats.noise import key_of
from steerkit.steps.vectors import Vectors
from steerkit_plugins.rank1_lora.arms import PairConfig, adapter_arm, unknown_models
from steerkit_plugins.steerers.saved_lora import SavedLora, files_of
from steerkit_plugins.trained.measured import labels

NONE, BEST, RANDOM, ISOTROPIC, VECTOR, LATENT = "unsteered", "best", "random", "isotropic", "vector", "latent"


class MovedConfig(PairConfig):
    strengths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], AfterValidator(distinct)] = ()
    """Norms that are added at every steered token, as multiples of the vector's scale; the run's when left out."""
    source: str = ""
    """Model whose vector that is; the base when left out."""


def strengths_of(run: Run, config: MovedConfig) -> tuple[float, ...]:
    """The strengths that are tried."""
    return config.strengths or run.peek(Steering).nonzero


def unknown(experiment: Experiment, run: Run) -> Iterator[Problem]:
    """Models in an experiment's `MovedConfig` that the run does not have."""
    yield from unknown_models(experiment.name, run, experiment.config)
    if (name := experiment.config.source) and name not in run.models.specs:
        fix = nearest(name, list(run.models.specs))
        yield Problem(f"{experiment.name}.source", f"no model is called {name!r}", fix)


class SpecOfModel(PluginSpec):
    """A steerer whose files a run has made: it is known by the model's name, not by where the run's folder lies.

    So a condition has one id in any folder; the contents of the files are part of a step's key as ever.
    """

    _files: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, **self._files}


def spec_of(name: str, files: Mapping[str, str], **options: Any) -> SpecOfModel:
    """A steerer of a trained model.

    Args:
        name: of the steerer.
        files: option → path.
        options: the others; those of `files` too, where these say what they are in any folder.
    """
    made = SpecOfModel(name=name, **options)
    made._files = dict(files)
    return made


@dataclass(frozen=True)
class Adding:
    """What adds one norm to a model.

    Attributes:
        model: that is steered; its adapter has the units.
        vectors: the run's; None where it is only planned.
        key: the vector whose scale the strengths are multiples of, at the run's block.
    """

    run: Run
    model: str
    seed: int
    vectors: Vectors | None
    key: VectorKey

    @property
    def folder(self) -> str:
        """Of the model's adapter."""
        return str(self.run.models.trained[self.model].folder)

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units that a site can be steered by; as many as are usual where nothing is trained yet."""
        if not all(path.is_file() for path in files_of(self.folder)):
            return tuple(Unit(at, part) for at in range(self.run.models.depth(self.model)) for part in PROJECTIONS)
        return tuple(unit for unit in SavedLora(self.folder).units if unit.part in PROJECTIONS)

    def other_units(self, best: Unit, count: int, seed: int) -> list[tuple[Unit, int]]:
        """Units besides one, each once, with a sign: as many as are asked for, or all that there are."""

        def draw(use: str, unit: Unit) -> int:
            return key_of(seed, f"{use} {self.seed}", unit.name)

        others = sorted((unit for unit in self.units if unit != best), key=lambda unit: draw("random unit", unit))
        return [(unit, 1 if draw("its sign", unit) % 2 else -1) for unit in others[:count]]

    def unsteered(self) -> Condition:
        return Condition(model=self.model, labels=self._labels(NONE, 0.0))

    def unit(self, kind: str, unit: Unit, sign: int, strength: float, draw: int | str = "") -> Condition:
        """The model with a scalar moved."""
        options = {"unit": unit.name, **({"sign": -1} if sign < 0 else {})}
        spec = spec_of("lora-scalar", {"adapter": self.folder}, adapter=self.model, **options)
        return self._condition(kind, strength, [self.placed(spec, unit.site, strength)], draw, _signed(unit, sign))

    def isotropic(self, site: Site, strength: float, draw: int) -> Condition:
        """The model with a random direction of a site added there."""
        spec = registry.without_defaults("steerers", PluginSpec(name="random-direction", seed=1000 * self.seed + draw))
        return self._condition(ISOTROPIC, strength, [self.placed(spec, site, strength)], draw, str(site))

    def vector(self, strength: float) -> Condition:
        """The model with the run's vector added at the run's block."""
        placed = self.run.place(self.key, strength, steerer="residual-add")
        return self._condition(VECTOR, strength, [placed], "", str(placed.site))

    def latent(self, sae: str, latent: int, sign: int, strength: float, least: float) -> Condition:
        """The model with a latent of its sparse autoencoder moved, over all sites that have a share of it."""
        placed = placed_latent(self, sae, latent, strength, sign=sign, least=least)
        return self._condition(LATENT, strength, placed, "", f"{'−' if sign < 0 else '+'} latent {latent}")

    def placed(self, spec: PluginSpec, site: Site, strength: float) -> Placed:
        """An intervention that adds as much as the vector does at the run's block, wherever it is."""
        if self.vectors is not None:
            scale = self.vectors[self.key]
            strength *= scale.norm(self.run.peek(Steering).layer) / scale.norm(site.layer)
        tokens = self.run.peek(Steering).tokens
        return Placed(steerer=spec, site=site, strength=strength, norm_of=self.key, tokens=tokens)

    def _condition(self, kind: str, strength: float, placed: Sequence[Placed], draw: int | str, what: str) -> Condition:
        own = self._labels(kind, strength, draw, what)
        return Condition(model=self.model, interventions=tuple(placed), labels=own)

    def _labels(self, kind: str, strength: float, draw: int | str = "", what: str = "") -> dict[str, Label]:
        return {**labels(kind, self.seed, draw=draw), "along": what, "strength": strength}


def adding_to(run: Run, config: MovedConfig, seed: int, vectors: Vectors | None) -> Adding:
    """What adds to the adapter's model of a training seed."""
    model = adapter_arm(config).trained(seed)
    return Adding(run, model, seed, vectors, run.vector(config.source or config.base))


def placed_latent(
    adding: Adding, sae: str, latent: int, strength: float, *, sign: int = 1, least: float = 0.0
) -> tuple[Placed, ...]:
    """A latent at every site that has a share of it; together they add the norm that `strength` says.

    Args:
        sae: the autoencoder's file in the run folder.
        least: see `SaeLatentConfig.least`.
    """
    options = {"latent": latent, **({"sign": -1} if sign < 0 else {}), **({"least": least} if least else {})}
    files = {"adapter": adding.folder, "sae": str(adding.run.folder / sae)}
    spec = spec_of("sae-latent", files, adapter=adding.model, sae=sae, **options)
    if adding.run.planned:  # no file is there yet; how many sites there are changes no plan
        return (adding.placed(spec, adding.units[0].site, strength),)
    sites = registry.build("steerers", spec).sites(adding.run.models.depth(adding.model))
    return tuple(adding.placed(spec, site, strength) for site in sites)


def _signed(unit: Unit, sign: int) -> str:
    return f"{'−' if sign < 0 else '+'} {unit.name}"
