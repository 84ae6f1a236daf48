"""Steered sweeps by others' means: greedy, the same tokens as `steerkit.generate`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from steerkit.bench.sweep import Sweep
from steerkit.generation.sampling import GREEDY
from steerkit.interventions.edits import Edit

Texts = list[list[int]]  # new ids, condition by condition and prompt by prompt


def direction_of(edit: Edit) -> Tensor:
    """What a sweep's edits add; all of them have one."""
    assert edit.direction is not None
    return edit.direction


def by_nnsight(sweep: Sweep) -> Texts:
    """One prompt and condition at a time: a trace of `generate` that edits one block at every step."""
    import nnsight

    model = nnsight.TransformersModel(sweep.lm.model, tokenizer=sweep.lm.tokenizer)
    config = sweep.config()
    found: Texts = []
    for edit in sweep.edits:
        block, added = model.model.layers[edit.layer], edit.norm * direction_of(edit)
        for prompt in sweep.prompts:
            ids = torch.tensor([prompt])
            with torch.no_grad(), model.generate(ids, generation_config=config) as tracer:
                for _ in tracer.iter[0 : sweep.new_tokens]:
                    block.output[:] = block.output + added
                made = tracer.result.save()
            found.append(made[0, len(prompt) :].tolist())
    return found


def by_steering_vectors(sweep: Sweep) -> Texts:
    """One condition at a time, its prompts in one batch."""
    from steering_vectors import SteeringVector

    found: Texts = []
    for edit in sweep.edits:
        vector = SteeringVector({edit.layer: direction_of(edit)})
        with vector.apply(sweep.lm.model, multiplier=edit.norm):
            found += sweep.hf(sweep.prompts)
    return found


def by_repeng(sweep: Sweep) -> Texts:
    """One condition at a time, its prompts in one batch."""
    import numpy

    if not hasattr(numpy, "float_"):  # repeng 0.4.0 is older than numpy 2
        numpy.float_ = numpy.float64  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from repeng import ControlModel, ControlVector

    layers = sorted({edit.layer for edit in sweep.edits})
    controlled = ControlModel(sweep.lm.model, layers)
    try:
        found: Texts = []
        for edit in sweep.edits:
            vector = ControlVector(model_type="llama", directions={edit.layer: direction_of(edit).numpy()})
            controlled.set_control(vector, edit.norm)
            found += sweep.hf(sweep.prompts)
        return found
    finally:
        controlled.reset()
        controlled.unwrap()


PEERS: dict[str, tuple[str, Callable[[Sweep], Texts]]] = {
    "nnsight, one prompt at a time": ("nnsight", by_nnsight),
    "steering-vectors, one condition at a time": ("steering-vectors", by_steering_vectors),
    "repeng, one condition at a time": ("repeng", by_repeng),
}
"""What is compared → the library, and how it generates."""


def check(sweep: Sweep, new_tokens: int, peers: Mapping[str, Callable[[Sweep], Texts]]) -> None:
    """Raises: AssertionError when a library's greedy texts aren't steerkit's."""
    few = replace(sweep.part(3, 2, new_tokens), sampling=GREEDY)
    ours = few.texts(None)
    unsteered = few.texts(None, steered=False)
    assert ours != unsteered, "steering changed nothing"
    for name, run in peers.items():
        assert run(few) == ours, f"{name}: other texts than steerkit's"
