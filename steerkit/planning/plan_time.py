"""A plan's time and memory in words, for this machine or for a named GPU."""

from __future__ import annotations

from steerkit.models.loading import ModelShape
from steerkit.planning.duration import (
    BEST,
    IN_USE,
    LIKELY,
    WORST,
    Duration,
    Efficiency,
    Load,
    duration,
    measured_duration,
    memory,
    most_rows,
)
from steerkit.planning.hardware import GIB, Device

RANGE = (0.7, 1.5)  # of a time that was measured on this machine
UNITS = (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


def gpu_lines(shape: ModelShape, load: Load, gpu: Device) -> list[str]:
    """Time and memory on a GPU, from its data sheet."""
    likely, best, worst = (duration(shape, load, gpu, way) for way in (LIKELY, BEST, WORST))
    bandwidth, flops = gpu.bandwidth / 1e9, gpu.flops[load.bytes_each] / 1e12
    moved = f"{LIKELY.bandwidth:.0%} ({WORST.bandwidth:.0%} to {BEST.bandwidth:.0%})"
    computed = f"{LIKELY.flops:.0%} ({WORST.flops:.0%} to {BEST.flops:.0%})"
    launches = f"{LIKELY.launch * 1e3:g} ms ({BEST.launch * 1e3:g} to {WORST.launch * 1e3:g})"
    return [
        _time(gpu.name, likely, best.total, worst.total),
        f"                by its data sheet, not measured: assumed are {moved} of {bandwidth:,.0f} GB/s, {computed} of "
        f"{flops:,.0f} Tflop/s, {launches} a block and step for launches, prompts of {load.prompt} tokens; decode "
        f"steps are bound by {likely.bound}",
        _fit(shape, load, gpu),
    ]


def machine_lines(shape: ModelShape, load: Load, wanted: str = "auto") -> list[str]:
    """Time on this machine, after a moment of measuring.

    Raises:
        SteerkitError: there is no such device here.
    """
    from steerkit.models.devices import choose_device
    from steerkit.models.threads import fastest_thread_count, use_threads
    from steerkit.planning.calibration import measured_device, measured_steps

    place = choose_device(wanted)
    with use_threads(fastest_thread_count(shape.width, load.width, place)):
        device = measured_device(shape.width, load.bytes_each, place)
        steps = measured_steps(shape, load.width, device.bandwidth, load.bytes_each, place)
    if steps:
        found = measured_duration(shape, load, steps)
        how = f"measured: a decode step of {steps.rows} rows {steps.decode * 1e3:,.1f} ms, a forward "
        how += f"{1 / steps.token:,.0f} tokens/s"
    else:
        launch = LIKELY.launch if place.type != "cpu" else 0.0
        found = duration(shape, load, device, Efficiency(1.0, 1.0, launch))
        how = f"from measured {device.bandwidth / 1e9:,.1f} GB/s and {device.flops[load.bytes_each] / 1e9:,.0f} Gflop/s"
        how += f"; decode steps are bound by {found.bound}"
    lines = [
        _time(f"this machine ({device.name})", found, RANGE[0] * found.total, RANGE[1] * found.total),
        f"                {how}; prompts of {load.prompt} tokens; another machine: --gpu",
    ]
    return [*lines, _fit(shape, load, device)] if device.memory else lines


def _time(where: str, found: Duration, low: float, high: float) -> str:
    training = f", training {in_words(found.training)}" if found.training else ""
    return (
        f"time            at most about {in_words(found.total)} ({in_words(low)} to {in_words(high)}) on {where}, an "
        f"estimate without judging: decoding {in_words(found.decode)}, prompts {in_words(found.prefill)}, "
        f"extraction {in_words(found.extraction)}{training}"
    )


def _fit(shape: ModelShape, load: Load, device: Device) -> str:
    need, rows = memory(shape, load, load.width), most_rows(shape, load, device)
    room = f"{need / GIB:,.1f} of {device.memory / GIB:,.0f} GiB"
    if need <= IN_USE * device.memory:
        return f"fits            {room}; up to {rows:,} rows would (per_device_batch_size)"
    if rows:
        return f"does not fit    {room}; per_device_batch_size: {rows} would"
    weights = memory(shape, load, 0) / GIB
    way = "" if load.bytes_each == 2 else "bf16: true halves that; "
    return (
        f"does not fit    {weights:,.1f} GiB of weights, {device.memory / GIB:,.0f} GiB there; {way}or device_map: auto"
    )


def in_words(seconds: float) -> str:
    """Two digits in the largest unit that keeps a one before the point."""
    unit, size = next(((u, s) for u, s in UNITS if seconds >= s), UNITS[-1])
    value = seconds / size
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
