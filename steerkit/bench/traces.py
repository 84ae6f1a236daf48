"""Traces to extract from: random ids, with the lengths and labels of real ones.

The 300 traces of R1-Distill-Llama-8B that the author of arXiv 2507.12638 published have about 500 tokens and 20
labelled spans each; lengths are spread here as those of traces that may end when they are done.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean

from steerkit.data.trace import Item, Span, Trace

LABELS = ("a", "b", "c", "d", "e", "f")
SHARES = (6, 40, 25, 10, 12, 7)  # of the spans, %


def random_traces(
    vocabulary: int, traces: int, mean_length: int, labels: Sequence[str] = LABELS, *, equal: bool = False
) -> list[Item]:
    """Traces of random ids, a tenth of them prompt, with a labelled span every 25 tokens or so.

    Their order knows nothing of their lengths.

    Args:
        mean_length: of prompt + trace, in tokens; lengths lie between 0.3 and 2.2 times that.
        labels: at most six.
        equal: every trace has `mean_length` tokens.
    """
    draw = random.Random(0)
    lengths = [mean_length] * traces if equal else spread(traces, mean_length, draw)
    return [make_item(f"t{number}", length, vocabulary, labels, draw) for number, length in enumerate(lengths)]


def spread(traces: int, mean_length: int, draw: random.Random) -> list[int]:
    """Log-normal lengths (sigma 0.5) within 0.3 to 2.2 times their mean."""
    low, high = 0.3 * mean_length, 2.2 * mean_length
    raw = [math.exp(draw.gauss(0, 0.5)) for _ in range(traces)]
    scale = mean_length / fmean(raw)
    for _ in range(20):  # cutting the tails moves the mean, so it is set again
        lengths = [min(max(scale * value, low), high) for value in raw]
        scale *= mean_length / fmean(lengths)
    return [round(length) for length in lengths]


def make_item(name: str, length: int, vocabulary: int, labels: Sequence[str], draw: random.Random) -> Item:
    """One trace whose spans follow each other without gaps, 8 to 42 tokens each."""
    ids = tuple(draw.randrange(4, vocabulary) for _ in range(length))
    prompt = length // 10
    trace = Trace(
        id=name,
        prompt_id=name,
        prompt="",
        text="x" * (length - prompt),
        prompt_ids=ids[:prompt],
        ids=ids[prompt:],
        starts=tuple(range(length - prompt)),
    )
    spans, first = [], prompt
    while first < length:
        last = min(first + draw.randrange(8, 42), length - 1)
        label = draw.choices(labels, SHARES[: len(labels)])[0]
        place = (first - prompt, last + 1 - prompt)
        spans.append(Span(trace_id=name, label=label, judge="", start=place[0], end=place[1], first=first, last=last))
        first = last + 1
    return Item(trace, spans, ids)
