"""What this machine does in a moment: a few products and copies, or a small model's own steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from steerkit.models.devices import memory, synchronize
from steerkit.models.limits import positions
from steerkit.models.loading import ModelShape, load_model, on_this_disk
from steerkit.models.supported import cache_argument
from steerkit.planning.duration import Steps
from steerkit.planning.hardware import Device

if TYPE_CHECKING:
    import torch

SECONDS = 0.4  # of each measurement
SMALL = 1e9  # bytes of weights that are loaded to be measured
COPIED = 2**27  # bytes; more than caches hold
CONTEXT = 32  # tokens a row has when its decode step is measured
ROWS = 256  # of traces' tokens, in the product that arithmetic is measured by


def measured_device(width: int, bytes_each: int, device: torch.device) -> Device:
    """A device's rates, as they are reached: of a copy, and of a product of [256, H] and [H, 4 H]."""
    import torch

    from steerkit.bench.measure import machine

    dtype = torch.bfloat16 if bytes_each == 2 else torch.float32
    source = torch.zeros(COPIED // bytes_each, dtype=dtype, device=device)
    target = torch.zeros_like(source)
    hidden = torch.randn(ROWS, width, dtype=dtype, device=device)
    weight = torch.randn(4 * width, width, dtype=dtype, device=device)
    copy = seconds(lambda: target.copy_(source))
    product = seconds(lambda: torch.nn.functional.linear(hidden, weight))
    room = memory(device)[1] if device.type != "cpu" else 0
    return Device(machine(device), room, 2 * COPIED / copy, {bytes_each: 8 * ROWS * width**2 / product})


def measured_steps(
    shape: ModelShape, rows: int, bandwidth: float, bytes_each: int, device: torch.device
) -> Steps | None:
    """A small local model's own decode step and forward; None when it is large or elsewhere, or has few positions."""
    import torch

    if shape.parameters * bytes_each > SMALL or not on_this_disk(shape.name):
        return None
    lm = load_model(shape.name, bf16=bytes_each == 2, device=str(device))
    if positions(lm)[1]:  # a table, which the measured steps might run out of
        return None
    ids = torch.zeros(rows, CONTEXT, dtype=torch.long, device=lm.device)
    with torch.inference_mode():
        name = cache_argument(lm)
        given = {name: getattr(lm.model(input_ids=ids, use_cache=True, logits_to_keep=1), name)}
        # The cache grows by a token a step, which is part of what a step costs.
        step = seconds(lambda: lm.model(input_ids=ids[:, :1], use_cache=True, logits_to_keep=1, **given))
        forward = seconds(lambda: lm.decoder(input_ids=ids, use_cache=False))
    return Steps(step, forward / ids.numel(), rows, CONTEXT, bandwidth)


def seconds(work: Callable[[], object]) -> float:
    """Median time of a work, done for a moment, at least three times."""
    work()
    synchronize()
    taken: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(taken) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        synchronize()
        taken.append(time.perf_counter() - begin)
    return median(taken)
