"""HF `generate` under a hook: what it was given is noted, and the modes that mix rows in one sequence are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError
from steerkit.interventions.positions import Positions, Started

if TYPE_CHECKING:
    from torch import Tensor

PACKED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
"""Entries of continuous batching: rows of unequal age share one sequence, and a hook can't tell them apart."""


@contextmanager
def followed(model: Any, positions: Positions) -> Iterator[None]:
    """Inside, `model.generate` tells `positions` its prompt's columns and mask.

    Args:
        model: the transformers model itself, not PEFT's wrapper (whose `generate` calls this one).
    """
    replaced = {name: _refused(model, name) for name in PACKED if hasattr(model, name)}
    if hasattr(model, "generate"):
        replaced["generate"] = _noted(model, positions)
    before = {name: model.__dict__.get(name) for name in replaced}
    for name, function in replaced.items():
        setattr(model, name, function)
    try:
        yield
    finally:
        for name, own in before.items():
            if own is None:
                delattr(model, name)
            else:
                setattr(model, name, own)


def _noted(model: Any, positions: Positions) -> Callable[..., Any]:
    generate = model.generate

    @wraps(generate)
    def noting(*args: Any, **kwargs: Any) -> Any:
        if positions.started is not None:  # drafts of assisted decoding by the same model
            return generate(*args, **kwargs)
        positions.started = _started(model, *args, **kwargs)
        try:
            return generate(*args, **kwargs)
        finally:
            positions.started = None

    return noting


def _started(model: Any, inputs: Tensor | None = None, generation_config: Any = None, *_: Any, **given: Any) -> Started:
    """The prompt of a `generate` call: all that its mask covers, a cached prefix included."""
    ids = given.get("input_ids") if inputs is None else inputs
    embeds = given.get("inputs_embeds")
    mask = given.get("attention_mask")
    if mask is None and embeds is None and ids is not None:
        mask = _inferred(model, ids, generation_config, given)
    columns = [x.shape[1] for x in (ids, embeds, mask) if x is not None]
    return Started(max(columns, default=1), mask)  # nothing given: a lone BOS


def _inferred(model: Any, ids: Tensor, config: Any, given: dict[str, Any]) -> Tensor | None:
    """The mask that `generate` takes from padding in the ids, where none is given."""
    import torch

    def setting(name: str) -> Any:
        places = (given.get(name), getattr(config, name, None), getattr(model.generation_config, name, None))
        return next((value for value in places if value is not None), None)

    pad, ends = setting("pad_token_id"), setting("eos_token_id")
    if pad is None or pad in (ends if isinstance(ends, list) else [ends]):
        return None
    return (ids != pad).long() if bool(torch.any(ids == pad)) else None


def _refused(model: Any, name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise SteerkitError(
            f"{type(model).__name__}.{name}: continuous batching packs rows of unequal age into one sequence, where "
            "steering can't tell them apart; use `generate`, steerkit.generate, or the vllm engine"
        )

    return refuse
