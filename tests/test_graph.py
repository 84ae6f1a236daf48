"""Attribution graphs: complete, and the edges of a model that is written out by hand."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from frozen_qwen2 import frozen
from steerkit_plugins.transcoder.graph_build import AttributionGraph, attribution_graph
from steerkit_plugins.transcoder.graph_influence import influence, prune
from steerkit_plugins.transcoder.relp import FAMILIES, linearised
from tiny_transcoder import logits, with_transcoder
from zoo import breed

from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel

IDS = (5, 9, 12, 33, 7, 20, 8, 11, 40)
KNOWN = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "gpt2", "gpt_neox", "phi3", "olmo2")


@cache
def model(architecture: str = "qwen2") -> LanguageModel:
    lm = with_transcoder(architecture, scale=0.5)
    lm.model.double()
    return lm


@cache
def graph(**options: Any) -> AttributionGraph:
    return attribution_graph(model(), IDS, **options)


@pytest.mark.parametrize("architecture", KNOWN)
def test_values_are_the_sums_of_edges_and_constants(architecture: str) -> None:
    lm = model(architecture)
    assert lm.config.model_type in FAMILIES
    before = logits(lm, (IDS,))
    trained = [weight.requires_grad for weight in lm.model.parameters()]
    with linearised(lm):
        torch.testing.assert_close(logits(lm, (IDS,)), before, rtol=1e-5, atol=1e-5)
    found = attribution_graph(lm, IDS)
    assert found.features > 50 and found.gap < 1e-12 and np.abs(found.constants).max() > 0.01
    n, whole = found.features, found.features + len(IDS)
    np.testing.assert_allclose(found.values[:n], found.activations, rtol=1e-5)  # f = relu(value)
    own = before[0, -1].numpy()
    np.testing.assert_allclose(found.values[whole:], own[found.logits] - own.mean(), rtol=1e-5, atol=1e-6)
    levels, positions = found.levels, np.concatenate([found.positions, np.arange(len(IDS)), [len(IDS) - 1] * 10])
    impossible = (levels[:, None] <= levels[None]) | (positions[:, None] < positions[None])
    assert not found.edges[impossible].any() and (found.edges[~impossible] != 0).mean() > 0.6
    assert torch.equal(logits(lm, (IDS,)), before)  # all hooks are off
    assert [weight.requires_grad for weight in lm.model.parameters()] == trained


def test_edges_are_those_of_a_model_written_out_by_hand() -> None:
    """Target by target with autograd; and a feature that is scaled by 1 + e moves a target by e · edge."""
    own, embeddings, first = frozen(model(), IDS)
    found = graph()
    x = embeddings.requires_grad_()
    f = [code.requires_grad_() for code in first["features"]]
    again = own.run(x, f)
    at = list(zip(found.layers, found.positions, found.indices, strict=True))
    assert at == [(n, *place) for n, code in enumerate(f) for place in torch.nonzero(code).tolist()]
    resid, reads = graph(edge_target="resid_pre"), [block.mlp.transcoder.encoder.weight for block in model().blocks]

    def edges(target: torch.Tensor) -> list[float]:
        by_tokens, *by_features = torch.autograd.grad(target, [x, *f], retain_graph=True, allow_unused=True)
        by_f = [torch.zeros_like(code) if g is None else g * code for g, code in zip(by_features, f, strict=True)]
        of_tokens = torch.zeros(len(IDS)) if by_tokens is None else (by_tokens * x).sum(-1)
        return [*(by_f[n][t, i].item() for n, t, i in at), *of_tokens.tolist()]

    n, whole, close = found.features, found.features + len(IDS), {"rtol": 1e-5, "atol": 1e-7}
    for number, (layer, token, index) in enumerate(at):
        np.testing.assert_allclose(found.edges[number, :whole], edges(again["values"][layer][token, index]), **close)
        target = again["inputs"][layer][token] @ reads[layer][index]
        np.testing.assert_allclose(resid.edges[number, :whole], edges(target), **close)
    for number, token in enumerate(found.logits, whole):
        np.testing.assert_allclose(found.edges[number, :whole], edges(again["logits"][int(token)]), **close)
    with torch.no_grad():
        for source in (0, n // 3, n // 2):
            layer, token, index = at[source]
            scaled = [code.clone() for code in f]
            scaled[layer][token, index] *= 1.25
            moved = own.run(x, scaled)
            after = [float(moved["values"][m][t, i]) for m, t, i in at] + moved["logits"][found.logits].tolist()
            before = [float(again["values"][m][t, i]) for m, t, i in at] + again["logits"][found.logits].tolist()
            wanted = 0.25 * np.delete(found.edges[:, source], slice(n, whole))
            np.testing.assert_allclose(np.subtract(after, before), wanted, **close)


def test_the_order_and_size_of_batches_change_nothing() -> None:
    found = graph(batch_tokens=3 * len(IDS))
    np.testing.assert_allclose(found.edges, graph().edges, rtol=1e-10, atol=1e-12)
    again = attribution_graph(model(), IDS)
    assert all(np.array_equal(getattr(again, each.name), getattr(graph(), each.name)) for each in fields(again))


def test_the_most_influential_features_are_nodes() -> None:
    whole, few = graph(), graph(max_nodes=20, batch_tokens=2 * len(IDS))
    assert few.features == 20 and few.active == whole.features and few.gap < 1e-12
    names = {name: n for n, name in enumerate(zip(whole.layers, whole.positions, whole.indices, strict=True))}
    chosen = [names[name] for name in zip(few.layers, few.positions, few.indices, strict=True)]
    kept = np.r_[chosen, whole.features : len(whole.edges)]
    np.testing.assert_allclose(few.edges, whole.edges[np.ix_(kept, kept)], rtol=1e-10, atol=1e-12)
    gone = np.setdiff1d(np.arange(whole.features), chosen)
    np.testing.assert_allclose(few.left_out, np.abs(whole.edges[np.ix_(kept, gone)]).sum(1), rtol=1e-10, atol=1e-12)
    strongest = influence(whole.edges, whole.levels, np.arange(len(whole.edges)), whole.weights, len(whole.edges))
    assert strongest[chosen].sum() > 0.8 * np.sort(strongest[: whole.features])[-20:].sum()
    shares = few.shares()
    assert shares["left out"] > 0 == whole.shares()["left out"] and sum(shares.values()) == pytest.approx(1)


def test_features_at_the_first_token_may_be_left_out() -> None:
    found = graph(bos_nodes="zeroed")
    assert found.positions.min() == 1 and found.gap > 0.01


def test_pruning_keeps_what_circuit_tracers_rules_keep() -> None:
    found = graph()
    got = prune(found.edges, found.levels, found.weights, features=found.features)
    e, w, n = np.abs(found.edges), found.weights, found.features

    def series(sizes: np.ndarray) -> np.ndarray:
        a, total = sizes / np.maximum(sizes.sum(1, keepdims=True), 1e-10), np.zeros(len(w))
        step = w @ a
        while step.any():
            total, step = total + step, step @ a
        return total

    def least(scores: np.ndarray, share: float) -> float:
        ordered = np.sort(scores)[::-1]
        return float(ordered[np.searchsorted(np.cumsum(ordered) / ordered.sum(), share)])

    nodes = series(e) >= least(series(e), 0.8)
    nodes[n:] = True
    e = e * nodes[:, None] * nodes
    scores = e / np.maximum(e.sum(1, keepdims=True), 1e-10) * (series(e) + w)[:, None]
    edges = scores >= least(scores.ravel(), 0.98)
    for _ in range(9):
        nodes[:n] &= edges[:, :n].any(0) & edges[:n].any(1)
        edges = edges & nodes[:, None] & nodes
    assert np.array_equal(got.nodes, nodes) and np.array_equal(got.edges, edges)
    assert 1 < got.nodes[:n].sum() < n / 2 and got.edges.sum() < (found.edges != 0).sum() / 2
    order = np.argsort(-series(np.abs(found.edges)), kind="stable")
    assert got.cumulative[order[-1]] == pytest.approx(1) and (np.diff(got.cumulative[order]) >= 0).all()


@pytest.mark.parametrize("architecture", ["qwen3_moe", "stablelm"])
def test_other_families_are_refused_by_name(architecture: str) -> None:
    with pytest.raises(
        SteerkitError, match=f"{architecture}: attribution graphs are made for gemma, .*; {architecture}"
    ):
        attribution_graph(with_transcoder(architecture), IDS)


def test_a_model_without_features_has_no_graph() -> None:
    with pytest.raises(SteerkitError, match="has no transcoder adapter"):
        attribution_graph(breed("llama"), IDS)
    lm = with_transcoder("llama")
    with torch.no_grad():
        for block in lm.blocks:
            block.mlp.transcoder.encoder.bias.fill_(-1e9)  # type: ignore[union-attr,operator]
    with pytest.raises(SteerkitError, match="no feature is active in a text of 9 tokens"):
        attribution_graph(lm, IDS)
    lm.model.disable_adapter_layers()
    with pytest.raises(SteerkitError, match="off: its transcoders are turned off"):
        attribution_graph(LanguageModel("off", lm.model, lm.tokenizer, adapter=False), IDS)
