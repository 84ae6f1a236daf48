"""Extraction's means against a few lines of numpy on the model's own hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steerkit.checks.outcome import Measured
from steerkit.checks.outside import hidden_states_by_hf
from steerkit.checks.probe import Probe
from steerkit.data.trace import Span, Trace
from steerkit.data.windows import WEIGHTINGS
from steerkit.extraction.extract import extract
from steerkit.interfaces import Extractor
from steerkit.models.block_output import hidden_of

if TYPE_CHECKING:
    import numpy as np

WINDOW = (-2, 0)


class Around(Extractor):
    """The two tokens before a span and its first."""

    def windows(self) -> Sequence[tuple[int, int]]:
        return (WINDOW,)

    def positions(self, trace: Trace, spans: Sequence[Span], window: tuple[int, int]) -> np.ndarray:
        import numpy as np

        return np.array([[span.first + offset for offset in range(window[0], window[1] + 1)] for span in spans])


def extract_is_numpy(probe: Probe) -> Measured:
    """Means of labelled windows from `extract`, against numpy on `output_hidden_states` (the last block: a hook).

    Both weightings, each label and all spans together.
    Failure: the sums behind every vector are wrong for this model.
    """
    import numpy as np

    layers = probe.layers
    found = extract(probe.lm, probe.items, Around(), layers=layers).at(WINDOW)
    states = [_states(probe, item.ids) for item in probe.items]
    worst = 0.0
    for label in ("all", *found.labels):
        traces = []
        for item, state in zip(probe.items, states, strict=True):
            firsts = [span.first for span in item.spans if label in ("all", span.label)]
            if firsts:
                traces.append(np.stack([state[:, at + WINDOW[0] : at + WINDOW[1] + 1].mean(1) for at in firsts]))
        by_trace = np.mean([trace.mean(0) for trace in traces], 0)
        by_span = np.concatenate(traces).mean(0)
        for weighting, expected in zip(WEIGHTINGS, (by_trace, by_span), strict=True):
            off = found.mean(label, weighting).numpy() - expected[list(layers)]
            error = np.linalg.norm(off, axis=-1) / np.linalg.norm(expected[list(layers)], axis=-1)
            worst = max(worst, float(np.nan_to_num(error, nan=np.inf).max()))
    return Measured(worst, probe.tolerance, f"{len(probe.items)} traces, labels {', '.join(found.labels)} and all")


def _states(probe: Probe, ids: Sequence[int]) -> np.ndarray:
    """[L, T, H] float64 block outputs of one sequence."""
    import numpy as np

    last: list[Any] = []
    handle = probe.lm.blocks[-1].register_forward_hook(lambda module, args, output: last.append(hidden_of(output)))
    try:
        told = hidden_states_by_hf(probe.lm, ids)
    finally:
        handle.remove()
    return np.stack([state.float().cpu().double().numpy() for state in (*told[:-1], last[0][0])])
