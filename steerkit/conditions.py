"""Conditions: vector × strength × target × layer of one steered run, and the experiments made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from steerkit.identity import options_of
from steerkit.interfaces import Steerer
from steerkit.methods import Methods
from steerkit.settings import SteeringArguments
from steerkit.store.files import digest

Pool = Literal["own", "sweep"]


@dataclass(frozen=True, order=True, kw_only=True)
class VectorKey:
    """Which vector: whose activations, which label, which window, over which spans."""

    source: str
    label: str
    window: tuple[int, int]
    pool: Pool = "own"

    @property
    def file(self) -> str:
        """File name in the run folder's ``vectors/``."""
        sweep = ".sweep" if self.pool == "sweep" else ""
        return f"{self.source}.{_for_files(self.label)}.{self.window[0]}..{self.window[1]}{sweep}.safetensors"


def _for_files(label: str) -> str:
    """A label as a part of a file's name; one that can't be that (``../x``, ``a/b``, an emoji) has its digest in it."""
    if re.fullmatch(r"[A-Za-z0-9 _-]{1,80}", label):
        return label
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', label)[:60]}-{digest(label)[:8]}"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One way of generating a prompt's answer.

    Attributes:
        target: `base` or `reasoning`: the model that generates.
        method: `none`, the fitter's name, or a baseline's (`steerkit.methods`).
        source: model that the vector comes from; `none` where there is no vector.
        layer: 0-based block that is steered; -1 for `none`.
        window: offsets of the vector; (0, 0) for methods without one.
        strength: multiplier of the scale.
        added_norm: L2 norm that is added at every steered token.
        vector: the vector that is added (or whose source's mean is), None where there is none.
        options: JSON of a baseline's options that are not its steerer's defaults; empty where all are.
    """

    target: str
    method: str = "none"
    source: str = "none"
    layer: int = -1
    window: tuple[int, int] | None = None
    strength: float = 0.0
    added_norm: float = 0.0
    vector: VectorKey | None = None
    options: str = ""

    @property
    def id(self) -> str:
        """Tells a condition from all others of its run."""
        fields = asdict(self)
        return digest(fields if self.options else {k: v for k, v in fields.items() if k != "options"})

    def columns(self) -> dict[str, Any]:
        """The columns that name a condition in tables and jsonl rows; empty where they don't apply."""
        start, end = self.window or ("", "")
        return {
            "source": self.source,
            "target": self.target,
            "method": self.method,
            "layer": "" if self.layer < 0 else self.layer,
            "window_start": start,
            "window_end": end,
            "pool": self.vector.pool if self.vector else "",
            "strength": self.strength,
            "added_norm": round(self.added_norm, 6),
        }


@dataclass(frozen=True)
class Experiment:
    """A named set of conditions on one split of the prompts."""

    name: str
    split: str
    conditions: tuple[Condition, ...]


class Planner:
    """Lists the conditions of every experiment; `norm(source, layer)` is what strength 1 adds."""

    def __init__(self, args: SteeringArguments, depth: int, norms: Mapping[tuple[str, int], float]) -> None:
        self.args, self.depth, self.norms = args, depth, norms
        self.fitter = args.fitter.build("fitters")
        self.window: tuple[int, int] = tuple(self.fitter.config.window)
        self.label: str = self.fitter.config.label
        self.methods = Methods.of(args)

    def vectors(self) -> list[VectorKey]:
        """Every vector that the experiments need."""
        keys = list(self.main_vectors())
        keys += [self._label_key(label) for label in self.args.baseline_labels]
        if self.args.offsets:
            keys += [self._sweep_key(window) for window in self.args.offsets.windows()]
        return keys

    def main_vectors(self) -> tuple[VectorKey, VectorKey]:
        """The base- and the reasoning-derived vector that transfer compares."""
        base, reasoning = (VectorKey(source=s, label=self.label, window=self.window) for s in ("base", "reasoning"))
        return base, reasoning

    def choose(self) -> list[Experiment]:
        """Base-derived vector on the reasoning model at every strength, on the choose prompts; none if none is used."""
        if not any(c.strength for e in self.test(0) for c in e.conditions):
            return []
        return [Experiment("transfer", "choose", self.strengths())]

    def test(self, chosen: float) -> list[Experiment]:
        """All experiments on the test prompts."""
        args = self.args
        found = []
        if args.transfer:
            roles = ("base", "reasoning")
            transfer = [none(target) for target in roles]
            transfer += [self.dom(s, t, strength) for s in roles for t in roles for strength in args.nonzero]
            found.append(Experiment("transfer", "test", tuple(transfer)))
        baselines = [none("reasoning")]
        for strength in args.nonzero:
            baselines.append(self.dom("base", "reasoning", strength))
            baselines += [self.baseline(method, strength) for method in self.methods.steerers]
            baselines += [self.label_baseline(method, strength) for method in self.methods.labels]
        if args.baselines or args.baseline_labels:
            found.append(Experiment("baselines", "test", tuple(baselines)))
        if args.offsets:
            swept = [
                self.dom(args.offsets.source, "reasoning", strength, vector=self._sweep_key(window))
                for window in args.offsets.windows()
                for strength in self._swept(args.offsets.strengths, chosen)
            ]
            found.append(Experiment("offsets", "test", (none("reasoning"), *swept)))
        if args.layers:
            layers = args.layers.layers if args.layers.layers is not None else range(self.depth)
            swept = [
                self.dom(source, "reasoning", strength, layer=layer)
                for source in args.layers.sources
                for layer in layers
                for strength in self._swept(args.layers.strengths, chosen)
            ]
            found.append(Experiment("layers", "test", (none("reasoning"), *swept)))
        if args.projection:
            found.append(Experiment("projection", "test", (none("reasoning"),)))
        if args.agreement:
            found.append(Experiment("agreement", "test", self.strengths()))
        return found

    def strengths(self) -> tuple[Condition, ...]:
        """Base-derived vector on the reasoning model, unsteered and at every strength."""
        return (none("reasoning"), *(self.dom("base", "reasoning", s) for s in self.args.nonzero))

    def dom(
        self,
        source: str,
        target: str,
        strength: float,
        *,
        layer: int | None = None,
        vector: VectorKey | None = None,
    ) -> Condition:
        """The fitter's vector of a source on a target."""
        layer = self.args.layer if layer is None else layer
        vector = vector or VectorKey(source=source, label=self.label, window=self.window)
        return Condition(
            target=target,
            method=self.methods.fitted,
            source=source,
            layer=layer,
            window=vector.window,
            strength=strength,
            added_norm=strength * self.norms[source, layer],
            vector=vector,
        )

    def baseline(self, method: str, strength: float) -> Condition:
        """Another steerer at equal norm; it may read the base-derived vector's mean activation."""
        steerer = self.methods.steerers[method].build("steerers")
        uses = steerer.direction != "none"
        vector = VectorKey(source="base", label=self.label, window=self.window) if uses else None
        return Condition(
            target="reasoning",
            method=method,
            source="base" if uses else "none",
            layer=self.args.layer,
            window=self.window if uses else None,
            strength=strength,
            added_norm=strength * self.norms["base", self.args.layer],
            vector=vector,
            options=_other_options(steerer),
        )

    def label_baseline(self, method: str, strength: float) -> Condition:
        """Another label's vector by the same fitter at equal norm."""
        vector = self._label_key(self.methods.labels[method])
        return Condition(
            target="reasoning",
            method=method,
            source="base",
            layer=self.args.layer,
            window=vector.window,
            strength=strength,
            added_norm=strength * self.norms["base", self.args.layer],
            vector=vector,
        )

    def _swept(self, strengths: tuple[float, ...] | Literal["all"] | None, chosen: float) -> tuple[float, ...]:
        return self.args.nonzero if strengths == "all" else strengths or (chosen,)

    def _label_key(self, label: str) -> VectorKey:
        spec = self.args.baseline_fitter
        window = tuple(spec.build("fitters").config.window) if spec else self.window
        return VectorKey(source="base", label=label, window=window)

    def _sweep_key(self, window: tuple[int, int]) -> VectorKey:
        source = self.args.offsets.source if self.args.offsets else "base"
        return VectorKey(source=source, label=self.label, window=window, pool="sweep")


def _other_options(steerer: Steerer) -> str:
    """JSON of the options that are not their defaults; empty where all are."""
    other = steerer.config.model_dump(exclude_defaults=True)
    found = {name: value for name, value in options_of(steerer).items() if name in other}
    return json.dumps(found, sort_keys=True) if found else ""


def none(target: str) -> Condition:
    """The unsteered model."""
    return Condition(target=target)


def distinct(experiments: Sequence[Experiment]) -> list[tuple[str, Condition]]:
    """(split, condition) once each, in order: what has to be generated."""
    return list({(e.split, c.id): (e.split, c) for e in experiments for c in e.conditions}.values())
