"""Modules that others stand in for while a `with` lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.interventions.edits import Edit
from steerkit.models.sites import resolve

if TYPE_CHECKING:
    from torch import nn

    from steerkit.models.language_model import LanguageModel


@contextmanager
def replaced(lm: LanguageModel, edits: Sequence[Edit], ran: Callable[[Site], None]) -> Iterator[None]:
    """Inside, these edits' modules stand in for the model's own; afterwards its own are back, whatever happens.

    Args:
        edits: in the order in which they replace; a later one at the same site is given the earlier one's module.
        ran: called whenever a stand-in runs.

    Raises:
        SteerkitError: a site has no module of its own, or an intervention gave something else than a module.
    """
    with ExitStack() as stack:
        for edit in edits:
            parent, name, module = _position(lm, edit.site)
            stand_in: Any = edit.intervention.replace_module(edit.site, module)
            _check(edit, stand_in)
            stack.callback(setattr, parent, name, module)
            setattr(parent, name, stand_in)
            handle = stand_in.register_forward_hook(lambda module, args, output, site=edit.site: ran(site))
            stack.callback(handle.remove)
        yield


def _position(lm: LanguageModel, site: Site) -> tuple[Any, str, nn.Module]:
    """The module that holds the site's own, its name there, and itself."""
    if site.part == "block":
        return lm.blocks, str(site.layer), lm.blocks[site.layer]
    place = resolve(lm, site)
    if not place.whole_module:
        raise SteerkitError(
            f"{lm.name}: {site} is no module of its own ({place.name} holds it), so nothing can stand in for it"
        )
    above, _, name = place.name.rpartition(".")
    return lm.blocks[site.layer].get_submodule(above), name, place.module


def _check(edit: Edit, stand_in: Any) -> None:
    from torch import nn

    if not isinstance(stand_in, nn.Module):
        raise SteerkitError(
            f"{type(edit.intervention).__name__}.replace_module gave {type(stand_in).__name__} for {edit.site}, not a "
            "torch.nn.Module"
        )
