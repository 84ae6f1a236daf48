"""Run: all that a step or an experiment may touch. Frozen; nothing is hung on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from steerkit import registry
from steerkit.artifacts import Condition, Placed, PluginSpec, VectorKey
from steerkit.callbacks import Events
from steerkit.data.chat_format import ChatFormat
from steerkit.data.generated import Label
from steerkit.data.site import Site
from steerkit.data.trace import Prompt
from steerkit.errors import InputError, Problem, SteerkitError, nearest
from steerkit.interfaces import Config, Judge
from steerkit.models.models import Models
from steerkit.parts import Executor, Experiment, RunPart
from steerkit.settings import Chatting, Fitting, Steering, SteeringArguments
from steerkit.store.files import write_json
from steerkit.store.folder import RunFolder
from steerkit.training.arms import Arm, arms_by_name
from steerkit.training.derived import Derived, derived_by_name

TOKENS = ("all", "prompt", "generated")
G = TypeVar("G", bound=Config)


class Settings:
    """The settings of a run as given: shared ones by their name, a step's own under the step's name."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = dict(given)
        self._groups: dict[type[Config], Config] = {}

    def group(self, cls: type[G]) -> G:
        """A group of shared settings.

        Raises:
            ConfigError: all that is wrong with them.
        """
        if cls not in self._groups:
            values = {name: self.given[name] for name in cls.model_fields if name in self.given}
            try:
                self._groups[cls] = cls(**values)
            except ValidationError as error:
                raise ConfigError(cls, "", error) from error
        return self._groups[cls]  # type: ignore[return-value]

    def own(self, name: str) -> dict[str, Any]:
        """What is given under a step's or an experiment's name."""
        found = self.given.get(name)
        return dict(found) if isinstance(found, Mapping) else {}


class ConfigError(InputError):
    """Settings that a config refuses.

    Attributes:
        config: whose fields they are.
        key: what stands before the fields' names in a recipe; empty for shared settings.
        errors: pydantic's.
    """

    def __init__(self, config: type[Config], key: str, error: ValidationError) -> None:
        self.config, self.key, self.errors = config, key, error.errors()
        super().__init__(
            "arguments",
            [
                Problem(".".join([*([key] if key else []), *map(str, e["loc"])]) or config.__name__, e["msg"])
                for e in self.errors
            ],
        )


@dataclass(frozen=True)
class Run:
    """What a step may touch.

    Attributes:
        args: the run's own settings.
        settings: what the steps are set to; ask `use` for a group of them.
        models: the models by name, loaded when first used.
        folder: ``run.folder / "name"`` is a path in the run folder.
        experiments: those of the run by name; what other experiments need is among them.
        given: prompts that came as objects, not from a source.
        step: whose run this is; what it has not declared is refused.
        title: the step's name in the run.
        planned: nothing is run: what a plan needs to know is asked.
        executor: where pieces of work are done.
        scratch: where the step keeps what it knows of its pieces; gone when the step is done.
    """

    name: str
    about: str
    args: SteeringArguments
    settings: Settings
    models: Models
    folder: RunFolder
    experiments: Mapping[str, Experiment] = field(default_factory=dict)
    given: Sequence[Prompt] | None = None
    events: Events = field(default_factory=Events)
    step: RunPart | None = None
    title: str = ""
    planned: bool = False
    executor: Executor | None = None
    scratch: Path | None = None

    @property
    def seed(self) -> int:
        """Of prompts, sampling and noise."""
        return self.args.seed

    def of(self, step: RunPart, title: str) -> Run:
        """The same run, as this step may see it."""
        return replace(self, step=step, title=title)

    def use(self, group: type[G]) -> G:
        """A group of shared settings: part of the step's key.

        Raises:
            SteerkitError: the step does not name it in `uses`: its result would not be made again when one changes.
        """
        if self.step is not None and group not in self.step.uses:
            raise SteerkitError(
                f"{self.title}: asks for the settings {group.__name__} without naming the group; add it to `uses`, so "
                "that the result is made again when one of them changes"
            )
        return self.settings.group(group)

    def peek(self, group: type[G]) -> G:
        """A group of settings that is no part of the step's key; for `depends`, which says what of it counts."""
        return self.settings.group(group)

    def plugin(self, kind: str, spec: PluginSpec | str) -> Any:
        """A plugin, built from its options. What it keeps lies in the run folder, below ``KIND/NAME``."""
        spec = PluginSpec.model_validate(spec)
        made = registry.build(kind, spec)
        if not self.planned:
            made.open(self.folder / f"{kind}/{spec.name}", self.progress)
        return made

    def judge(self, spec: PluginSpec | str) -> Judge:
        """A judge that keeps its answers in the run folder."""
        made: Judge = self.plugin("judges", spec)
        return made

    def measured(self, work: Callable[[Models, Any], Any], what: Any) -> Any:
        """JSON that is measured where the work will be done, such as how many rows fit; once, also if a run is resumed.

        Args:
            work: picklable; takes the models and `what`.
        """
        path = self.scratch / "measured.json" if self.scratch else None
        if path and path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        if self.executor is None:
            return work(self.models, what)
        [(_, found)] = self.executor.map(work, [(0, what)], self.models, lambda number, done: None)
        if path:
            write_json(path, found)
        return found

    def log(self, **values: Any) -> None:
        """Send figures to the log, and to whoever listens."""
        self.events.tell("log", self, values)

    def progress(self, done: int, total: int) -> None:
        """Tell whoever listens how far the step is."""
        self.events.tell("progress", self, self.title, done, total)

    @cached_property
    def chats(self) -> ChatFormat:
        """How prompts become ids, by the writer's tokenizer: for steps whose `uses` names Chatting."""
        s = self.use(Chatting)
        return ChatFormat(self.models.tokenizer, s.chat, s.chat_template_kwargs, s.chat_date)

    # --- conditions --------------------------------------------------------------------------------------------

    def vector(self, source: str, **other: Any) -> VectorKey:
        """The vector that a model's activations gave: the fitter's label and window, or others (`VectorKey`)."""
        fitter = registry.build("fitters", self.peek(Fitting).fitter).config
        return VectorKey(**{"source": source, "label": fitter.label, "window": tuple(fitter.window), **other})

    def unsteered(self, model: str, labels: Mapping[str, Label] | None = None) -> Condition:
        """A model as it is.

        Args:
            labels: columns of the tables; `model` and `strength` when left out.
        """
        own: Mapping[str, Label] = {"model": model, "strength": 0.0} if labels is None else labels
        return Condition(model=self.models.check_name(model), labels=own)

    def steered(
        self,
        model: str,
        vector: VectorKey | None,
        strength: float,
        *,
        layer: int | Site | None = None,
        tokens: Any = None,
        steerer: PluginSpec | str | None = None,
        norm_of: VectorKey | None = None,
        labels: Mapping[str, Label] | None = None,
    ) -> Condition:
        """A model with a vector added, or whatever the steerer does with it. For several interventions at once see
        `place`.

        Args:
            model: that is steered.
            vector: see `vector`; None for steerers that take none.
            strength: multiplier of the fitter's scale.
            layer: 0-based block whose output is edited, or a `Site`; the recipe's block when left out.
            tokens: which are edited, `all`, `prompt` or `generated`; the recipe's when left out.
            steerer: a plugin; the recipe's when left out.
            norm_of: the vector whose scale strength 1 adds, so that another direction adds the same length; `vector`
                when left out.
            labels: columns of the tables; `model`, `vector`, `layer`, `tokens` and `strength` when left out.

        Raises:
            SteerkitError: no such model, or no vector whose length could be added.
        """
        placed = self.place(vector, strength, layer=layer, tokens=tokens, steerer=steerer, norm_of=norm_of)
        own: dict[str, Label] = {
            "model": model,
            "vector": vector.source if vector else placed.steerer.name,
            "layer": placed.layer,
            "tokens": placed.tokens,
            "strength": strength,
        }
        return Condition(
            model=self.models.check_name(model), interventions=(placed,), labels=own if labels is None else labels
        )

    def place(
        self,
        vector: VectorKey | None,
        strength: float,
        *,
        layer: int | Site | None = None,
        tokens: Any = None,
        steerer: PluginSpec | str | None = None,
        norm_of: VectorKey | None = None,
    ) -> Placed:
        """An intervention at its place, for a ``Condition(model=..., interventions=(run.place(...), run.place(...)))``.

        Args: as of `steered`.

        Raises:
            SteerkitError: no such model, or no vector whose length could be added.
        """
        s = self.peek(Steering)
        norm_of = norm_of or vector
        if norm_of is None:
            raise SteerkitError("name a vector to steer with, or with norm_of one whose length is added")
        for key in {norm_of, *([vector] if vector else [])}:
            self.models.check_name(key.source)
        layer = s.layer if layer is None else layer
        if tokens is not None and tokens not in TOKENS:
            raise SteerkitError(f"tokens: there is no {tokens!r}; {nearest(str(tokens), TOKENS)}")
        return Placed(
            steerer=registry.without_defaults("steerers", s.steerer if steerer is None else steerer),
            site=Site(layer) if isinstance(layer, int) else layer,
            strength=strength,
            norm_of=norm_of,
            vector=vector,
            tokens=tokens or s.tokens,
        )

    @cached_property
    def arms(self) -> Mapping[str, Arm]:
        """The ways of training that the experiments ask for, by name, each after the one that it goes on from."""
        return arms_by_name((name, each.arms(self.of(each, name))) for name, each in self.experiments.items())

    @cached_property
    def derived(self) -> Mapping[str, Derived]:
        """The models that steps of the run make of trained ones, by name."""
        return derived_by_name((name, each.derived(self.of(each, name))) for name, each in self.experiments.items())

    def experiment(self, name: str) -> Experiment:
        """An experiment of the run. Raises: SteerkitError when it has none of that name."""
        if name not in self.experiments:
            raise SteerkitError(f"the run has no experiment {name!r}; {nearest(name, list(self.experiments))}")
        return self.experiments[name]
