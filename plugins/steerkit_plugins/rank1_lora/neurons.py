"""MLP neurons as units, to hold a LoRA's units against: coordinates of the up projection's output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.models.sites import Place, resolve
from steerkit.models.units import Unit, UnitGroup

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

Which = Literal["first", "spread"]
"""`first`: the first ones of a block, as the paper's code takes them. `spread`: evenly over its width."""


@dataclass(frozen=True, eq=False)
class NeuronGroup(UnitGroup):
    """Some neurons of a block: the up projection's output, before the product with the gate.

    Attributes:
        indices: of the neurons, rising.
        columns: where each stands in the module's output; elsewhere than its index where gate and up are one module.
        width: numbers that the module puts out.
    """

    indices: tuple[int, ...]
    columns: tuple[int, ...]
    width: int

    @property
    def count(self) -> int:
        return len(self.indices)

    @property
    def units(self) -> tuple[Unit, ...]:
        return tuple(Unit(self.layer, self.part, index) for index in self.indices)

    @property
    def writes(self) -> Tensor:
        """[K, D_out] float32: a neuron is a coordinate of the output."""
        import torch

        found = torch.zeros(self.count, self.width)
        found[range(self.count), list(self.columns)] = 1.0
        return found

    def activations(self, x: Tensor) -> Tensor:
        return self._own(self.module(x)).float()

    def watch(self, tell: Callable[[Tensor], None]) -> Any:
        return self.module.register_forward_hook(lambda module, args, output: tell(self._own(output)))

    def edit(self, change: Callable[[Tensor], Tensor]) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> Tensor:
            whole = output.clone()
            whole[..., list(self.columns)] = change(self._own(output)).to(output.dtype)
            return whole

        return self.module.register_forward_hook(hook)

    def _own(self, output: Tensor) -> Tensor:
        """[..., D_out] → [..., K]."""
        return output[..., list(self.columns)]


def neuron_groups(lm: LanguageModel, count: int, which: Which = "first") -> list[NeuronGroup]:
    """`count` neurons of every block.

    Raises:
        SteerkitError: a block has no up projection, one of unknown width, or fewer neurons.
    """
    found = []
    for layer in range(len(lm.blocks)):
        place = resolve(lm, Site(layer, "up", "out"))
        columns, width = _columns(lm, place)
        if count > len(columns):
            raise SteerkitError(f"{lm.name}: block {layer} has {len(columns)} neurons, fewer than {count}")
        indices = tuple(range(count)) if which == "first" else tuple(len(columns) * i // count for i in range(count))
        own = tuple(columns[index] for index in indices)
        found.append(NeuronGroup(layer, "up", place.name, place.module, indices, own, width))
    return found


def _columns(lm: LanguageModel, place: Place) -> tuple[list[int], int]:
    """Where the neurons stand in the output of the up projection's module, and its width."""
    import torch

    module: Any = getattr(place.module, "base_layer", place.module)
    width = getattr(module, "out_features", None) or getattr(module, "nf", None)
    if width is None:
        raise SteerkitError(f"{lm.name}: {place.site}: the width of a {type(module).__name__} is unknown")
    columns = torch.arange(int(width))
    own: list[int] = (columns if place.slot is None else columns[place.slot.index(columns)]).tolist()
    return own, int(width)
