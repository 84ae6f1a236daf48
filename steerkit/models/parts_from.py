"""Models made of two: some parts of one (MLPs, attention, norms, embedding, head) come from another."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.models.fingerprint import forward_settings
from steerkit.models.sites import resolve

if TYPE_CHECKING:
    from torch import nn

    from steerkit.models.language_model import LanguageModel

log = logging.getLogger("steerkit")

SwappedPart = Literal["mlp", "attention", "norms", "embedding", "head"]
PARTS: tuple[SwappedPart, ...] = get_args(SwappedPart)


@dataclass(frozen=True, eq=False)
class Swapped:
    """What was taken out of a model, to run or to put back.

    Attributes:
        modules: dotted name in the model → (the module that was there, the one that is there now).
    """

    modules: Mapping[str, tuple[nn.Module, nn.Module]]

    def undo(self, model: Any) -> None:
        """Put the modules back that were there."""
        for name, (before, _) in self.modules.items():
            _put(model, name, before)


def put_parts(lm: LanguageModel, donor: LanguageModel, parts: Iterable[SwappedPart]) -> Swapped:
    """Put a donor's modules in place of a model's own. They are the donor's modules themselves, not copies.

    A module brings what it computes with (activation, epsilon, window); everything between the modules, rotary
    embeddings too, stays the model's.

    Raises:
        SteerkitError: one of the two has no such part that steerkit knows, or their shapes differ.
    """
    wanted = tuple(parts)
    if lm.model_is_wrapped or donor.model_is_wrapped:
        raise SteerkitError(f"{lm.name}: parts can't be taken where an adapter is on; merge it into the weights first")
    found: dict[str, tuple[nn.Module, nn.Module]] = {}
    for part in wanted:
        own, given = dict(modules_of(lm, part)), dict(modules_of(donor, part))
        wrong = sorted(own.keys() ^ given.keys()) or [n for n in own if _shapes(own[n]) != _shapes(given[n])]
        if wrong:
            raise SteerkitError(
                f"{lm.name}: its {part} can't come from {donor.name}: {wrong[0]} is not of the same shape there; both "
                "must be models of one architecture and size"
            )
        found |= {name: (own[name], given[name]) for name in own}
    _tell_differences(lm, donor)
    for name, (before, now) in found.items():
        _put(lm.model, name, now.to(_device(before)))
    return Swapped(found)


def with_parts(lm: LanguageModel, given: Mapping[SwappedPart, LanguageModel]) -> LanguageModel:
    """A model with parts of others, in place; ``transformer.steerkit_swapped`` keeps what was there (`Swapped`).

    Raises:
        SteerkitError: as of `put_parts`.
    """
    changed: dict[str, tuple[nn.Module, nn.Module]] = {}
    for donor in {id(each): each for each in given.values()}.values():
        changed |= put_parts(lm, donor, [part for part, each in given.items() if each is donor]).modules
    lm.model.steerkit_swapped = Swapped(changed)  # what a training holds it against; no part of its weights
    label = ", ".join(f"{part} of {donor.name}" for part, donor in given.items())
    return replace(lm, name=f"{lm.name} with {label}", origin="")


def modules_of(lm: LanguageModel, part: SwappedPart) -> Iterator[tuple[str, nn.Module]]:
    """Dotted name in the model and module of each place of a part.

    Raises:
        SteerkitError: a block has no such module of its own.
    """
    names = {id(module): name for name, module in lm.model.named_modules()}
    if part in ("mlp", "attention"):
        for layer in range(lm.depth):
            module = block_part(lm, layer, part)
            yield names[id(module)], module
    elif part == "norms":
        for block in lm.blocks:
            yield from ((names[id(child)], child) for child in block.children() if _is_norm(child))
        yield names[id(lm.final_norm)], lm.final_norm
    else:
        module = lm.model.get_input_embeddings() if part == "embedding" else lm.model.get_output_embeddings()
        if module is None:
            raise SteerkitError(f"{lm.name}: has no {part} that can be exchanged")
        yield names[id(module)], module


def block_part(lm: LanguageModel, layer: int, part: SwappedPart) -> nn.Module:
    """A block's MLP or attention as one module, whose output is added to the residual stream.

    Raises:
        SteerkitError: the block has none: its parts lie side by side in it.
    """
    place = resolve(lm, Site(layer, "mlp" if part == "mlp" else "attention", "out"))
    inside = resolve(lm, Site(layer, "mlp" if part == "mlp" else "attention", "in"))
    if place.module is not inside.module:
        raise SteerkitError(
            f"{lm.name}: block {layer} has no module of its own for its {part}, or one that adds the residual itself"
        )
    return place.module


def _put(model: Any, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _device(module: nn.Module) -> Any:
    return next((weight.device for weight in module.parameters()), None)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _tell_differences(lm: LanguageModel, donor: LanguageModel) -> None:
    """Log settings of the forward in which the two differ: the parts then run in another surrounding."""
    mine, theirs = (forward_settings(each.config) for each in (lm, donor))
    tied = [bool(getattr(each.config, "tie_word_embeddings", False)) for each in (lm, donor)]
    other = [key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]
    other += ["tie_word_embeddings"] if tied[0] != tied[1] else []
    if other:
        told = "%s and %s differ in %s; parts of the second run with what the first says"
        log.warning(told, lm.name, donor.name, ", ".join(other))
