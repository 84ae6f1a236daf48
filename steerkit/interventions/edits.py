"""An intervention placed: at a site, with a strength, on some of a row's tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.interfaces import Intervention

if TYPE_CHECKING:
    from torch import Tensor

Tokens = Literal["all", "prompt", "generated"]


@dataclass(frozen=True, eq=False, init=False)
class Edit:
    """What is done to one row (or to every row) at one site.

    Attributes:
        intervention: the edit.
        site: where; a plain number is that block's output.
        norm: L2 norm that is added, signed; 0 leaves the row untouched, bit for bit. An intervention that adds no norm
            takes 1.
        direction: [D] unit vector of the site's width, or None for interventions that take none.
        tokens: which of the row's tokens are edited. The last prompt token is `prompt`.
        key: 64-bit hash of (seed, prompt) for interventions that draw noise.
    """

    intervention: Intervention
    site: Site
    norm: float
    direction: Tensor | None
    tokens: Tokens
    key: int

    def __init__(
        self,
        intervention: Intervention,
        site: Site | int,
        norm: float,
        direction: Tensor | None = None,
        tokens: Tokens = "all",
        key: int = 0,
    ) -> None:
        values = {
            "intervention": intervention,
            "site": Site(site) if isinstance(site, int) else site,
            "norm": norm,
            "direction": direction,
            "tokens": tokens,
            "key": key,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def layer(self) -> int:
        """0-based block of the site."""
        return self.site.layer

    @property
    def changes_forward(self) -> bool:
        return type(self.intervention).forward is not Intervention.forward

    @property
    def changes_backward(self) -> bool:
        return type(self.intervention).backward is not Intervention.backward

    @property
    def replaces(self) -> bool:
        return type(self.intervention).replace_module is not Intervention.replace_module


EditSet = tuple[Edit, ...]
"""A row's edits. Those at one site are applied in this order."""

Edits = Edit | EditSet | Sequence[Edit | EditSet | None]
"""One edit or a tuple of them for every row, or a list with an entry for each row."""


def sets_of(edits: Edits) -> list[EditSet]:
    """For each row its edits; a single set for edits that every row has.

    Raises:
        SteerkitError: there is something else than edits.
    """
    rows: Sequence[Edit | EditSet | None] = [edits] if isinstance(edits, Edit | tuple) else edits
    sets = [() if row is None else (row,) if isinstance(row, Edit) else tuple(row) for row in rows]
    for edit in (edit for own in sets for edit in own):
        if not isinstance(edit, Edit):
            raise SteerkitError(
                f"{edit!r:.60} is no Edit: give a list with an entry for each row, or a tuple of edits for all rows"
            )
    return sets


def replacements(edits: Iterable[Edit]) -> EditSet:
    """The edits that replace modules, in the sites' order."""
    return tuple(sorted((edit for edit in edits if edit.replaces and edit.norm), key=lambda edit: edit.site))


def same_replacements(sets: Iterable[EditSet]) -> EditSet:
    """The replaced modules, which all rows must have in common.

    Raises:
        SteerkitError: rows differ, or one replaces a module for a part of the tokens.
    """
    found = [replacements(own) for own in sets]
    for edit in found[0] if found else ():
        if edit.tokens != "all":
            raise SteerkitError(
                f"{edit.site}: tokens: {edit.tokens}: a replaced module runs on all tokens; it takes tokens: all"
            )
    for own in found[1:]:
        if replacement_key(own) != replacement_key(found[0]):
            raise SteerkitError(
                "rows of one batch differ in the modules that are replaced, and a module runs on all rows: give every "
                "row the same replacements, or run the rows apart"
            )
    return found[0] if found else ()


def replacement_key(edits: Iterable[Edit]) -> tuple[tuple[Site, int], ...]:
    """Equal where the same modules are replaced by the same interventions."""
    return tuple((edit.site, id(edit.intervention)) for edit in replacements(edits))
