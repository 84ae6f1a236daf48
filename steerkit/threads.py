"""How many CPU threads to use: measured, because small products on a busy machine run slower with more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 0.1  # of measurement per candidate


def fastest_thread_count(width: int, rows: int) -> int:
    """Thread count with the shortest median time for a decode step's matrix product, [rows, H] × [H, 4H]."""
    import torch

    available = torch.get_num_threads()
    if available == 1 or torch.cuda.is_available():
        return available
    hidden, weight = torch.randn(rows, width), torch.randn(4 * width, width)
    medians = {}
    for count in sorted({1, max(1, available // 2), available}):
        with use_threads(count):
            times = []
            end = time.perf_counter() + SECONDS
            while time.perf_counter() < end:
                begin = time.perf_counter()
                torch.nn.functional.linear(hidden, weight)
                times.append(time.perf_counter() - begin)
        medians[count] = sorted(times)[len(times) // 2]
    return min(medians, key=lambda count: medians[count])


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
