"""Directions by site, as tensors of what they are added to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerkit.data.site import Site
from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from torch import Tensor


class Added:
    """What is added at each site where the norm is 1.

    Args:
        title: whose directions they are, for errors.
        directions: site → [D] float32.
    """

    def __init__(self, title: str, directions: Mapping[Site, Tensor]) -> None:
        self.title, self.directions = title, directions
        self._ready: dict[tuple[Site, Any, Any], Tensor] = {}

    def at(self, site: Site, like: Tensor) -> Tensor:
        """[D] in the format and on the device of `like` [R, T, D].

        Raises:
            SteerkitError: it adds nothing there, or the site has another width.
        """
        key = site, like.dtype, like.device
        if key not in self._ready:
            own = self.directions.get(site)
            if own is None:
                raise SteerkitError(
                    f"{self.title} acts at {', '.join(map(str, sorted(self.directions)))} and was placed at {site}; "
                    "place it at its own site"
                )
            if own.shape != like.shape[-1:]:
                raise SteerkitError(
                    f"{self.title} adds {len(own)} numbers at {site}, which has {like.shape[-1]}: the adapter is of "
                    "another model"
                )
            self._ready[key] = own.to(like)
        return self._ready[key]
