"""Generated texts: the same from steerkit's engine, from HF's, alone and in refilled batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from steerkit.checks.forward import alike
from steerkit.checks.outcome import Measured
from steerkit.checks.outside import greedy_by_hf, only_ends
from steerkit.checks.probe import KINDS, Probe
from steerkit.generation.stream import Generated, GenerationRow, generate
from steerkit.interventions.edits import sets_of
from steerkit.interventions.steering import Steering
from steerkit.stats.noise import key_of

NEW = 6  # tokens generated
BATCH = 3  # rows at a time; fewer than there are, so that rows wait
CHOICES = 4  # logits that a lead depends on: two in each of two runs


def greedy_is_hf(probe: Probe) -> Measured:
    """Greedy texts of steerkit's engine, against `model.generate` under the same steering.

    The error is the lead of the first token that differs, in standard deviations of the logits.
    Failure: steerkit's decode loop does not run this model as HF does (cache, positions, end tokens).
    """
    edits = probe.mixed(len(probe.prompts), KINDS)
    rows = [GenerationRow(*pair) for pair in zip(probe.prompts, [0] * len(edits), sets_of(edits), strict=True)]
    with _ending_early(probe, rows):
        found = generate(probe.lm, rows, max_new_tokens=NEW, temperature=0, margins=True)
        whole: dict[int, list[int]] = {}
        for places in alike(probe.lm, probe.prompts):
            with Steering(probe.lm, [edits[place] for place in places]):
                texts = greedy_by_hf(probe.lm, [probe.prompts[place] for place in places], NEW)
            whole |= zip(places, texts, strict=True)
    told = [Generated(whole[place], len(whole[place]) < NEW) for place in range(len(rows))]
    return _compared(probe, found, told, f"{len(rows)} texts")


def refilled_is_alone(probe: Probe) -> Measured:
    """Many rows of unequal length through a small batch, greedy and sampled, against each row alone.

    Rows share prompts and differ in their conditions; some end early. The error is a lead, as for greedy texts.
    Failure: what the engine saves (finished rows leave, others enter, prompts are computed once) changes results.
    """
    prompts = [prompt[: len(prompt) - cut] for cut in (0, 3) for prompt in probe.prompts][: 2 * BATCH]
    edits = [None, *probe.mixed(len(prompts) - 1, ("all", "generated"))]
    rows = [
        GenerationRow(prompt, key_of(probe.seed, number % 3), own)
        for number, (prompt, own) in enumerate(zip(prompts, sets_of(edits), strict=True))
    ]
    together: list[Generated] = []
    single: list[Generated] = []
    with _ending_early(probe, rows[:4]):
        for temperature in (0.0, 1.0):
            common: dict[str, Any] = {"max_new_tokens": NEW, "temperature": temperature, "margins": True}
            together += generate(probe.lm, rows, batch_size=BATCH, **common)
            single += [generate(probe.lm, [row], **common)[0] for row in rows]
    return _compared(probe, together, single, f"{len(rows)} rows, {BATCH} at a time, greedy and sampled")


@contextmanager
def _ending_early(probe: Probe, rows: Sequence[GenerationRow]) -> Iterator[None]:
    """Inside, the second greedy token of the first row and the third of the second are end tokens."""
    with only_ends(probe.lm, []):
        texts = generate(probe.lm, rows, max_new_tokens=3, temperature=0)
    ends = [text.ids[at] for text, at in zip(texts, (1, 2), strict=False) if len(text.ids) > at]
    with only_ends(probe.lm, ends):
        yield


def _compared(probe: Probe, found: Sequence[Generated], told: Sequence[Generated], what: str) -> Measured:
    """The largest lead with which one of `found` chose another token than `told`, over the logits' spread."""
    worst, different = 0.0, 0
    for ours, theirs in zip(found, told, strict=True):
        first, second = ([*text.ids, *([-1] if text.finished else [])] for text in (ours, theirs))
        if first == second:
            continue
        different += 1
        at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
        lead = ours.margins[at] / probe.spread if at is not None else float("inf")
        worst = max(worst, lead)
    ended = sum(text.finished for text in found)
    detail = f"{what}; {ended} of {len(found)} texts ended early, {different} differ"
    return Measured(worst, CHOICES * probe.tolerance, detail)
