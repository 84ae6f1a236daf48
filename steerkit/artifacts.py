"""What steps hand on to each other, as frozen rows: which plugin, which vector, which condition."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from steerkit.data.generated import Label
from steerkit.data.site import Site
from steerkit.store.files import digest


class PluginSpec(BaseModel):
    """A plugin by name with its options: ``{name: dom, window: [-13, -8]}``, or the name alone. `registry.build` makes
    the plugin of it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """The options that are given."""
        return dict(self.model_extra or {})

    @property
    def given(self) -> dict[str, Any]:
        """JSON of the name and the given options."""
        return self.model_dump(mode="json")


class Kind(str):
    """Marks a field that names a plugin of this kind: ``Annotated[PluginSpec, Kind("judges")]``."""


def plugin_fields(model: type[BaseModel]) -> Mapping[tuple[str | int, ...], str]:
    """Path of each field that names a plugin (a list's field too) → its kind."""
    found: dict[tuple[str | int, ...], str] = {}
    for name, info in model.model_fields.items():
        kinds = [m for m in info.metadata if isinstance(m, Kind)]
        for argument in getattr(info.annotation, "__args__", ()):
            kinds += [m for m in getattr(argument, "__metadata__", ()) if isinstance(m, Kind)]
        if kinds:
            found[(name,)] = str(kinds[0])
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found |= {(name, *rest): kind for rest, kind in plugin_fields(info.annotation).items()}
    return found


def specs_in(config: BaseModel) -> Sequence[tuple[tuple[str | int, ...], str, PluginSpec]]:
    """(path, kind, spec) of every plugin that a config names."""
    found: list[tuple[tuple[str | int, ...], str, PluginSpec]] = []
    for path, kind in plugin_fields(type(config)).items():
        value: Any = config
        for part in path:
            value = getattr(value, str(part)) if value is not None else None
        if isinstance(value, tuple):
            found += [((*path, index), kind, spec) for index, spec in enumerate(value)]
        elif value is not None:
            found.append((path, kind, value))
    return found


@dataclass(frozen=True, order=True, kw_only=True)
class VectorKey:
    """Which steering vector.

    Attributes:
        source: name of the model whose activations it is fitted to.
        label: label of the positive spans.
        window: inclusive token offsets from a span's first token, negative = before.
        pool: the spans that it is fitted to: `own`, those whose window lies inside the text; `sweep`, those of which
            the widest window read does, so that vectors of several windows have the same spans.
        draw: pseudo-labels in place of the judge's (`steerkit.data.draws`), ``within-03``; empty for the judge's own.
    """

    source: str
    label: str
    window: tuple[int, int]
    pool: Literal["own", "sweep"] = "own"
    draw: str = ""

    @property
    def file(self) -> str:
        """File name in the run folder's ``vectors/``."""
        more = f"{'.sweep' if self.pool == 'sweep' else ''}{'.' if self.draw else ''}{self.draw}"
        return f"{self.source}.{_for_files(self.label)}.{self.window[0]}..{self.window[1]}{more}.safetensors"

    def to_json(self) -> dict[str, Any]:
        """JSON of it; no draw is left out."""
        return {name: value for name, value in asdict(self).items() if name != "draw" or value}


def _for_files(label: str) -> str:
    """A label as a part of a file's name; one that can't be that (``../x``, ``a/b``, an emoji) has its digest in it."""
    if re.fullmatch(r"[A-Za-z0-9 _-]{1,80}", label):
        return label
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', label)[:60]}-{digest(label)[:8]}"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A vector, and the fitter that makes it; the recipe's when left out."""

    key: VectorKey
    fitter: PluginSpec | None = None


@dataclass(frozen=True, kw_only=True)
class Placed:
    """An intervention at its place.

    Attributes:
        steerer: the plugin.
        site: where: a decoder block's output (``hidden_states[layer + 1]``) or a tensor inside a block.
        strength: multiplier of the scale of `norm_of`.
        norm_of: the vector whose scale strength 1 adds, so that other directions can add the same length.
        vector: the vector that the steerer is given; None for steerers that take none.
        tokens: which tokens are edited.
    """

    steerer: PluginSpec
    site: Site
    strength: float
    norm_of: VectorKey
    vector: VectorKey | None = None
    tokens: Literal["all", "prompt", "generated"] = "all"

    @property
    def layer(self) -> int:
        """0-based decoder block of the site; the vector's direction of that block is used."""
        return self.site.layer

    def to_json(self) -> dict[str, Any]:
        """JSON of all of it."""
        return {
            "steerer": self.steerer.given,
            "site": asdict(self.site),
            "strength": self.strength,
            "norm_of": self.norm_of.to_json(),
            "vector": self.vector.to_json() if self.vector else None,
            "tokens": self.tokens,
        }


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One way of generating the prompts' answers.

    Attributes:
        model: name of the model that generates.
        interventions: what is done to it, all at once; nothing for the plain model.
        system: a system message that is put before the prompt; empty for none.
        prefix: a text that the prompt's first user message begins with.
        labels: what tells it from the other conditions of its experiment: the columns of the tables. Two experiments
            may label one condition differently: its texts are generated once.
    """

    model: str
    interventions: tuple[Placed, ...] = ()
    system: str = ""
    prefix: str = ""
    labels: Mapping[str, Label] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.id)

    @cached_property
    def id(self) -> str:
        """16 hex digits over all that its texts depend on, labels aside."""
        done = [placed.to_json() for placed in self.interventions]
        prefix = {"prefix": self.prefix} if self.prefix else {}
        return digest({"model": self.model, "interventions": done, "system": self.system, **prefix})

    @property
    def steered(self) -> bool:
        """Whether anything is done to the model."""
        return any(placed.strength for placed in self.interventions)

    @property
    def vectors(self) -> set[VectorKey]:
        """The vectors that must have been fitted for it."""
        keys = {key for placed in self.interventions for key in (placed.norm_of, placed.vector)}
        return {key for key in keys if key is not None}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two conditions of an experiment that are compared, prompt by prompt: the first one minus the other."""

    ours: Condition
    other: Condition
