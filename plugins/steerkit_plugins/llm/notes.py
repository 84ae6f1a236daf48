"""What is told of the answers that a result was made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from steerkit_plugins.llm.client import Client
from steerkit_plugins.llm.completion import Answer


def notes_of(client: Client, answers: Sequence[Answer], asked: int) -> dict[str, Any]:
    """Snapshots, tokens and dollars of the answers used; how many were asked for now; what all in the cache cost."""
    dollars = {}
    if client.config.prices():
        dollars = {"dollars": round(sum(map(client.cost, answers)), 6), "dollars_in_all": round(client.spent(), 6)}
    return {
        "asked_now": asked,
        "answered_by": dict(Counter(answer.model for answer in answers)),
        "system_fingerprints": sorted({a.system_fingerprint for a in answers if a.system_fingerprint}),
        "input_tokens": sum(answer.input_tokens or 0 for answer in answers),
        "output_tokens": sum(answer.output_tokens or 0 for answer in answers),
        **dollars,
    }
