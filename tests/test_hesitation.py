"""Choosing features that stand before turns, and others like them: planted numbers against oracles in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from steerkit_plugins.transcoder.hesitation_choice import by_block, by_contexts, by_scores, drawn, matched
from steerkit_plugins.transcoder.hesitation_config import HesitationConfig
from steerkit_plugins.transcoder.hesitation_features import of_model
from steerkit_plugins.transcoder.hesitation_scores import sums_at, toward
from steerkit_plugins.transcoder.hesitation_tables import block_table, chosen_table, shares
from steerkit_plugins.transcoder.units import transcoder_groups
from tiny_transcoder import with_transcoder

from steerkit.units.active_store import ActiveShard, ActiveStore
from steerkit.units.collected import CollectedUnits, Layout
from steerkit.units.parts import save_parts
from steerkit.units.sparse_table import SparseTable

TRACES, TOKENS, COUNTS = ("b", "a", "c"), 40, (5, 7)
UNITS = sum(COUNTS)
RNG = np.random.default_rng(0)
F = {trace: np.maximum(RNG.normal(-0.5, 1, (TOKENS, UNITS)), 0).astype(np.float32) for trace in TRACES}
BEFORE = {trace: RNG.random(TOKENS) < 0.2 for trace in TRACES}
for own in F.values():
    own[:, 3] = 0  # never active
    own[:, 11] = 0
for name, own in F.items():
    own[:, 8] = np.where(BEFORE[name], 1 + RNG.random(TOKENS), 0)  # right before turns, and nowhere else


def collected() -> CollectedUnits:
    found = CollectedUnits(Layout((0, 2), COUNTS, "mlp", ("all",)), 1 + np.arange(UNITS) / 10)
    for number, trace in enumerate(TRACES):
        found.number(trace, TOKENS)
        at, unit = np.nonzero(F[trace])
        value = F[trace][at, unit]
        columns = {"unit": unit, "trace": np.full(len(at), number), "at": at, "value": value, "score": value}
        zeros = np.zeros(len(at))
        found.top.add(SparseTable.of({**columns, "near": zeros, "offset": zeros[:0], "values": zeros[:0]}))
        found.active += (F[trace] > 0).sum(0)
        found.total += F[trace].sum(0, dtype=np.float64)
        found.tokens += TOKENS
    return found


def test_features_are_chosen_by_their_strongest_contexts() -> None:
    found = by_contexts(collected(), BEFORE, contexts=10, least=4)
    for unit in range(UNITS):
        places = [(F[trace][at, unit], trace, at) for trace in TRACES for at in range(TOKENS) if F[trace][at, unit]]
        strongest = sorted(places, key=lambda place: -place[0])[:10]
        assert found[unit] == (sum(BEFORE[trace][at] for _, trace, at in strongest) >= 4)
    assert found[8] and not found[[3, 11]].any() and found.sum() < UNITS / 2
    assert by_contexts(collected(), BEFORE, contexts=10, least=10).tolist() == [unit == 8 for unit in range(UNITS)]


def test_features_are_chosen_by_what_they_add() -> None:
    scores = np.array([0.1, 0.5, -2.0, 9.0, 0.5, 0.3])
    alive = np.array([True, True, True, False, True, True])
    assert np.flatnonzero(by_scores(scores, alive, 2)).tolist() == [1, 4]
    assert np.flatnonzero(by_scores(scores, alive, 6)).tolist() == [0, 1, 4, 5]


def test_sums_over_marked_tokens_are_those_of_the_numbers(tmp_path: object) -> None:
    files = []
    for part in (TRACES[:2], TRACES[2:]):
        places = {trace: np.arange(4, TOKENS - 1) for trace in part}  # a response, but for its last token
        entries = []
        for number, (trace, own) in enumerate(places.items()):
            at, unit = np.nonzero(F[trace][own])
            entries.append((unit, at + number * len(own), F[trace][own][at, unit]))
        files.append(tmp_path / f"{len(files)}.safetensors")  # type: ignore[operator]
        save_parts(files[-1], ActiveShard.of(UNITS, entries, places).parts())
    oracle = sum(F[trace][4:-1][BEFORE[trace][4:-1]].sum(0) for trace in TRACES)
    np.testing.assert_allclose(sums_at(ActiveStore(files), BEFORE), oracle, rtol=1e-6)


def test_what_a_feature_adds_to_words() -> None:
    """The logits of a hidden state with and without it, by the head itself."""
    lm = with_transcoder("llama", scale=0.5)
    found = toward(lm, {7: 3, 9: 1})
    head = lm.model.get_output_embeddings()
    unit = 0
    for group in transcoder_groups(lm):
        decoder = group.transcoder.decoder.weight.detach()
        for number in range(group.count):
            with torch.no_grad():
                logits = head(0.5 * decoder[:, number])
            assert found[unit] == pytest.approx(float((3 * logits[7] + logits[9]) / 4 - logits.mean()), abs=1e-5)
            unit += 1
    assert unit == len(found) and not toward(lm, {}).any()


def test_matched_features_are_others_of_like_contribution() -> None:
    layer = np.repeat([0, 1], [300, 60])
    contribution = np.exp(RNG.normal(0, 1, 360))
    alive = RNG.random(360) < 0.9
    chosen = alive & (RNG.random(360) < np.where(layer == 0, 0.1, 0.6))
    sets = [matched(contribution, layer, alive, chosen, near=5, seed=seed) for seed in (0, 0, 1)]
    assert (sets[0] == sets[1]).all() and (sets[0] != sets[2]).any()
    for found in sets:
        assert found.sum() == chosen.sum() and not (found & chosen).any() and alive[found].all()
        first = layer == 0
        assert (found & first).sum() >= (chosen & first).sum()  # block 1 has too few others
        own = contribution[found & first].sum() / contribution[chosen & first].sum()
        assert 0.8 < own < 1.25 * (found & first).sum() / (chosen & first).sum()
    nearest, free = np.zeros(360, bool), alive & ~chosen
    for unit in sorted(np.flatnonzero(chosen), key=lambda u: -contribution[u]):
        own = [u for u in np.flatnonzero(free) if layer[u] == layer[unit]] or list(np.flatnonzero(free))
        pick = min(own, key=lambda u: abs(np.log(contribution[u] / contribution[unit])))
        nearest[pick], free[pick] = True, False
    assert (matched(contribution, layer, alive, chosen, near=1, seed=3) == nearest).all()


def test_where_there_are_too_few_others_fewer_are_matched() -> None:
    alive = np.ones(6, bool)
    chosen = np.arange(6) < 4
    found = matched(np.ones(6), np.zeros(6), alive, chosen, near=5, seed=0)
    assert (found == ~chosen).all()
    assert (drawn(alive, chosen, 9, 0) == ~chosen).all() and drawn(alive, chosen, 1, 0).sum() == 1


def test_the_artifact_says_what_was_chosen_block_by_block() -> None:
    own, config = collected(), HesitationConfig(contexts=10, least=4, draws=2, kinds=("without", "random"))
    scores = np.linspace(1, -0.2, UNITS)
    found = of_model(config, own, BEFORE, scores, seed=1)
    chosen = by_contexts(own, BEFORE, contexts=10, least=4)
    assert found["layers"] == [0, 2] and found["turns"] == sum(marks.sum() for marks in BEFORE.values())
    assert found["alive"] == [4, 6]
    assert found["ways"]["contexts"]["chosen"] == by_block(chosen, COUNTS)
    assert sum(map(len, found["ways"]["logits"]["chosen"])) == chosen.sum()
    numbers = np.concatenate([F[trace] for trace in TRACES]).astype(np.float64) * (1 + np.arange(UNITS) / 10)
    mean = numbers.mean(0)
    assert found["contribution"] == pytest.approx([mean[:5].sum(), mean[5:].sum()], rel=1e-6)
    told = found["ways"]["contexts"]["chosen_contribution"]
    assert told == pytest.approx([(mean * chosen)[:5].sum(), (mean * chosen)[5:].sum()], rel=1e-6)
    for way in found["ways"].values():
        assert len(way["matched"]) == len(way["random"]) == 2
        for draw in (*way["matched"], *way["random"]):
            assert all(not set(a) & set(b) for a, b in zip(draw, way["chosen"], strict=True))
    by = {"contexts": "by contexts", "logits": "by logits"}
    rows = chosen_table({"m": found}, by).rows
    assert rows[0][:3] == ("m, by contexts", f"{chosen.sum()} of 10", f"{100 * chosen.sum() / 10:.1f}")
    assert shares({"m": found})["contexts"]["m"] == pytest.approx(chosen.sum() / 10)
    blocks = block_table({"m": found}, by).rows
    assert [row[:2] for row in blocks] == [(by[way], layer) for way in by for layer in ("0", "2")]
    assert float(blocks[1][4]) == pytest.approx(100 * told[1] / mean[5:].sum(), rel=0.01)
