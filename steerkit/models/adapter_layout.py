"""Which tensors of a PEFT model are the base model's, under which names, and whether the adapter is on.

PEFT wraps modules in place: the base's own module is then a child of the wrapper, called `base_layer` or
`original_module`. Leaving that child's name out of a tensor's name gives the name that it has in the plain model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steerkit.models.protocol import Opened


def is_wrapped(model: Any) -> bool:
    """Whether a model is PEFT's."""
    return hasattr(model, "disable_adapter")


class Layout:
    """A PEFT model's wrappers, as they are now: PEFT may exchange modules when its adapter is turned on or off."""

    def __init__(self, model: Any) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        # Path of a wrapper → its child that is the base's module.
        self.inner = {"": "base_model", "base_model": "model"}
        for path, module in model.named_modules():
            if isinstance(module, BaseTunerLayer):
                self.inner[path] = "base_layer"
            elif isinstance(module, AuxiliaryTrainingWrapper):
                self.inner[path] = "token_adapter" if hasattr(module, "token_adapter") else "original_module"
            elif hasattr(module, "adaption_prompt"):
                self.inner[path] = "model"

    def plain(self, name: str) -> str | None:
        """A tensor's name in the plain base model; None for the adapter's own tensors."""
        kept, path = [], ""
        for part in name.split("."):
            wanted = self.inner.get(path)
            if wanted is None:
                kept.append(part)
            elif part != wanted:
                return None
            path = f"{path}.{part}" if path else part
        return ".".join(kept)


def adapter_is_on(model: Any) -> bool:
    """Whether a PEFT model's next forward is the adapted one."""
    if getattr(model.base_model, "_enabled", True) is False:  # adaption prompts are exchanged as modules
        return False
    return not any(getattr(module, "disable_adapters", False) is True for module in model.modules())


@contextmanager
def turned_off(model: Any) -> Iterator[None]:
    """Inside, a PEFT model whose adapter is on acts as its base."""
    _turn_off(model)
    try:
        yield
    finally:
        model.base_model.enable_adapter_layers()


@contextmanager
def turned_on(model: Any) -> Iterator[None]:
    """Inside, a PEFT model whose adapter is off acts with it."""
    model.base_model.enable_adapter_layers()
    try:
        yield
    finally:
        _turn_off(model)


def _turn_off(model: Any) -> None:
    with warnings.catch_warnings():
        # That trained biases stay is measured where the adapter is put on; the base is then loaded by itself.
        warnings.filterwarnings("ignore", "Careful, disabling adapter layers with bias")
        model.base_model.disable_adapter_layers()


@contextmanager
def adapter_state(lm: Opened) -> Iterator[None]:
    """Inside, a shared PEFT model acts as `lm` does: adapter on for the reasoning model, off for the base."""
    if not lm.model_is_wrapped or adapter_is_on(lm.model) == lm.adapter:
        yield
        return
    with turned_on(lm.model) if lm.adapter else turned_off(lm.model):
        yield
