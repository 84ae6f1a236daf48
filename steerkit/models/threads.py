"""How many CPU threads to use: measured, because small products on a busy machine run slower with more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from steerkit.models.devices import found_device

if TYPE_CHECKING:
    import torch

SECONDS = 0.2  # of measurement per candidate
GAIN = 1.2  # by which more threads must be faster


def fastest_thread_count(width: int, rows: int, device: torch.device | None = None) -> int:
    """Thread count with the shortest mean time of a decode step's matrix product, [rows, H] × [H, 4H].

    The mean, because a busy machine shows in rare long stalls; more threads must win by a fifth to be used.

    Args:
        device: where the products are made, the one that is found by default; unmeasured where it is no CPU.
    """
    import torch

    available = torch.get_num_threads()
    if available == 1 or (device or found_device()).type != "cpu":
        return available
    hidden, weight = torch.randn(rows, width), torch.randn(4 * width, width)
    means: dict[int, float] = {}
    for count in sorted({1, max(1, available // 2), available}):
        with use_threads(count):
            begin, done = time.perf_counter(), 0
            while time.perf_counter() < begin + SECONDS:
                torch.nn.functional.linear(hidden, weight)
                done += 1
            means[count] = (time.perf_counter() - begin) / done
    best = 1
    for count, mean in means.items():
        if mean < means[best] / GAIN:
            best = count
    return best


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Run torch with this many threads inside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
