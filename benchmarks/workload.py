"""The workload that extraction is measured on: random traces, six labels, one window range of 46 offsets."""

from __future__ import annotations

from dataclasses import dataclass

from steerkit import registry
from steerkit.bench.traces import LABELS, random_traces
from steerkit.extraction import Item
from steerkit.interfaces import Extractor
from steerkit.model import LanguageModel

SWEEP = (-40, 5)  # offsets from a span's first token, 46 of them


@dataclass(frozen=True)
class Workload:
    """What is extracted: traces in an order that knows nothing of their lengths, one window range of 46 offsets."""

    items: list[Item]
    labels: tuple[str, ...]
    extractor: Extractor

    @property
    def tokens(self) -> int:
        return sum(len(item.ids) for item in self.items)


def workload(
    lm: LanguageModel, traces: int = 64, mean_length: int = 500, labels: int = 6, *, equal: bool = False
) -> Workload:
    """See `random_traces`.

    Args:
        labels: how many of `LABELS` occur, at most 6.
    """
    items = random_traces(lm.config.vocab_size, traces, mean_length, LABELS[:labels], equal=equal)
    return Workload(items, LABELS[:labels], registry.get("extractors", "offset-window")(windows=[SWEEP]))
