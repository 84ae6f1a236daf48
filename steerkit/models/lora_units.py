"""A LoRA's units: s = A x of every rank, which add s · γ B to the output of their projection (arXiv 2511.06739)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.data.site import Part, Site
from steerkit.errors import SteerkitError
from steerkit.models.sites import resolve
from steerkit.models.units import UnitGroup

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

PROJECTIONS: tuple[Part, ...] = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True, eq=False)
class LoraGroup(UnitGroup):
    """The ranks of one adapted projection.

    Attributes:
        adapter: PEFT's name of the adapter.
    """

    adapter: str

    @property
    def _layer(self) -> Any:
        return self.module

    @property
    def count(self) -> int:
        return int(self.reads.shape[0])

    @property
    def reads(self) -> Tensor:
        """[K, D_in] float32: A, one row a unit."""
        weight: Tensor = self._layer.lora_A[self.adapter].weight
        return weight.detach().float()

    @property
    def gamma(self) -> float:
        """PEFT's scaling: alpha / r, or alpha / sqrt(r)."""
        return float(self._layer.scaling[self.adapter])

    @property
    def writes(self) -> Tensor:
        weight: Tensor = self._layer.lora_B[self.adapter].weight
        return self.gamma * weight.detach().float().T

    def activations(self, x: Tensor) -> Tensor:
        return x.float() @ self.reads.T

    def watch(self, tell: Callable[[Tensor], None]) -> Any:
        if self._runs:
            return self._layer.lora_A[self.adapter].register_forward_hook(lambda module, args, s: tell(s))
        return self.module.register_forward_pre_hook(lambda module, args: tell(self.activations(args[0])))

    def edit(self, change: Callable[[Tensor], Tensor]) -> Any:
        if not self._runs:
            raise SteerkitError(
                f"block {self.layer}: {self.name}: its adapter is merged into the weights or turned off, so that its "
                "scalars can't be changed; load it on the base (`adapter:`)"
            )
        return self._layer.lora_A[self.adapter].register_forward_hook(lambda module, args, s: change(s))

    @property
    def _runs(self) -> bool:
        """Whether A itself is run: not where the adapter is in the weights, or off."""
        return not (self._layer.merged or self._layer.disable_adapters)


def lora_groups(lm: LanguageModel) -> list[LoraGroup]:
    """The units of a model's LoRA, in the order of computation: blocks, then q, k, v, o, gate, up, down.

    Raises:
        SteerkitError: there is no LoRA, or one whose share of an output isn't s · γ B: DoRA, biases, several at once,
            experts, embeddings, projections that several blocks share. It is named.
    """
    from peft.tuners.lora import LoraLayer

    found: list[LoraGroup] = []
    inside: set[int] = set()
    for layer, block in enumerate(lm.blocks):
        for name, module in block.named_modules():
            if isinstance(module, LoraLayer):
                inside.add(id(module))
                _refuse(f"{lm.name}: block {layer}: {name}", module)
                found.append(LoraGroup(layer, _part(lm, layer, module, name), name, module, module.active_adapters[0]))
    for name, module in lm.model.named_modules():
        if isinstance(module, LoraLayer) and id(module) not in inside:
            raise SteerkitError(
                f"{lm.name}: {name} has a LoRA and is in no decoder block; its units are unknown: adapt projections of "
                "blocks alone (`target_modules`)"
            )
    if not found:
        raise SteerkitError(f"{lm.name}: has no LoRA, so there are no scalars to read; load it with one (`adapter:`)")
    _refuse_shared(lm, found)
    return sorted(found, key=lambda group: group.units[0])


def _refuse(where: str, layer: Any) -> None:
    """Raises: SteerkitError for a kind whose units don't add s · γ B."""
    names = list(layer.active_adapters)
    if len(names) != 1:
        raise SteerkitError(f"{where}: {len(names)} adapters are active at once ({', '.join(names)}); turn on one")
    (name,) = names
    wrong = [
        (hasattr(layer, "parameter_name"), "a LoRA on a parameter (experts)"),
        (name not in layer.lora_A, f"a {type(layer).__name__} (embeddings, convolutions, experts)"),
        (getattr(layer, "use_dora", {}).get(name, False), "DoRA"),
        (getattr(layer, "lora_bias", {}).get(name, False), "a LoRA with biases"),
        (name in (getattr(layer, "lora_variant", None) or {}), "a variant of LoRA"),
    ]
    if told := [what for is_so, what in wrong if is_so]:
        raise SteerkitError(f"{where}: is {told[0]}: what it adds is not scalar · γ B, so it has no units to read")


def _part(lm: LanguageModel, layer: int, module: Any, name: str) -> str:
    """The projection that a module is; its own name where it is several, or none that steerkit knows."""
    for part in PROJECTIONS:
        try:
            place = resolve(lm, Site(layer, part, "out"))
        except SteerkitError:
            continue
        if place.module is module and place.slot is None:
            return part
    return name.rpartition(".")[2]


def _refuse_shared(lm: LanguageModel, groups: Sequence[LoraGroup]) -> None:
    """Raises: SteerkitError where several blocks run one adapted module."""
    counts = Counter(id(group.module) for group in groups)
    shared = [f"block {g.layer}: {g.name}" for g in groups if counts[id(g.module)] > 1]
    if shared:
        raise SteerkitError(
            f"{lm.name}: blocks share one adapted projection ({', '.join(shared[:4])}), so that a token has several "
            "scalars of one unit; leave it out of target_modules"
        )
    twice = Counter((group.layer, group.part) for group in groups)
    if doubled := [f"block {layer}: {part}" for (layer, part), n in twice.items() if n > 1]:
        raise SteerkitError(f"{lm.name}: several adapted modules are called alike: {', '.join(doubled[:4])}")
