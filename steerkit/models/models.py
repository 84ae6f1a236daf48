"""The models of a run by name: two or ten, loaded when first used, over one vocabulary or with a map between ids."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

from steerkit.data.trace import Item, Span, Trace, spans_by_trace
from steerkit.errors import SteerkitError, nearest
from steerkit.models.adapter_vocabulary import tokenizer_of
from steerkit.models.adapters import with_adapter
from steerkit.models.identity import model_identity
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import ModelShape, load_model, load_shape, load_tokenizer, wrap_model
from steerkit.models.model_spec import Loading, ModelSpec, Trained
from steerkit.models.parts_from import with_parts
from steerkit.models.same_ids import check_vocabulary
from steerkit.store.identity import Identity

log = logging.getLogger("steerkit")
PLAIN = Loading()


class Models:
    """A run's models by name.

    Args:
        given: name → a name to load, a mapping or `ModelSpec` (weights, adapter, id_map), or a LanguageModel; for one
            that needs a map of ids, (LanguageModel, {writer: {id: id}}).
        writer: the model that writes traces, whose tokenizer makes ids of prompts; may be left out for one model.
        loading: how the others are loaded.

    Raises:
        SteerkitError: there is none, or no writer among them.
    """

    def __init__(self, given: Mapping[str, Any], writer: str = "", loading: Loading = PLAIN) -> None:
        self.specs: dict[str, ModelSpec] = {}
        self._loaded: dict[str, LanguageModel] = {}
        self._checked: set[str] = set()  # models whose ids were held against the writer's
        self._shapes: dict[str, ModelShape] = {}
        self.trained: dict[str, Trained] = {}  # what the run trains, by name
        self._latest: tuple[str, LanguageModel] | None = None  # the trained model in memory: one at a time
        self.services: dict[str, Any] = {}  # what was started on these models and must be closed (engines)
        self._named: tuple[str, frozenset[str]] | None = None  # who asks now, and the models that it has named
        self.progress: Callable[[int], None] = lambda done: None  # work tells how far its piece is
        if not isinstance(given, Mapping):
            raise SteerkitError(f"models are given by name, {{NAME: WEIGHTS}}, not as {type(given).__name__}")
        for name, what in given.items():
            if isinstance(what, str | Mapping | ModelSpec):
                self.specs[name] = ModelSpec.model_validate(what)
            else:
                lm, maps = what if isinstance(what, tuple) else (what, {})
                self._loaded[name] = wrap_model(lm)
                self.specs[name] = ModelSpec(weights=self._loaded[name].name, id_map=maps)
        self.in_memory = frozenset(self._loaded)
        self.loading = loading
        if not self.specs:
            raise SteerkitError("a run needs a model: `models: {NAME: WEIGHTS}`")
        if not writer and len(self.specs) > 1:
            raise SteerkitError(f"say which of the models writes the traces: `writer:` one of {', '.join(self.specs)}")
        self.writer = writer or next(iter(self.specs))
        others = (other for spec in self.specs.values() for other in (*spec.id_map, *spec.parts_from.values()))
        for name in (self.writer, *others):
            self.check_name(name)

    def __reduce__(self) -> Any:
        if self.in_memory:
            raise SteerkitError(
                f"{', '.join(sorted(self.in_memory))}: a model that was given as an object can't be sent to another "
                "process; give its folder, or use the local executor"
            )
        return _with_trained, (self.specs, self.writer, self.loading, self.trained)

    def close(self) -> None:
        """Close what was started on the models."""
        while self.services:
            self.services.popitem()[1].close()

    def __iter__(self) -> Any:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def check_name(self, name: str) -> str:
        """The name. Raises: SteerkitError when no model has it."""
        if name not in self.specs and name not in self.trained:
            raise SteerkitError(f"models: none is called {name!r}; {nearest(name, [*self.specs, *self.trained])}")
        return name

    def origin(self, name: str) -> str:
        """The model of the recipe that a trained one is made of; the name itself for one of the recipe's."""
        return self.trained[name].origin if name in self.trained else self.check_name(name)

    def __getitem__(self, name: str) -> LanguageModel:
        """The model, loaded when first asked for.

        Raises:
            SteerkitError: no such model, it can't be loaded, its ids are not the writer's, or the step that asks has
                not named it.
        """
        self.check_name(name)
        if self._named and self.origin(name) not in self._named[1]:
            raise SteerkitError(
                f"{self._named[0]}: asks for the model {name!r} without naming it; return it from `models`, so that "
                "the result is made again when its weights change"
            )
        return self._at(name)

    @contextmanager
    def only(self, who: str, names: Iterable[str]) -> Iterator[None]:
        """Refuse models that a step has not named, as its key does not have their weights."""
        before, self._named = self._named, (who, frozenset(names))
        try:
            yield
        finally:
            self._named = before

    def _at(self, name: str) -> LanguageModel:
        if name in self.trained:
            return self._trained(name)
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        lm = self._loaded[name]
        if name != self.writer and name not in self._checked:
            self._checked.add(name)
            maps = self.specs[name].id_map.get(self.writer, {})
            check_vocabulary((name, lm), (self.writer, self._at(self.writer)), maps)
        return lm

    def _load(self, name: str) -> LanguageModel:
        spec = self.specs[name]
        made_of = spec.weights, spec.parts_from
        alike = [n for n, o in self.specs.items() if (o.weights, o.parts_from) == made_of and n not in self.in_memory]
        for other in alike:
            if other in self._loaded and self.specs[other].adapter == spec.adapter:
                return self._loaded[other]
        plain = next((n for n in alike if not self.specs[n].adapter), None)
        adapted = next((n for n in alike if self.specs[n].adapter), None)
        if plain and adapted and name in (plain, adapted):
            self._load_over_one(plain, adapted)
            return self._loaded[name]
        lm = self._bare(name)
        return self._adapted(lm, spec.adapter) if spec.adapter else lm

    def _trained(self, name: str) -> LanguageModel:
        """A trained model, loaded in place of the one that was asked for before.

        Raises:
            SteerkitError: it is not trained yet.
        """
        if self._latest and self._latest[0] == name:
            return self._latest[1]
        self._latest, what = None, self.trained[name]
        if not what.folder.is_dir():
            raise SteerkitError(f"the model {name!r} is not trained yet: what reads it must need `training`")
        folder = str(what.folder)
        lm = self._plain(folder) if what.whole else with_adapter(self.copy(what.origin), folder, must_change=False)
        self._latest = name, lm
        return lm

    def copy(self, name: str) -> LanguageModel:
        """A model of the recipe a second time, which may be changed."""
        lm = self._at(self.check_name(name))
        if name not in self.in_memory and not self.specs[name].adapter:
            return self._bare(name)
        return replace(lm, model=deepcopy(lm.model))

    def _plain(self, weights: str) -> LanguageModel:
        return load_model(weights, **asdict(self.loading))

    def _bare(self, name: str) -> LanguageModel:
        """A model of the recipe without its adapter, loaded anew.

        Raises:
            SteerkitError: a part is to come from a model that has an adapter, or parts of others itself.
        """
        spec = self.specs[name]
        lm = self._plain(spec.weights)
        if not spec.parts_from:
            return lm
        donors = {}
        for other in dict.fromkeys(spec.parts_from.values()):
            donor = self.specs[self.check_name(other)]
            if donor.adapter or donor.parts_from or other in self.in_memory:
                raise SteerkitError(
                    f"models.{name}.parts_from: {other} is not a model that lies somewhere by itself; name one without "
                    "an adapter, without parts of others and not in memory"
                )
            donors[other] = load_model(donor.weights, **{**asdict(self.loading), "device": "cpu", "device_map": None})
        return with_parts(lm, {part: donors[other] for part, other in spec.parts_from.items()})

    def _adapted(self, lm: LanguageModel, adapter: str) -> LanguageModel:
        return with_adapter(lm, adapter, trust_remote_code=self.loading.trust_remote_code)

    def _load_over_one(self, plain: str, adapted: str) -> None:
        """A model and the same with an adapter over one set of weights: turning it off gives the plain one again.

        Where the adapter changes the weights' own tensors (biases, the embedding), they are loaded twice.
        """
        spec = self.specs[adapted]
        alone = self._bare(plain)
        before = alone.fingerprint
        both = self._adapted(alone, str(spec.adapter))
        shared = LanguageModel(alone.name, both.model, alone.tokenizer, adapter=False)
        if shared.fingerprint != before:
            log.warning(
                "%s: the adapter changes the model's own tensors (its biases, embedding or initial weights), which "
                "stay when it is off; %s is loaded a second time",
                spec.adapter,
                plain,
            )
            shared = self._bare(plain)
        self._loaded |= {plain: shared, adapted: both}

    @property
    def tokenizer(self) -> Any:
        """The writer's."""
        return self._at(self.writer).tokenizer

    def peek_tokenizer(self, name: str) -> Any:
        """A model's tokenizer, without its weights where they aren't loaded.

        Raises:
            SteerkitError: there is no such model, or its tokenizer is not a fast one.
        """
        name = self.origin(name)
        if name in self._loaded:
            return self._loaded[name].tokenizer
        spec, trusted = self.specs[name], self.loading.trust_remote_code
        own = load_tokenizer(spec.weights, trust_remote_code=trusted)
        return tokenizer_of(spec.adapter, own, trusted) if spec.adapter else own

    def shape(self, name: str) -> ModelShape:
        """A model's sizes, without its weights where they aren't loaded."""
        name = self.origin(name)
        spec = self.specs[name]
        if name in self.in_memory or name in self._loaded:
            lm = self._loaded[name]
            return ModelShape(lm.name, lm.depth, lm.width, 0, 0, 0, 0)
        if spec.weights not in self._shapes:
            self._shapes[spec.weights] = load_shape(spec.weights, trust_remote_code=self.loading.trust_remote_code)
        return self._shapes[spec.weights]

    def depth(self, name: str) -> int:
        """Number of decoder blocks of a model."""
        return self.shape(name).depth

    def same(self, one: str, other: str) -> bool:
        """Whether two names stand for one model; a report must say so."""
        return one == other or self._at(one).fingerprint == self._at(other).fingerprint

    def alike(self, one: str, other: str) -> bool:
        """Whether two names stand for one model that reads ids alike, as far as their settings say."""
        mine, theirs = self.specs[one], self.specs[other]
        loaded = {one, other} & self.in_memory
        if loaded and self._loaded.get(one) is not self._loaded.get(other):
            return one == other
        same = (mine.weights, mine.adapter, mine.parts_from) == (theirs.weights, theirs.adapter, theirs.parts_from)
        return same and self.mapped(one) == self.mapped(other)

    def mapped(self, name: str, writer: str = "") -> dict[int, int]:
        """Ids in a text of the writer's that this model reads as others."""
        return {a: b for a, b in self.specs[self.origin(name)].id_map.get(writer or self.writer, {}).items() if a != b}

    def ids_for(self, name: str, ids: Sequence[int]) -> list[int]:
        """The ids that a model reads for a sequence of the writer's ids."""
        mapped = self.mapped(name)
        return [mapped.get(i, i) for i in ids] if mapped else list(ids)

    def items(self, name: str, traces: Iterable[Trace], spans: Iterable[Span]) -> list[Item]:
        """Traces with their spans, as a model reads them: what `extract` takes."""
        grouped = spans_by_trace(spans)
        return [Item(t, grouped.get(t.id, ()), self.ids_for(name, t.tokens)) for t in traces]

    def identities(self, name: str) -> tuple[Identity, Identity]:
        """What a model's activations depend on, and what its texts do besides, as it is now."""
        spec, lm = self.specs[name], self._at(name)
        named = name not in self.in_memory and not spec.weights.endswith(".gguf") and not spec.parts_from
        settings = [self.loading.attn_implementation, self.loading.torch_compile, self.loading.bf16]
        return model_identity(name, lm, named=named, adapter=spec.adapter, settings=settings)


def _with_trained(
    specs: Mapping[str, ModelSpec], writer: str, loading: Loading, trained: Mapping[str, Trained]
) -> Models:
    """Models as another process gets them."""
    found = Models(specs, writer, loading)
    found.trained = dict(trained)
    return found


def load_models(given: Mapping[str, Any], *, writer: str = "", **options: Any) -> Models:
    """Models by name, loaded now: ``load_models({"base": "pocket:base", "reasoning": "pocket:reasoning"},
    writer="reasoning")``.

    Args:
        given: as of `Models`.
        options: as of `load_model`.

    Raises:
        SteerkitError: a model can't be loaded, or one reads the writer's ids as other tokens.
    """
    models = Models(given, writer, Loading(**options))
    for name in models:
        models[name]
    return models
