"""Counter-based noise: uniform, independent between keys, steps and lanes, and no function of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from steerkit.stats.noise import bits, gumbel, key_of, normal, uniform

KEYS = torch.tensor([key_of("seed", i) for i in range(200)])
STEPS = torch.arange(20)
STREAM = 7
PINNED = 554361241865246058
PINNED_BITS = [-151425524, 15831732, -1573622011, -1683728329]


def cube() -> np.ndarray:
    """[200 keys, 20 steps, 50 lanes] uniforms."""
    return uniform(KEYS[:, None], STEPS[None], stream=STREAM, size=50).double().numpy()


def test_key_of_is_the_same_in_every_version_and_on_every_machine() -> None:
    assert key_of(0, "prompt") == PINNED
    assert key_of(0, "prompt") != key_of("0prompt")
    assert all(0 <= key_of(i) < 2**63 for i in range(100))
    assert len({key_of(i) for i in range(10_000)}) == 10_000


def test_bits_are_the_same_in_every_version() -> None:
    found = bits(torch.tensor(key_of(0, "prompt")), torch.tensor(3), stream=STREAM, size=4)
    assert found.tolist() == PINNED_BITS


def test_uniform() -> None:
    drawn = cube().ravel()
    assert 0 < drawn.min() < drawn.max() < 1
    assert kstest(drawn, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("axis", ["key", "step", "lane"])
def test_each_axis_alone_is_uniform(axis: str) -> None:
    """Means along one axis, for every place on the others, are those of independent uniforms."""
    number = {"key": 0, "step": 1, "lane": 2}[axis]
    drawn = cube()
    count = drawn.shape[number]
    z = (drawn.mean(number) - 0.5) * np.sqrt(12 * count)
    assert kstest(z.ravel(), "norm").pvalue > 1e-3
    assert np.abs(z).max() < 6


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbours_along_each_axis_are_independent(axis: int) -> None:
    drawn = np.moveaxis(cube(), axis, 0)
    one, other = drawn[:-1].ravel(), drawn[1:].ravel()
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(len(one))
    table, _, _ = np.histogram2d(one, other, bins=8, range=[[0, 1], [0, 1]])
    assert chisquare(table.ravel()).pvalue > 1e-3


def test_every_bit_is_fair() -> None:
    drawn = bits(KEYS[:, None], STEPS[None], stream=STREAM, size=50).numpy().view(np.uint32).ravel()
    shares = np.array([((drawn >> b) & 1).mean() for b in range(32)])
    assert np.abs(shares - 0.5).max() < 5 * 0.5 / np.sqrt(drawn.size)


def test_one_changed_bit_of_key_counter_or_stream_changes_half_of_all_bits() -> None:
    def flipped(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(np.unpackbits((a ^ b).numpy().view(np.uint8)).mean())

    base = bits(KEYS, torch.tensor(5), stream=STREAM, size=64)
    for bit in (0, 1, 15, 31, 32, 33, 50, 62):
        assert flipped(base, bits(KEYS ^ (1 << bit), torch.tensor(5), stream=STREAM, size=64)) == pytest.approx(
            0.5, abs=0.01
        )
    for bit in (0, 1, 8, 20):
        other = bits(KEYS, torch.tensor(5 ^ (1 << bit)), stream=STREAM, size=64)
        assert flipped(base, other) == pytest.approx(0.5, abs=0.01)
        other = bits(KEYS, torch.tensor(5), stream=STREAM ^ (1 << bit), size=64)
        assert flipped(base, other) == pytest.approx(0.5, abs=0.01)


def test_the_batch_plays_no_part() -> None:
    whole = gumbel(KEYS[:, None], STEPS[None], stream=STREAM, size=33)
    for row, step in ((0, 0), (17, 3), (199, 19)):
        alone = gumbel(KEYS[row], STEPS[step], stream=STREAM, size=33)
        assert torch.equal(whole[row, step], alone)
    assert torch.equal(whole[:, :, :10], gumbel(KEYS[:, None], STEPS[None], stream=STREAM, size=10))


def test_counters_below_zero_are_allowed() -> None:
    """Positions of left padding are -1."""
    assert gumbel(KEYS[:1], torch.tensor([-1]), stream=STREAM, size=5).isfinite().all()


def test_gumbel_has_its_distribution_and_both_tails_are_finite() -> None:
    drawn = gumbel(KEYS[:, None], STEPS[None], stream=STREAM, size=50).double().numpy().ravel()
    assert np.isfinite(drawn).all()
    assert kstest(drawn, "gumbel_r").pvalue > 1e-3


def test_argmax_with_gumbel_noise_samples_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0, 0.5])
    count = 20_000
    noise = gumbel(torch.tensor(key_of("x")), torch.arange(count), stream=STREAM, size=len(logits))
    seen = torch.bincount((logits + noise).argmax(-1), minlength=len(logits)).double()
    assert chisquare(seen.numpy(), (count * logits.double().softmax(-1)).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("size", [1, 7, 50])
def test_normal(size: int) -> None:
    drawn = normal(KEYS[:, None], STEPS[None], stream=STREAM, size=size)
    assert drawn.shape == (200, 20, size)
    assert kstest(drawn.double().numpy().ravel(), "norm").pvalue > 1e-3
    if size == 50:
        correlation = np.corrcoef(drawn.reshape(-1, size).double().numpy().T) - np.eye(size)
        assert np.abs(correlation).max() < 6 / np.sqrt(len(KEYS) * len(STEPS))
