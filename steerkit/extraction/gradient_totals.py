"""Gradients of batches into additive sums, on the device where they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit.data.gradient_statistics import Kind
from steerkit.data.gradient_sums import GradientSums
from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.models.devices import for_sums

if TYPE_CHECKING:
    from torch import Tensor

EXACT = 4096
"""Width up to which second moments are kept: D × D numbers a site, 128 MiB at this width."""

Directions = Mapping[str, Mapping[Site, "Tensor"]]
"""Name → site → [D] direction."""


@dataclass(frozen=True)
class TokenRows:
    """What the N rows of a gradient matrix [N, D] are.

    Attributes:
        kinds: kind of tokens → [N] True where a row is a token of that kind; padding is of none.
        names: of the batch's texts, for errors.
        owner: [N] whose token it is: a place in `names` and in `weights`.
        weights: float64 weight of each text's tokens in the summed loss.
    """

    kinds: Mapping[Kind, Tensor]
    names: Sequence[str]
    owner: Tensor
    weights: Tensor


class GradientTotals:
    """Sums of gradients, site by site: `add` a site of a batch, then `sums`."""

    def __init__(self, kinds: Sequence[Kind], moments: Collection[Kind], directions: Directions) -> None:
        self.kinds, self.moments, self.directions = tuple(kinds), moments, directions
        self._totals: dict[Site, dict[Kind, GradientSums]] = {}

    def add(self, site: Site, gradients: Tensor, of: TokenRows) -> None:
        """Take in the gradients [N, D] of one site.

        Raises:
            SteerkitError: one is not finite (site and text named).
        """
        import torch

        rows = for_sums(gradients)
        rows = rows.float() if rows.itemsize < 4 else rows
        lengths = torch.linalg.vector_norm(rows, dim=-1)
        if not bool(lengths.isfinite().all()):
            first = int(of.owner[int((~lengths.cpu().isfinite()).nonzero()[0])])
            raise SteerkitError(
                f"{of.names[first]}: the gradient at {site} is not finite; half precision overflows so: use bf16 or "
                "float32"
            )
        cosines = self._cosines(site, rows, lengths)
        weights = of.weights[of.owner].to(rows.device) * (lengths > 0)
        for kind, total in self._room(site, rows).items():
            own = of.kinds[kind].to(rows.device)
            share = own.double()
            total.gradient.add_(share @ rows.double())
            total.square.add_(share @ lengths.double().square())
            total.count.add_(share.sum())
            total.weight.add_(share @ weights)
            total.cosines.add_((share * weights) @ cosines)
            if total.moment is not None:
                chosen = rows[own]
                total.moment.add_(chosen.T @ chosen)

    def sums(self) -> dict[Site, dict[Kind, GradientSums]]:
        """On the CPU, sites in order."""
        return {
            site: {kind: _on_cpu(total) for kind, total in self._totals[site].items()} for site in sorted(self._totals)
        }

    def _cosines(self, site: Site, rows: Tensor, lengths: Tensor) -> Tensor:
        """[N, K] float64 cos(-g, v), 0 where g is."""
        import torch

        if not self.directions:
            return rows.new_zeros(len(rows), 0, dtype=torch.float64)
        units = torch.stack([own[site].detach().double() for own in self.directions.values()])
        units = torch.nn.functional.normalize(units, dim=1).to(rows)
        along = -(rows @ units.T).double()
        return along / lengths.double().clamp(min=torch.finfo(torch.float64).tiny)[:, None]

    def _room(self, site: Site, like: Tensor) -> dict[Kind, GradientSums]:
        if site not in self._totals:
            self._totals[site] = {kind: self._zeros(kind, like) for kind in self.kinds}
        return self._totals[site]

    def _zeros(self, kind: Kind, like: Tensor) -> GradientSums:
        import torch

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=like.device)

        width = like.shape[-1]
        moment = zeros(width, width) if kind in self.moments and width <= EXACT else None
        return GradientSums(zeros(width), zeros(), zeros(), zeros(len(self.directions)), zeros(), moment)


def _on_cpu(total: GradientSums) -> GradientSums:
    return GradientSums(**{name: value.cpu() for name, value in total.tensors().items()})
