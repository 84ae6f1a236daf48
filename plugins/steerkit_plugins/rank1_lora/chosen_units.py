"""The unit and the latent that other experiments chose for each model."""

from __future__ import annotations

from steerkit.errors import SteerkitError
from steerkit.findings import Findings
from steerkit.models.units import Unit, unit_named
from steerkit_plugins.rank1_lora.unit_conditions import Adding

SCALARS, SAE = "scalars", "sae"
"""The experiments that choose them, on traces of their own."""


def best_unit(scalars: Findings | None, adding: Adding) -> tuple[Unit, int]:
    """The unit that tells best when the model turns back, with the sign that does; any unit in a plan.

    Raises:
        SteerkitError: none was chosen for the model.
    """
    best = scalars.value.get("best", {}) if scalars is not None else {}
    if (model := adding.model) in best:
        return unit_named(best[model]["unit"]), int(best[model]["sign"])
    if not adding.run.planned:
        raise SteerkitError(f"the experiment {SCALARS} has chosen no unit of {model}, so that none can be steered")
    return adding.units[0], 1


def best_latent(sae: Findings | None, adding: Adding) -> tuple[str, int, int] | None:
    """(file, latent, sign) of the latent that tells best; None where none was chosen, any in a plan."""
    if adding.run.planned:
        return "", 0, 1
    best = sae.value.get("best", {}).get(adding.model) if sae is not None else None
    return None if best is None else (str(best["file"]), int(best["latent"]), int(best["sign"]))
