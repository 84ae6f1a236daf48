"""What a model runs with: device, number format, quantisation, attention, and how its rows share a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steerkit.models.protocol import Opened

BATCHES = {
    "padded": "",
    "equal lengths": "only rows of equal length share a batch",
    "alone": "each row is run alone, as quantised layers would mix rows",
}


def setup_of(lm: Opened) -> dict[str, str]:
    """Facts by name; `quantized` only where weights are."""
    found = {
        "device": str(lm.device),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "attention": str(getattr(lm.config, "_attn_implementation", None)),
        "batches": lm.batches,
    }
    return {**found, **({"quantized": lm.quantized} if lm.quantized else {})}


def in_words(setup: Mapping[str, Any]) -> str:
    """One line of them."""
    parts = [f"{setup['device']}, {setup['dtype']}, {setup['attention']} attention"]
    if setup.get("quantized"):
        parts.append(f"weights quantised: {setup['quantized']}")
    parts.append(BATCHES[setup.get("batches", "padded")])
    return ", ".join(part for part in parts if part)
