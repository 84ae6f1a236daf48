"""Gradients changed along the vector while a model is trained; activations stay as they are.

With c = g · v̂ of each token, g the gradient of the loss. A step against the gradient moves h · v̂ by -lr c: tokens with
c < 0 are pushed along v, those with c > 0 away from it. Every strength but 0 turns a rule on, and none scales it. The
rules reach what is computed before the site: parameters of later blocks get the same gradients as without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.interfaces import EditContext, Intervention
from steerkit_plugins.steerers.along import along

if TYPE_CHECKING:
    from torch import Tensor


class Neutralise(Intervention):
    """g - c v̂: training has no say in h · v̂."""

    direction = "vector"

    def backward(self, grad: Tensor, x: Tensor, at: EditContext) -> Tensor:
        g, c, unit = along(grad, at)
        return (g - c * unit).to(grad.dtype)


class Attenuate(Intervention):
    """g - c v̂ + |c| v̂: pushes along v become pushes away from it, as strong as they were."""

    direction = "vector"

    def backward(self, grad: Tensor, x: Tensor, at: EditContext) -> Tensor:
        g, c, unit = along(grad, at)
        return (g + (c.abs() - c) * unit).to(grad.dtype)  # where c > 0, g to the last bit


class Amplify(Intervention):
    """g - c v̂ - |c| v̂: pushes away from v become pushes along it, as strong as they were."""

    direction = "vector"

    def backward(self, grad: Tensor, x: Tensor, at: EditContext) -> Tensor:
        g, c, unit = along(grad, at)
        return (g - (c.abs() + c) * unit).to(grad.dtype)
