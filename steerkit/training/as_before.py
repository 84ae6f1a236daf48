"""What a training changes beside weights, and leaves as it was: random states, dropout, modes, caches."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Inside, the global generators (Python's, numpy's, torch's) start at a seed; afterwards they are as before."""
    import numpy as np
    import torch

    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)


@contextmanager
def own_accelerator_state() -> Iterator[None]:
    """Inside, accelerate may find its devices anew, as a Trainer makes it do; afterwards its state is as before.

    The state is the process's: one that a training on the CPU leaves would keep models that are loaded later there.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    kinds = (PartialState, AcceleratorState, GradientState)
    before = [dict(kind._shared_state) for kind in kinds]
    try:
        yield
    finally:
        for kind, state in zip(kinds, before, strict=True):
            kind._shared_state.clear()
            kind._shared_state.update(state)


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """Inside, all rates of dropout in a model's modules and configurations are 0; modules put on it later keep theirs.

    Models ask for the rate in three ways: a Dropout module, a number on the module, a number of the configuration.
    """
    import torch

    modules = list(model.modules())
    configs = {id(m.config): m.config for m in modules if hasattr(m, "config")}
    changed: list[tuple[Any, str, float]] = []
    for owner in (*modules, *configs.values()):
        for name, value in list(vars(owner).items()):
            rate = "drop" in name or (name == "p" and isinstance(owner, torch.nn.modules.dropout._DropoutNd))
            if rate and isinstance(value, float) and value:
                changed.append((owner, name, value))
                setattr(owner, name, 0.0)
    try:
        yield
    finally:
        for owner, name, value in changed:
            setattr(owner, name, value)


@contextmanager
def as_before(lm: LanguageModel) -> Iterator[None]:
    """Inside, a model may be trained. Afterwards its modules' modes, its cache setting and gradients are as before."""
    modes = [(module, module.training) for module in lm.model.modules()]
    caches, saves_memory = lm.model.config.use_cache, _saves_memory(lm.model)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        lm.model.config.use_cache = caches
        for parameter in lm.model.parameters():
            parameter.grad = None
        if not saves_memory and _saves_memory(lm.model):
            # its name since transformers 5.2x, and the one before
            model: Any = lm.model
            getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()
            model.disable_input_require_grads()  # a hook that comes with it


def _saves_memory(model: Any) -> bool:
    """Whether activations are computed again in backward passes."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
