"""A base model and the reasoning model made from it, as one object: which ids mean the same text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steerkit.data.trace import Item, Span, Trace, spans_by_trace
from steerkit.errors import SteerkitError
from steerkit.models.adapters import with_adapter
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model, wrap_model

log = logging.getLogger("steerkit")
SHOWN = 5  # differing ids named in an error


@dataclass(frozen=True)
class ModelPair:
    """Base and reasoning model over one vocabulary.

    Attributes:
        base: the model before reasoning training.
        reasoning: the model that writes the traces.
        id_map: id of the reasoning model → id that the base reads instead (R1's `<think>` is 128013, a reserved
            token of Llama's that its base never saw; a neutral token such as 27370 stands in for it).
    """

    base: LanguageModel
    reasoning: LanguageModel
    id_map: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_vocabularies()
        rows = self.base.model.get_input_embeddings().weight.shape[0]
        for there, here in self.id_map.items():
            if not 0 <= here < rows:
                raise SteerkitError(f"id_map: {there} is mapped to {here}, but {self.base.name} has no such id")
        if (self.base.width, self.base.depth) != (self.reasoning.width, self.reasoning.depth):
            raise SteerkitError(
                f"not a pair: {self.base.name} is {self.base.depth} blocks × {self.base.width}, "
                f"{self.reasoning.name} is {self.reasoning.depth} × {self.reasoning.width}"
            )

    @property
    def same(self) -> bool:
        """Whether both are one model; a report must say so."""
        return self.base.fingerprint == self.reasoning.fingerprint

    def __getitem__(self, role: str) -> LanguageModel:
        return {"base": self.base, "reasoning": self.reasoning}[role]

    def mapped(self, role: str) -> dict[int, int]:
        """Ids that this model reads as others."""
        return {} if role == "reasoning" else {a: b for a, b in self.id_map.items() if a != b}

    def items(self, role: str, traces: Iterable[Trace], spans: Iterable[Span]) -> list[Item]:
        """Traces with their spans, as this model reads them: what `extract` takes."""
        grouped = spans_by_trace(spans)
        return [Item(t, grouped.get(t.id, ()), self.ids_for(role, t.tokens)) for t in traces]

    def ids_for(self, role: str, ids: Sequence[int]) -> list[int]:
        """The ids that this model reads for a sequence of the reasoning model's ids."""
        mapped = self.mapped(role)
        return [mapped.get(i, i) for i in ids] if mapped else list(ids)

    def _check_vocabularies(self) -> None:
        if self.base.tokenizer is self.reasoning.tokenizer:
            return
        ours, theirs = _by_id(self.reasoning.tokenizer), _by_id(self.base.tokenizer)
        different = [
            (i, ours[i], theirs.get(i)) for i in sorted(ours) if ours[i] != theirs.get(i) and i not in self.id_map
        ]
        if different:
            rows = "\n".join(
                f"  id {i}: {mine!r} in {self.reasoning.name}, {other!r} in {self.base.name}"
                for i, mine, other in different[:SHOWN]
            )
            raise SteerkitError(
                f"the pair's tokenizers disagree on {len(different)} ids not in id_map; the first:\n{rows}\n"
                "  For special tokens, map each id to a neutral one of the base's under `id_map:` in the recipe "
                "(BOS and EOS to themselves); other differences mean that these two models are not a pair"
            )


def load_pair(
    base: Any,
    reasoning: Any = None,
    *,
    adapter: str | None = None,
    id_map: Mapping[int, int] | None = None,
    **options: Any,
) -> ModelPair:
    """Load a pair by names (see `load_model`) or wrap LanguageModels.

    With `adapter`, the reasoning model is the base with that PEFT adapter on, and the weights are loaded once.

    Raises:
        SteerkitError: a model can't be loaded, or the two don't fit together.
    """
    if adapter and reasoning is not None:
        raise SteerkitError("give either a reasoning model or an adapter on the base, not both")
    if adapter:
        return _adapted_pair(str(base), adapter, id_map or {}, options)
    if reasoning is None:
        raise SteerkitError("a pair needs a reasoning model (`reasoning:`) or an adapter on the base (`adapter:`)")
    first = load_model(base, **options) if isinstance(base, str) else wrap_model(base)
    if base == reasoning:
        return ModelPair(first, first, id_map or {})
    second = load_model(reasoning, **options) if isinstance(reasoning, str) else wrap_model(reasoning)
    return ModelPair(first, second, id_map or {})


def _adapted_pair(base: str, adapter: str, id_map: Mapping[int, int], options: dict[str, Any]) -> ModelPair:
    """Base and base with adapter over one set of weights, where turning the adapter off gives the base again."""
    plain = load_model(base, **options)
    before = plain.fingerprint
    both = with_adapter(plain, adapter, trust_remote_code=bool(options.get("trust_remote_code")))
    shared = LanguageModel(base, both.model, plain.tokenizer, adapter=False)
    if shared.fingerprint == before:
        return ModelPair(shared, both, id_map)
    log.warning(
        "%s: the adapter changes the base's own tensors (its biases, embedding or initial weights), which stay when it "
        "is off; the base is loaded a second time",
        adapter,
    )
    return ModelPair(load_model(base, **options), both, id_map)


def _by_id(tokenizer: Any) -> dict[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items()}
