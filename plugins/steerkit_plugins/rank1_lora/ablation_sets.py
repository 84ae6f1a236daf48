"""Units that are zeroed together, by name; and units removed one after the other, the most harmless first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from steerkit.data.site import ORDER, Site
from steerkit.errors import SteerkitError
from steerkit.models.sites import resolve
from steerkit.models.units import Unit, UnitGroup, units_in
from steerkit.units.ablating import Ablated, ablate
from steerkit.units.divergence import Average, CountedText, Direction

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel

ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")
ALL, IN_ATTENTION, IN_MLP, EARLY, LATE = "all", "attention", "MLP", "first half", "later half"

Kind = Literal["projection", "block", "blocks", "over all blocks", "part", "half"]
Removal = Literal["greedy", "by_single_effects"]


@dataclass(frozen=True)
class UnitSet:
    """Units that are zeroed together.

    Attributes:
        kind: `projection` (all ranks of one), `block`, `blocks` (neighbours), `over all blocks` (a projection in all of
            them), `part` (attention, MLP, all), `half` (of the blocks).
        name: ``3.down``, ``block 3``, ``blocks 0-7``, ``down``, ``MLP``, ``later half``.
    """

    kind: Kind
    name: str
    units: frozenset[Unit]


def projections(groups: Sequence[UnitGroup]) -> list[UnitSet]:
    """A set a projection: all of its ranks."""
    return [UnitSet("projection", f"{group.layer}.{group.part}", frozenset(group.units)) for group in groups]


def blocks(groups: Sequence[UnitGroup]) -> list[UnitSet]:
    """A set a block."""
    return [UnitSet("block", f"block {layer}", _of(groups, [layer])) for layer in _layers(groups)]


def named_sets(lm: LanguageModel, groups: Sequence[UnitGroup], group_size: int = 8) -> list[UnitSet]:
    """Each projection, block, group of blocks, kind of projection, attention, MLP, half of the blocks, and all.

    Args:
        group_size: neighbouring blocks of a group; the paper has 8.
    """
    layers, units = _layers(groups), units_in(groups)
    found = [*projections(groups), *blocks(groups)]
    for begin in range(0, len(layers), group_size):
        own = layers[begin : begin + group_size]
        found.append(UnitSet("blocks", f"blocks {own[0]}-{own[-1]}", _of(groups, own)))
    for part in sorted({unit.part for unit in units}, key=_place):
        found.append(UnitSet("over all blocks", part, frozenset(unit for unit in units if unit.part == part)))
    attention = frozenset(unit for group in groups if _is_attention(lm, group) for unit in group.units)
    half = len(layers) // 2
    found += [
        UnitSet("part", IN_ATTENTION, attention),
        UnitSet("part", IN_MLP, frozenset(units) - attention),
        UnitSet("half", EARLY, _of(groups, layers[:half])),
        UnitSet("half", LATE, _of(groups, layers[len(layers) - half :])),
        UnitSet("part", ALL, frozenset(units)),
    ]
    return [each for each in found if each.units]


def _layers(groups: Sequence[UnitGroup]) -> list[int]:
    return sorted({group.layer for group in groups})


def _of(groups: Sequence[UnitGroup], layers: Sequence[int]) -> frozenset[Unit]:
    return frozenset(unit for group in groups if group.layer in layers for unit in group.units)


def _place(part: str) -> tuple[int, str]:
    places = [number for number, (known, _) in enumerate(ORDER) if known == part]
    return (places[0] if places else len(ORDER)), part


def _is_attention(lm: LanguageModel, group: UnitGroup) -> bool:
    """Whether a projection is one of the attention's; a module that makes several parts by where it stands."""
    if group.part in (*ATTENTION, *MLP):
        return group.part in ATTENTION
    try:
        attention = resolve(lm, Site(group.layer, "attention", "out")).module
    except SteerkitError:
        return False
    return any(module is group.module for module in attention.modules())


def removed_in_turn(
    lm: LanguageModel,
    groups: Sequence[UnitGroup],
    texts: Sequence[CountedText],
    candidates: Sequence[UnitSet],
    *,
    how: Removal,
    steps: int,
    average: Average,
    direction: Direction,
    batch_tokens: int,
    on_step: Callable[[int, int], None],
) -> list[UnitSet]:
    """Candidates in the order in which they are removed, the most harmless first.

    `greedy` removes at each step what adds least to the mean KL, given all that is gone: a round of ablations a step,
    U² / 2 in all for U candidates. `by_single_effects` is the cheap one: by what each does alone, in a single round,
    which doesn't see what removed ones did for each other.

    Args:
        texts: on which is chosen; measure the curve on others.
        steps: how many are removed.
        on_step: called as (rounds done, in all).
    """

    def costs(gone: frozenset[Unit], left: Sequence[UnitSet]) -> list[float]:
        sets = [gone | each.units for each in left]
        found: Ablated = ablate(lm, groups, texts, sets, direction=direction, batch_tokens=batch_tokens)
        return [float(value) for value in found.mean_kl(average)]

    left, gone, order = list(candidates), frozenset[Unit](), list[UnitSet]()
    if how == "by_single_effects":
        alone = costs(gone, left)
        on_step(1, 1)
        return [left[n] for n in sorted(range(len(left)), key=lambda n: alone[n])][:steps]
    while left and len(order) < steps:
        found = costs(gone, left)
        order.append(left.pop(found.index(min(found))))
        gone |= order[-1].units
        on_step(len(order), min(steps, len(candidates)))
    return order
