"""Independent computations to hold steerkit against: plain HF forwards, numpy, no code of steerkit's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from peft import PeftModel

BLOCK_PATHS = (
    "model.layers",
    "transformer.h",
    "gpt_neox.layers",
    "backbone.layers",
    "model.decoder.layers",
    "transformer.blocks",
    "model.language_model.layers",
)


def blocks_of(model: Any) -> Any:
    """The block list, by each architecture's own attribute path."""
    inner = model.base_model.model if isinstance(model, PeftModel) else model
    for path in BLOCK_PATHS:
        found: Any = inner
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return found
    raise AssertionError(type(model))


def hidden_by_layer(model: Any, ids: Sequence[int]) -> np.ndarray:
    """[L, T, H] float64 block outputs of one sequence: `output_hidden_states`, and a hook for the last block."""
    last: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    handle = blocks_of(model)[-1].register_forward_hook(keep)
    with torch.no_grad():
        out = model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
    handle.remove()
    states = [*out.hidden_states[1:-1], last[0]]
    return np.stack([state[0].double().numpy() for state in states])


def whole_windows(item: Any, window: tuple[int, int], must_hold: tuple[int, int] | None = None) -> list[Any]:
    """(span, its positions) of the spans whose window lies after the first token and inside the sequence."""
    low, high = must_hold or window
    return [
        (span, list(range(span.first + window[0], span.first + window[1] + 1)))
        for span in item.spans
        if span.first + low >= 1 and span.first + high <= len(item.ids) - 1
    ]


def mean_act(traces: Sequence[tuple[np.ndarray, list[list[int]]]], weighting: str, overlap: str) -> np.ndarray:
    """MeanAct of Eq. 3, [L, H]: `traces` holds each one's hidden states [L, T, H] and its windows' positions."""
    each = []
    for hidden, windows in traces:
        positions = [p for window in windows for p in window]
        if overlap == "once":
            positions = sorted(set(positions))
        if positions:
            each.append(hidden[:, positions])
    if weighting == "trace":
        return np.mean([h.mean(1) for h in each], 0)
    return np.concatenate(each, 1).mean(1)


def difference_of_means(
    items: Sequence[Any],
    states: Sequence[np.ndarray],
    label: str,
    window: tuple[int, int],
    *,
    positives: str = "spans",
    reference: str = "spans",
    weighting: str = "trace",
    overlap: str = "each",
    must_hold: tuple[int, int] | None = None,
) -> np.ndarray:
    """v of Eq. 3, [L, H], for every named reading of D₊ and D."""

    def act(chosen: Callable[[Any, Any], bool]) -> np.ndarray:
        sets = [
            (h, [p for span, p in whole_windows(item, window, must_hold) if chosen(item, span)])
            for item, h in zip(items, states, strict=True)
        ]
        return mean_act(sets, weighting, overlap)

    def has_label(item: Any, span: Any) -> bool:
        return any(other.label == label for other in item.spans)

    plus = act((lambda i, s: s.label == label) if positives == "spans" else has_label)
    if reference == "tokens":
        own = [h[:, len(i.trace.prompt_ids) :].mean(1) for i, h in zip(items, states, strict=True)]
        return plus - np.mean(own, 0)
    return plus - act((lambda i, s: True) if reference == "spans" else (lambda i, s: s.label != label))


def edited_logits(
    model: Any, ids: torch.Tensor, layer: int, change: Callable[[torch.Tensor], torch.Tensor], **options: Any
) -> torch.Tensor:
    """Logits of a forward whose block output `layer` goes through `change`, by an own hook."""

    def edit(module: Any, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    handle = blocks_of(model)[layer].register_forward_hook(edit)
    try:
        with torch.no_grad():
            return model(input_ids=ids, **options).logits
    finally:
        handle.remove()


def longest_common_prefix(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
