"""The plan's arithmetic, by hand, on a model and a device with round figures."""

from __future__ import annotations

import pytest

from steerkit.models.loading import ModelShape, load_shape, on_this_disk
from steerkit.planning.duration import (
    Efficiency,
    Load,
    Steps,
    decode_step,
    duration,
    measured_duration,
    memory,
    most_rows,
)
from steerkit.planning.hardware import GPUS, Device
from steerkit.planning.plan_time import gpu_lines, in_words

# 1,000 M parameters in blocks and a head of 100 × 1,000,000; keys and values of 2 × 10 × 50 numbers a token.
SHAPE = ModelShape(
    name="round", depth=10, width=100, kv_width=50, parameters=1_200_000_000, body=1_000_000_000, vocabulary=1_000_000
)
DEVICE = Device("round", memory=10e9, bandwidth=1e12, flops={2: 1e14, 4: 1e13})
WHOLE = Efficiency(1.0, 1.0)
LOAD = Load(texts=1000, new_tokens=200, prompt=100, rows=100, read=500_000, bytes_each=2, models=1)


def test_a_step_of_few_rows_takes_as_long_as_its_bytes() -> None:
    seconds, bound = decode_step(SHAPE, 10, 200, 2, DEVICE, WHOLE)
    moved = 1.1e9 * 2 + 10 * 200 * 2000
    assert (seconds, bound) == (pytest.approx(moved / 1e12), "bandwidth")
    half, _ = decode_step(SHAPE, 10, 200, 2, DEVICE, Efficiency(0.5, 1.0))
    assert half == pytest.approx(2 * seconds)


def test_a_step_of_many_rows_takes_as_long_as_its_arithmetic() -> None:
    seconds, bound = decode_step(SHAPE, 500, 200, 2, DEVICE, WHOLE)
    assert (seconds, bound) == (pytest.approx(500 * (2 * 1.1e9 + 4 * 10 * 100 * 200) / 1e14), "arithmetic")


def test_a_step_takes_no_less_than_its_launches() -> None:
    assert decode_step(SHAPE, 1, 1, 2, DEVICE, Efficiency(1.0, 1.0, 1e-3)) == (pytest.approx(0.01), "launches")


def test_a_run_is_its_steps_its_prompts_and_its_traces() -> None:
    found = duration(SHAPE, LOAD, DEVICE, Efficiency(1.0, 0.5))
    step, bound = decode_step(SHAPE, 100, 200, 2, DEVICE, Efficiency(1.0, 0.5))
    assert found.decode == pytest.approx(1000 * 200 / 100 * step)
    assert found.prefill == pytest.approx(2e9 * 1000 * 100 / 5e13)
    assert found.extraction == pytest.approx(2e9 * 500_000 / 5e13)
    assert found.bound == bound
    assert found.total == pytest.approx(found.decode + found.prefill + found.extraction)


def test_a_batch_has_no_more_rows_than_there_are_texts() -> None:
    few = Load(texts=4, new_tokens=200, prompt=100, rows=100, read=0, bytes_each=2, models=1)
    assert few.width == 4
    assert few.steps == 200


def test_measured_steps_are_scaled_by_what_is_cached() -> None:
    steps = Steps(decode=0.1, token=0.001, rows=50, context=32, bandwidth=1e9)
    found = measured_duration(SHAPE, LOAD, steps)
    assert found.decode == pytest.approx(1000 * 200 / 50 * (0.1 + 50 * (200 - 32) * 2000 / 1e9))
    assert found.prefill == pytest.approx(100.0)
    assert found.extraction == pytest.approx(500.0)


def test_what_fits() -> None:
    # A row is 300 tokens of 2,000 bytes and 12 bytes for each of a million logits.
    assert memory(SHAPE, LOAD, 10) == pytest.approx(2.4e9 + 10 * (600_000 + 12e6))
    rows = most_rows(SHAPE, LOAD, DEVICE)
    assert memory(SHAPE, LOAD, rows) <= 9e9 < memory(SHAPE, LOAD, rows + 1)
    assert most_rows(SHAPE, LOAD, Device("small", 2e9, 1, {2: 1})) == 0


def test_what_fits_is_said() -> None:
    def fit(gib: float) -> str:
        return gpu_lines(SHAPE, LOAD, Device("gpu", gib * 2**30, 1e12, {2: 1e14}))[-1]

    assert fit(80).startswith("fits  ")
    assert "per_device_batch_size: 24 would" in fit(2.8)
    assert "device_map: auto" in fit(1) and "bf16" not in fit(1)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.25, "0.2 s"), (59, "59 s"), (90, "1.5 min"), (4000, "1.1 h"), (86400 * 12, "12 days")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_the_table_of_gpus_is_in_bytes_and_operations() -> None:
    for gpu in GPUS.values():
        assert 20e9 < gpu.memory < 200e9 and 2e11 < gpu.bandwidth < 1e13
        assert 1e13 < gpu.flops[4] < gpu.flops[2] < 2e15


def test_sizes_come_from_the_configuration() -> None:
    shape = load_shape("pocket:base")
    assert shape.parameters > shape.body > 0
    assert shape.vocabulary == 255
    assert on_this_disk("pocket:base")
    assert not on_this_disk("someone/something")
