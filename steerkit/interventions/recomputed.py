"""Gradient checkpointing: blocks that run again while gradients are computed, and which forward they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.errors import SteerkitError
from steerkit.interventions.positions import Call

if TYPE_CHECKING:
    from torch import Tensor


def in_backward() -> bool:
    """Whether autograd is at work in this thread: a forward that runs now is a checkpoint's second one."""
    import torch

    task: int = torch._C._current_graph_task_id()
    return task != -1


class Recomputed:
    """The forwards with gradients whose blocks may run again.

    A block that runs again gets no word from its decoder on which tokens it has. They are those of the last forward,
    unless several different ones came before the backward pass; those are refused.
    """

    def __init__(self) -> None:
        self._open: list[Call] = []  # different forwards since the last backward pass that ran blocks again
        self._ran_again = False

    def forward(self, call: Call) -> None:
        """A first forward begins."""
        import torch

        if self._ran_again:
            self._open, self._ran_again = [], False
        if torch.is_grad_enabled() and not (self._open and _alike(self._open[-1], call)):
            self._open.append(call)

    def again(self, call: Call) -> None:
        """A whole decoder runs again, with these tokens."""
        self._open, self._ran_again = [call], True

    def check(self, name: str) -> None:
        """A block runs again. Raises: SteerkitError when it is unknown for which forward."""
        self._ran_again = True
        if len(self._open) > 1:
            raise SteerkitError(
                f"{name}: gradient checkpointing runs blocks again, and {len(self._open)} forwards with other tokens "
                "came before this backward pass, so it is unknown which tokens these are: call backward() after each "
                "forward, and run what needs no gradients under torch.no_grad()"
            )


def _alike(a: Call, b: Call) -> bool:
    pairs = ((a.position, b.position), (a.real, b.real), (a.prompt, b.prompt))
    return a.phase == b.phase and all(_equal(x, y) for x, y in pairs)


def _equal(x: Tensor | None, y: Tensor | None) -> bool:
    import torch

    return x is y or (x is not None and y is not None and x.shape == y.shape and torch.equal(x, y))
