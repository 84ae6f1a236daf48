"""How many rows a batch of this model should have on this machine: measured, not guessed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.errors import SteerkitError
from steerkit.generation.sampling import Sampling
from steerkit.generation.stream import GenerationRow, RowBatch
from steerkit.interventions.steering import Steering
from steerkit.models.memory import NO_ROOM, free_bytes, out_of_memory, release

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel

SHARE = 0.8  # of the free memory that a batch may take
GAIN = 1.1  # in tokens per second by which twice the rows must be better
SECONDS = 5.0  # after which no larger batch is tried
SMALLEST = 8
LOGITS = 32  # bytes a row and vocabulary entry: logits, noise and what makes it


def best_batch_size(lm: LanguageModel, prompt: Sequence[int], max_new_tokens: int, most: int) -> int:
    """Rows at a time: doubled as long as the memory holds them and the tokens per second grow by a tenth.

    Args:
        prompt: the longest one.
        most: rows there are.

    Raises:
        SteerkitError: not even one row fits.
    """
    fits = _rows_that_fit(lm, prompt, max_new_tokens)
    if fits < 1:
        raise SteerkitError(
            f"{lm.name}: not even one row of {len(prompt)} + {max_new_tokens} tokens fits the free memory: " + NO_ROOM
        )
    limit = min(most, fits)
    begin = time.perf_counter()
    best, fastest, rows = min(SMALLEST, limit), 0.0, min(SMALLEST, limit)
    while True:
        try:
            seconds = _step_seconds(lm, prompt, max_new_tokens, rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or rows == 1:
                raise
            release()
            return best
        if rows / seconds < GAIN * fastest:
            return best
        best, fastest = rows, rows / seconds
        if rows == limit or time.perf_counter() > begin + SECONDS:
            return best
        rows = min(2 * rows, limit)


def _rows_that_fit(lm: LanguageModel, prompt: Sequence[int], new: int) -> int:
    """By the size of one row's keys and values, logits and prompt activations, on the device that has least room."""
    batch = _batch(lm, prompt, new, 1)
    by_device: dict[object, int] = {}
    for device, size in batch.cache.sizes():
        by_device[device] = by_device.get(device, 0) + size
    wide = lm.inner_width
    first = batch.ids.device
    item = lm.dtype.itemsize
    by_device[first] = by_device.get(first, 0) + int(lm.config.vocab_size) * LOGITS
    each = {device: size + len(prompt) * (8 * lm.width + 3 * wide) * item for device, size in by_device.items()}
    del batch
    return min(int(SHARE * free_bytes(device) / size) for device, size in each.items())  # type: ignore[arg-type]


def _step_seconds(lm: LanguageModel, prompt: Sequence[int], new: int, rows: int) -> float:
    """Of one decode step of that many rows, the shorter of two."""
    import torch

    found = []
    with torch.inference_mode():
        batch = _batch(lm, prompt, new, rows)
        for _ in range(3):
            begin = time.perf_counter()
            batch.step()  # ends with the tokens on the CPU, so a GPU is done too
            found.append(time.perf_counter() - begin)
    return min(found[1:])


def _batch(lm: LanguageModel, prompt: Sequence[int], new: int, rows: int) -> RowBatch:
    """A running batch of that many unsteered rows."""
    import torch

    with torch.inference_mode(), Steering(lm, [None] * rows) as steering:
        own = [GenerationRow(prompt, i) for i in range(rows)]
        batch = RowBatch(lm, own, steering, rows, max(new, 5), Sampling(), False)
        batch.ends = frozenset()
        batch.admit(range(rows))
    return batch
