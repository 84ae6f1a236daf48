"""Hooks and torch.compile: a graph that was compiled before a hook was registered runs without it, silently."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel

log = logging.getLogger("steerkit")
_told: set[int] = set()


@contextmanager
def hooks_run(lm: LanguageModel, *, inside: bool = False) -> Iterator[None]:
    """Inside, compiled code runs uncompiled, so that hooks on the blocks take effect and are not compiled into it.

    Parts inside the blocks stay compiled (`torch_compile`, flex attention) when nothing around the blocks is. A
    graph around such a model that its modules don't show (``f = torch.compile(model)``) then runs without the hooks:
    whoever registers them checks that they ran.

    Args:
        inside: hooks are on parts inside the blocks, too, and these parts run uncompiled.
    """
    import torch

    within = {id(part) for block in lm.blocks for part in block.modules() if part is not block}
    compiled = [id(module) in within for module in lm.model.modules() if _is_compiled(module)]
    flex = getattr(lm.config, "_attn_implementation", None) == "flex_attention"
    if (compiled or flex) and all(compiled) and not (inside and compiled):
        yield
        return
    if compiled and id(lm.model) not in _told:
        _told.add(id(lm.model))
        log.info("%s is compiled: it runs uncompiled (eagerly) while hooks are on it", lm.name)
    with torch.compiler.set_stance("force_eager"):
        yield


def _is_compiled(module: Any) -> bool:
    """Whether a module is called through torch.compile: `m.compile()`, `torch.compile(m)`, or its `forward` is."""
    own = module.__dict__.get("forward")
    called = module.__dict__.get("_compiled_call_impl")
    return called is not None or hasattr(own, "_torchdynamo_orig_callable") or hasattr(module, "_orig_mod")
