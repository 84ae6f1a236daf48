"""The unit and the latent that other experiments chose for each model."""

from __future__ import annotations

from steerkit.findings import Findings
from steerkit.models.units import Unit, unit_named
from steerkit_plugins.rank1_lora.unit_conditions import Adding

SCALARS, SAE = "scalars", "sae"
"""The experiments that choose them, on traces of their own."""


def best_unit(scalars: Findings | None, adding: Adding) -> tuple[Unit, int] | None:
    """The unit that tells best when the model turns back, with the sign that does; None where none was chosen, any in a
    plan."""
    if adding.run.planned:
        return adding.units[0], 1
    best = scalars.value.get("best", {}).get(adding.model) if scalars is not None else None
    return None if best is None else (unit_named(best["unit"]), int(best["sign"]))


def best_latent(sae: Findings | None, adding: Adding) -> tuple[str, int, int] | None:
    """(file, latent, sign) of the latent that tells best; None where none was chosen, any in a plan."""
    if adding.run.planned:
        return "", 0, 1
    best = sae.value.get("best", {}).get(adding.model) if sae is not None else None
    return None if best is None else (str(best["file"]), int(best["latent"]), int(best["sign"]))
