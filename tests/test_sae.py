"""SAEs on scalars: which latents are on, losses against numpy, thresholds, recovery of planted latents, files."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.optimize import linear_sum_assignment
from steerkit_plugins.rank1_lora.sae.batch_topk import (
    Weights,
    above,
    decode,
    encode,
    first_weights,
    forward,
    loss,
    scores,
    top_of_batch,
)
from steerkit_plugins.rank1_lora.sae.learner import Learner
from steerkit_plugins.rank1_lora.sae.measures import measure
from steerkit_plugins.rank1_lora.sae.options import PRESETS, SAEOptions, SAETraining
from steerkit_plugins.rank1_lora.sae.rows import moments, shuffled
from steerkit_plugins.rank1_lora.sae.threshold import threshold_for
from steerkit_plugins.rank1_lora.sae.trained import TrainedSAE
from steerkit_plugins.rank1_lora.sae.training import train

from steerkit.errors import SteerkitError
from steerkit.stats.intervals import cluster_intervals

CPU = torch.device("cpu")
UNITS = 6
Array = np.ndarray[Any, Any]


def random_weights(units: int = UNITS, latents: int = 24, seed: int = 0) -> Weights:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((units, latents), (latents,), (latents, units), (units,))
    return Weights(*(torch.randn(shape, generator=draw) for shape in shapes))


def random_rows(count: int, units: int = UNITS, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=(count, units)).astype(np.float32)


def dense(weights: Weights, x: torch.Tensor, options: SAEOptions) -> Array:
    """[B, F] z that BatchTopK keeps, by a stable sort in numpy."""
    w = {name: value.double().numpy() for name, value in weights.tensors().items()}
    z = x.double().numpy() @ w["encoder"] + w["encoder_bias"]
    z = np.maximum(z, 0) if options.relu else z
    score = (z * np.linalg.norm(w["decoder"], axis=1)).ravel()
    mask = np.zeros(z.size, bool)
    mask[np.argsort(-score)[: options.k * len(z)]] = True
    return np.asarray(z * mask.reshape(z.shape))


def on_of(on: Any, rows: int, latents: int) -> Array:
    """[B, F] of the entries that are on."""
    found = np.zeros((rows, latents))
    ends = [*on.begins.tolist(), len(on.latents)]
    for row in range(rows):
        found[row, on.latents[ends[row] : ends[row + 1]].numpy()] = on.values[ends[row] : ends[row + 1]].numpy()
    return found


@pytest.mark.parametrize("variant", PRESETS)
def test_a_batch_has_exactly_k_entries_a_row_on_the_largest(variant: Any) -> None:
    weights, x = random_weights(), torch.from_numpy(random_rows(40))
    options = SAEOptions(variant=variant, expansion=4, k=3)
    on = top_of_batch(weights, encode(weights, x, options), 3)
    assert len(on.latents) == 3 * 40 and int((on.values != 0).sum()) == 3 * 40
    np.testing.assert_allclose(on_of(on, 40, 24), dense(weights, x, options), atol=1e-5)
    assert len(set(np.diff([*on.begins.tolist(), 120]))) > 1  # a row may have more than another


@pytest.mark.parametrize("variant", PRESETS)
def test_a_batch_of_one_row_is_learned_from(variant: Any) -> None:
    """It has no variance that AuxK could be a share of."""
    options = SAETraining(expansion=4, k=3, batch_rows=20, dead_after=1, warmup_steps=0).sae(variant)
    learner = Learner(UNITS, options, CPU)
    for x in torch.from_numpy(random_rows(41)).split(20):
        learner.step(x)
    assert len(learner.dead) and math.isfinite(learner.told()["batch_fvu"])


def test_alone_in_its_batch_a_row_has_its_own_top_k() -> None:
    weights, x = random_weights(), torch.from_numpy(random_rows(1))
    options = SAEOptions(expansion=4, k=5)
    z = encode(weights, x, options)
    on = top_of_batch(weights, z, 5)
    assert set(on.latents.tolist()) == set(scores(weights, z)[0].topk(5).indices.tolist())


def test_with_all_latents_on_it_is_an_affine_map() -> None:
    weights, x = random_weights(), torch.from_numpy(random_rows(7))
    made = forward(weights, x, SAEOptions(expansion=4, k=24)).rebuilt.double().numpy()
    w = {name: value.double().numpy() for name, value in weights.tensors().items()}
    expected = x.double().numpy() @ w["encoder"] @ w["decoder"]
    expected += w["encoder_bias"] @ w["decoder"] + w["decoder_bias"]
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)


def numpy_losses(weights: Weights, x: torch.Tensor, dead: list[int], options: SAEOptions) -> tuple[float, float]:
    """Squared error and auxiliary loss, from the facts about both variants."""
    w = {name: value.double().numpy() for name, value in weights.tensors().items()}
    error = x.double().numpy() - dense(weights, x, options) @ w["decoder"] - w["decoder_bias"]
    read = error if options.aux == "error_encoded" else x.double().numpy()
    z = read @ w["encoder"][:, dead] + w["encoder_bias"][dead]
    z = z if options.aux == "error_encoded" else np.maximum(z, 0)
    rank = z * np.linalg.norm(w["decoder"][dead], axis=1) if options.aux == "error_encoded" else z
    most = min(options.k if options.aux == "error_encoded" else x.shape[1] // 2, len(dead))
    kept = np.zeros_like(z)
    np.put_along_axis(kept, np.argsort(-rank, axis=1)[:, :most], 1.0, axis=1)
    rest = ((kept * z) @ w["decoder"][dead] - error) ** 2
    auxiliary = rest.mean()
    if options.aux == "auxk_standard":
        auxiliary /= ((error - error.mean(axis=0)) ** 2).mean()
    return float((error**2).mean()), float(auxiliary)


@pytest.mark.parametrize("variant", PRESETS)
@pytest.mark.parametrize("dead", [[2, 5, 6, 9, 17], [3], []])
def test_losses_are_those_of_numpy(variant: Any, dead: list[int]) -> None:
    weights, x = random_weights(), torch.from_numpy(random_rows(30))
    options = SAEOptions(variant=variant, expansion=4, k=3)
    found = loss(weights, forward(weights, x, options), torch.tensor(dead, dtype=torch.int64), options)
    squared, auxiliary = numpy_losses(weights, x, dead, options) if dead else (float(found.squared), 0.0)
    assert float(found.squared) == pytest.approx(squared, rel=1e-5)
    assert float(found.auxiliary) == pytest.approx(auxiliary, rel=1e-4)
    assert float(found.total) == pytest.approx(squared + auxiliary / 32, rel=1e-5)


@pytest.mark.parametrize("variant", PRESETS)
def test_only_the_author_learns_through_the_error_of_dead_latents(variant: Any) -> None:
    """With the squared error taken away, living latents have a gradient in the author's variant alone."""
    weights = Weights(**{name: value.requires_grad_() for name, value in random_weights().tensors().items()})
    x, options = torch.from_numpy(random_rows(30)), SAEOptions(variant=variant, expansion=4, k=3)
    found = loss(weights, forward(weights, x, options), torch.tensor([2, 5]), options)
    found.auxiliary.backward()  # type: ignore[no-untyped-call]
    assert weights.encoder.grad is not None and weights.decoder.grad is not None
    living = [latent for latent in range(24) if latent not in (2, 5)]
    assert bool(weights.decoder.grad[[2, 5]].any())
    assert bool(weights.decoder.grad[living].any()) == (variant == "author")
    assert bool(weights.encoder.grad[:, living].any()) == (variant == "author")


@pytest.mark.parametrize("fan, bound", [("author_fan", 0.0409), ("input_fan", 0.1157)])
def test_first_weights_are_kaimings_on_the_named_fan(fan: Any, bound: float) -> None:
    made = first_weights(448, SAEOptions(init_fan=fan), torch.Generator().manual_seed(0))
    assert made.encoder.shape == (448, 3584) and torch.equal(made.decoder, made.encoder.T)
    assert float(made.encoder.abs().max()) == pytest.approx(bound, abs=1e-4)
    tensor = torch.empty(448, 3584) if fan == "author_fan" else torch.empty(3584, 448)
    torch.nn.init.kaiming_uniform_(tensor, nonlinearity="relu")
    assert float(made.encoder.std()) == pytest.approx(float(tensor.std()), rel=0.01)
    assert not made.encoder_bias.any() and not made.decoder_bias.any()


def test_presets_hold_where_nothing_else_is_said() -> None:
    author, standard = SAEOptions(variant="author"), SAEOptions(variant="standard", relu=False)
    assert (author.relu, author.scale, author.aux) == (False, "raw", "error_encoded")
    assert (standard.relu, standard.scale, standard.aux) == (False, "contribution", "auxk_standard")
    assert standard.changed() == {"relu": False} and not author.changed()
    made = SAETraining(k=4, center="mean").sae("author", seed=3)
    assert (made.k, made.center, made.norm, made.seed) == (4, "mean", "none", 3)
    assert SAEOptions(**made.model_dump()) == made
    with pytest.raises(ValidationError, match="variant"):
        SAEOptions(variant="other")  # type: ignore[arg-type]


def test_a_latent_is_dead_when_it_was_not_on_for_more_than_so_many_rows() -> None:
    """Latents 0 and 1 are the only ones that the rows can turn on, first one, then the other."""
    learner = Learner(2, SAEOptions(expansion=2, k=1, dead_after=20, learning_rate=1e-12), CPU)
    with torch.no_grad():
        learner.weights.encoder.copy_(torch.tensor([[1.0, 0, -1, -1], [0, 1.0, -1, -1]]))
        learner.weights.decoder.copy_(learner.weights.encoder.T)
    first, other = torch.tensor([[2.0, 1.0]] * 10), torch.tensor([[1.0, 2.0]] * 10)
    seen = []
    for batch in (first, first, other, other, other):
        learner.step(batch)
        seen.append(learner.dead.tolist())
    # A latent counts from the beginning of the batch it was last on in.
    assert seen == [[], [], [2, 3], [0, 2, 3], [0, 2, 3]]


@pytest.mark.parametrize("variant", PRESETS)
def test_a_threshold_between_two_scores_gives_the_batch_its_mask(variant: Any) -> None:
    weights, x = random_weights(), torch.from_numpy(random_rows(64))
    options = SAEOptions(variant=variant, expansion=4, k=3)
    z = encode(weights, x, options)
    ranked = scores(weights, z)
    threshold = threshold_for(lambda: ranked.split(10), 3)
    order = ranked.flatten().sort(descending=True).values
    assert order[3 * 64] <= threshold < order[3 * 64 - 1]
    by_batch, fixed = top_of_batch(weights, z, 3), above(weights, z, threshold)
    for name in ("begins", "latents", "values"):
        assert torch.equal(getattr(by_batch, name), getattr(fixed, name))


@pytest.mark.parametrize("k", [0.5, 1, 7, 12])
@pytest.mark.parametrize("kind", ["mixed", "negative", "tiny", "close"])
def test_thresholds_are_those_of_a_sort(kind: str, k: float) -> None:
    draw = torch.Generator().manual_seed(4)
    values = torch.randn(50, 12, generator=draw)
    values = {"negative": -values.abs(), "tiny": values * 1e-39, "close": 1 + values * 1e-6}.get(kind, values)
    found, order = threshold_for(lambda: [values[:7], values[7:]], k), values.flatten().sort(descending=True).values
    if k == 12:
        assert found == -math.inf
    else:
        expected = int((values.flatten() >= order[round(k * 50) - 1]).sum())
        tied = expected != round(k * 50)
        kept = int((values > found).sum())
        assert kept == round(k * 50) or (tied and kept < round(k * 50))


def test_no_threshold_below_zero_where_too_few_scores_are_positive() -> None:
    values = torch.randn(50, 12, generator=torch.Generator().manual_seed(4)).relu()
    assert threshold_for(lambda: [values], 11) == 0.0


def planted(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Rows of 16 units made of a third of 24 directions each, and the directions [24, 16]."""
    draw = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(24, 16))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    on = draw.random((count, 24)) < 2 / 24
    values = on * draw.uniform(1, 2, size=(count, 24))
    return (values @ directions).astype(np.float32), directions


def test_a_planted_dictionary_is_found_again() -> None:
    rows, directions = planted(20_000)
    options = SAETraining(expansion=2, k=2, epochs=15, learning_rate=1e-2, dead_after=2_000).sae("standard")
    sae = train([rows], [f"0.u{n}" for n in range(16)], np.ones(16), options)
    made = np.array([sae.decoder_row(latent) for latent in range(sae.latents)])
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    cosines = np.abs(directions @ made.T)
    own, theirs = linear_sum_assignment(-cosines)
    assert cosines[own, theirs].min() > 0.95
    held_out = measure(sae, [planted(3_000, seed=5)[0]])
    assert held_out["threshold"].fvu[0] < 0.1
    assert held_out["threshold"].l0[0] == pytest.approx(2, rel=0.1)
    assert held_out["batch_topk"].l0[0] == pytest.approx(2, rel=0.01)


def small(variant: Any = "standard", **options: Any) -> TrainedSAE:
    given = {"expansion": 4, "k": 2, "warmup_steps": 5, "batch_rows": 64, "dead_after": 500, **options}
    norms = np.linspace(0.5, 3, UNITS, dtype=np.float32)
    names = [f"{n}.down" for n in range(UNITS)]
    return train([random_rows(700), random_rows(301, seed=2)], names, norms, SAETraining(**given).sae(variant))


@pytest.mark.parametrize("variant", PRESETS)
def test_the_same_seed_gives_the_same_sae(variant: Any) -> None:
    one, again, other = small(variant), small(variant), small(variant, batch_rows=65)
    assert all(
        torch.equal(a, b) for a, b in zip(one.weights.tensors().values(), again.weights.tensors().values(), strict=True)
    )
    assert one.threshold == again.threshold
    assert not torch.equal(one.weights.encoder, other.weights.encoder)
    assert not torch.equal(one.weights.encoder, train_seed(variant, 1).weights.encoder)


def train_seed(variant: Any, seed: int) -> TrainedSAE:
    options = SAEOptions(variant=variant, expansion=4, k=2, batch_rows=64, seed=seed)
    return train([random_rows(300)], [f"{n}.down" for n in range(UNITS)], np.ones(UNITS), options)


@pytest.mark.parametrize("variant", PRESETS)
def test_a_sae_lets_k_latents_be_on_over_its_training_rows(variant: Any) -> None:
    sae = small(variant)
    rows = np.concatenate([random_rows(700), random_rows(301, seed=2)])
    assert (sae.activations(rows) != 0).sum() == 2 * 1001
    assert sae.told["rows"] == 1001 and sae.told["steps"] == 16
    assert np.array_equal(sae.activations(rows, [3, 1]), sae.activations(rows)[:, [3, 1]])
    assert np.array_equal(sae.activations(rows)[:5], sae.activations(rows[:5]))


@pytest.mark.parametrize("variant", PRESETS)
def test_measures_are_those_of_numpy(variant: Any) -> None:
    sae, rows = small(variant), random_rows(203, seed=8) * 2 + 1
    found = measure(sae, [rows[:50], rows[50:]])["threshold"]
    z = sae.activations(rows).astype(np.float64)
    w = {name: value.double().numpy() for name, value in sae.weights.tensors().items()}
    x = (rows.astype(np.float64) * sae.factor - sae.shift) / sae.spread
    error = x - z @ w["decoder"] - w["decoder_bias"]
    assert found.fvu[0] == pytest.approx((error**2).sum() / ((x - x.mean(axis=0)) ** 2).sum(), rel=1e-4)
    contributed = rows.astype(np.float64) * sae.norms
    apart = ((contributed - contributed.mean(axis=0)) ** 2).sum()
    raw_error = error * sae.spread / sae.factor * sae.norms
    assert found.fvu_contribution[0] == pytest.approx((raw_error**2).sum() / apart, rel=1e-4)
    assert found.l0[0] == pytest.approx((z != 0).sum() / 203)
    assert found.alive == int((z != 0).any(axis=0).sum()) and found.dead == pytest.approx(1 - found.alive / 24)


@pytest.mark.parametrize("variant", PRESETS)
def test_measures_of_one_batch_and_their_intervals_are_those_of_numpy(variant: Any) -> None:
    """All rows in one batch: BatchTopK by a sort. Intervals: the same bootstrap of each trace's own sums."""
    sae = small(variant, batch_rows=500)
    traces = [random_rows(20 + 7 * n, seed=n) * (1 + n) for n in range(5)]
    found = measure(sae, traces, resamples=300, seed=4)["batch_topk"]
    w = {name: value.double().numpy() for name, value in sae.weights.tensors().items()}
    rows = np.concatenate(traces).astype(np.float64)
    x = (rows * sae.factor - sae.shift) / sae.spread
    z = dense(sae.weights, torch.from_numpy(x).float(), sae.options)
    squares = ((x - z @ w["decoder"] - w["decoder_bias"]) ** 2).sum(axis=1)
    ends = np.cumsum([len(trace) for trace in traces])[:-1]
    parts = zip(np.split(squares, ends), np.split(x, ends), strict=True)
    counts = np.array([[own.sum(), len(own), (part**2).sum(), *part.sum(axis=0)] for own, part in parts])

    def fvu(sums: Array) -> Array:
        return (sums[:, 0] / (sums[:, 2] - (sums[:, 3:] ** 2).sum(axis=1) / sums[:, 1]))[:, None]

    expected = cluster_intervals(counts, fvu, confidence=0.95, resamples=300, seed=4)
    np.testing.assert_allclose(found.fvu, [float(each[0]) for each in expected], rtol=1e-3)
    assert found.l0[0] == pytest.approx((z != 0).sum() / len(z)) and found.rows == len(rows)


def test_what_predicts_the_mean_explains_nothing() -> None:
    sae, rows = small("author"), random_rows(400, seed=3) + 5
    mean = torch.from_numpy(rows.mean(axis=0))
    still = dataclasses.replace(sae, weights=dataclasses.replace(sae.weights, decoder_bias=mean), threshold=math.inf)
    assert measure(still, [rows])["threshold"].fvu[0] == pytest.approx(1, abs=1e-4)
    assert measure(still, [rows])["threshold"].l0[0] == 0


@pytest.mark.parametrize("variant", PRESETS)
def test_a_decoder_row_is_what_a_latent_adds_to_the_raw_scalars(variant: Any) -> None:
    """Turning one latent up by 1 moves what the SAE rebuilds, read back as raw scalars, by its row."""
    sae = small(variant)
    z = torch.zeros(2, sae.latents)
    z[1, 7] = 1.0
    x = (z @ sae.weights.decoder + sae.weights.decoder_bias).double().numpy()
    raw = (x * sae.spread + sae.shift) / sae.factor
    np.testing.assert_allclose(sae.decoder_row(7), raw[1] - raw[0], rtol=1e-4, atol=1e-6)
    with pytest.raises(SteerkitError, match="latent 24"):
        sae.decoder_row(24)


def test_a_file_holds_all_of_it(tmp_path: Path) -> None:
    sae = small()
    sae.save(tmp_path / "a.safetensors")
    sae.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    read = TrainedSAE.load(tmp_path / "a.safetensors", sae.units, sae.norms)
    assert np.array_equal(read.activations(random_rows(9)), sae.activations(random_rows(9)))
    for name in ("options", "units", "threshold", "told", "meta"):
        assert getattr(read, name) == getattr(sae, name)


def test_a_file_of_another_adapter_is_refused(tmp_path: Path) -> None:
    sae, path = small(), tmp_path / "sae.safetensors"
    sae.save(path)
    with pytest.raises(SteerkitError, match=r"reads 6 units and the adapter has 5; only one has 5\.down"):
        TrainedSAE.load(path, sae.units[:5], sae.norms[:5])
    with pytest.raises(SteerkitError, match="in another order"):
        TrainedSAE.load(path, sae.units[::-1], sae.norms[::-1])
    with pytest.raises(SteerkitError, match=r"another adapter: unit 5\.down"):
        TrainedSAE.load(path, sae.units, sae.norms * np.array([1, 1, 1, 1, 1, 2], np.float32))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SteerkitError, match="not a file of a trained SAE"):
        TrainedSAE.load(path)


def test_rows_that_no_sae_can_learn_from_are_named() -> None:
    names, options = [f"{n}.down" for n in range(UNITS)], SAEOptions(expansion=2, k=2)
    with pytest.raises(SteerkitError, match="no tokens"):
        train([], names, np.ones(UNITS), options)
    with pytest.raises(SteerkitError, match="not finite at some"):
        train([np.full((4, UNITS), np.inf, np.float32)], names, np.ones(UNITS), options)
    with pytest.raises(SteerkitError, match="5 numbers, and there are 6 units"):
        train([random_rows(4, units=5)], names, np.ones(UNITS), options)


def test_moments_and_order_of_rows() -> None:
    blocks = [random_rows(11) * 3 + 1e4, random_rows(0), random_rows(30, seed=2) + 1e4]
    rows = np.concatenate(blocks).astype(np.float64)
    found = moments(blocks)
    assert found.count == 41
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.sd, rows.std(axis=0), rtol=1e-10)
    with shuffled(blocks, 41, 0) as one:
        assert sorted(map(tuple, one.tolist())) == sorted(map(tuple, np.concatenate(blocks).tolist()))
        assert not np.array_equal(one, np.concatenate(blocks))


def test_decoding_skips_rows_with_nothing_on() -> None:
    weights, x = random_weights(), torch.from_numpy(random_rows(3))
    z = encode(weights, x, SAEOptions(expansion=4))
    z[1] = -1.0
    z[2] = -1.0
    rebuilt = decode(weights, above(weights, z, 0.0))
    assert torch.equal(rebuilt[1:], weights.decoder_bias.expand(2, -1))
    assert not torch.equal(rebuilt[0], weights.decoder_bias)
