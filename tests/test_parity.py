"""Comparing an engine with transformers: what passes, and what must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from steerkit_plugins.steerers.gaussian_noise import GaussianNoise
from steerkit_plugins.steerers.residual_add import ResidualAdd
from tiny import build

from steerkit.generation.engine import Greedy
from steerkit.generation.parity import Parity, activation_length, check_rows, compare, reference
from steerkit.generation.sampled_parity import compare_sampled, kept_if_shifted
from steerkit.generation.sampling import Sampling
from steerkit.generation.stream import Generated, GenerationRow, generate
from steerkit.interventions.steering import Steering
from steerkit.models.language_model import LanguageModel

STRENGTHS = [0.0, 0.5, 1.0, 2.0]
WORDS = ("the sum is wait hmm", "but w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 .", "is the")


class Mirror:
    """An engine that is transformers itself, or one that is wrong in one way."""

    def __init__(self, lm: LanguageModel, wrong: str = "") -> None:
        self.lm, self.wrong = lm, wrong

    def greedy(self, role: str, rows: Sequence[GenerationRow], *, max_new_tokens: int) -> Greedy:
        assert role == "base"
        if self.wrong == "mixed conditions":
            rows = [replace(row, edits=rows[number - 1].edits) for number, row in enumerate(rows)]
        texts = generate(self.lm, rows, max_new_tokens=max_new_tokens, temperature=0)
        log_probs, _, steered = reference(self.lm, rows, texts, max_new_tokens)
        if self.wrong == "steered twice":
            steered += 1
        if self.wrong == "tokens":
            texts[2].ids[1] += 1
        return Greedy(texts, log_probs, steered)

    def generate(
        self, role: str, rows: Sequence[GenerationRow], *, max_new_tokens: int, sampling: Sampling, **rest: Any
    ) -> list[Generated]:
        if self.wrong == "mixed conditions":
            rows = [replace(row, edits=rows[number - 1].edits) for number, row in enumerate(rows)]
        if self.wrong == "other noise":
            rows = [replace(row, key=row.key + 1) for row in rows]
        given = sampling.model_dump() if self.wrong != "no filters" else {"temperature": sampling.temperature}
        return generate(self.lm, rows, max_new_tokens=max_new_tokens, **given)


def parities(wrong: str = "") -> list[Any]:
    lm = build("llama")
    steerers = {"residual-add": ResidualAdd(), "gaussian-noise": GaussianNoise()}
    rows = check_rows(lm, WORDS, STRENGTHS, 1, steerers)
    return compare(lm, Mirror(lm, wrong), "base", rows, max_new_tokens=6, tolerance=1e-3)  # type: ignore[arg-type]


def test_transformers_against_itself_passes() -> None:
    found = parities()
    assert [p.name for p in found] == [
        "residual-add, all",
        "residual-add, prompt",
        "residual-add, generated",
        "gaussian-noise, all",
        "residual-add, all, again",
    ]
    assert all(p.passed and p.error < 1e-5 and p.rows == p.same == 12 and p.steered == p.expected for p in found)
    total, prompt, generated = (p.steered for p in found[:3])
    assert prompt == 3 * sum(len(w.split()) for w in WORDS)
    assert generated > 0 and total > prompt  # texts differ by condition, so the sums need not add up


@pytest.mark.parametrize("given", [{}, {"top_k": 9}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 20, "top_p": 0.9}])
def test_sampled_texts_are_held_against_transformers_draw_by_draw(given: dict[str, Any]) -> None:
    lm, sampling = build("llama"), Sampling(temperature=1.2, **given)
    rows = check_rows(lm, WORDS, STRENGTHS, 1, {"residual-add": ResidualAdd()})["residual-add, all"]

    def sampled(wrong: str = "", tolerance: float = 1e-3) -> Parity:
        engine: Any = Mirror(lm, wrong)
        return compare_sampled(lm, engine, "base", rows, "x", sampling=sampling, max_new_tokens=8, tolerance=tolerance)

    right = sampled()
    assert right.passed and (right.same, right.ties, right.error, right.steered) == (12, 0, None, None)
    for wrong in ("mixed conditions", "other noise", *(["no filters"] if given else [])):
        assert not sampled(wrong).passed, wrong
    assert sampled("other noise", tolerance=100.0).passed  # a difference as large as that explains any draw


@pytest.mark.parametrize("given", [{"top_k": 9}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 20, "top_p": 0.9}])
def test_what_a_filter_keeps_for_sure_and_perhaps(given: dict[str, Any]) -> None:
    """Against the filters themselves, one token's logit moved at a time."""
    sampling = Sampling(temperature=1, **given)
    scaled = 2 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    filters = sampling.filters()
    assert filters is not None
    for shift in (0.0, 0.3, -0.3):
        moved = scaled[:, None] + shift * torch.eye(64)
        expected = filters.keep(moved.reshape(-1, 64))[0].reshape(4, 64, 64).diagonal(dim1=1, dim2=2)
        found = kept_if_shifted(scaled, sampling, shift)
        if shift and "top_p" in given:  # there the others' share is taken to change as much as it can
            assert (found >= expected if shift > 0 else found <= expected).all() and not torch.equal(found, expected)
        else:
            assert torch.equal(found, expected)


@pytest.mark.parametrize("wrong", ["mixed conditions", "steered twice", "tokens"])
def test_what_is_wrong_does_not_pass(wrong: str) -> None:
    found = parities(wrong)
    assert not any(p.passed for p in found if p.name.startswith("residual-add, all"))
    if wrong == "mixed conditions":
        assert all(p.error > 0.1 and p.same < p.rows for p in found)


def test_the_reference_is_the_batched_loop_of_the_hf_engine() -> None:
    """Its greedy tokens lead by their own log-probability, and it counts what a batch of equal length steers."""
    lm = build("llama")
    rows = check_rows(lm, WORDS[:1], STRENGTHS, 1, {"residual-add": ResidualAdd()})["residual-add, all"]
    texts = generate(lm, rows, max_new_tokens=6, temperature=0)
    log_probs, leads, steered = reference(lm, rows, texts, 6)
    assert all(lead < 1e-5 for text in leads for lead in text)
    assert [len(p) for p in log_probs] == [len(t.ids) for t in texts]
    fed = [len(r.prompt_ids) + len(t.ids) - (not t.finished) for r, t in zip(rows, texts, strict=True)]
    assert steered == sum(fed[1:])


def test_strengths_are_shares_of_the_activations(direction) -> None:
    lm = build("llama")
    ids = [[2, 5, 9, 12, 33]]
    scale = activation_length(lm, ids, 2)
    rows = check_rows(lm, ["the sum is wait hmm"], [0.5], 2, {"residual-add": ResidualAdd()})["residual-add, all"]
    with Steering(lm, [None]):
        own = activation_length(lm, [rows[0].prompt_ids], 2)
    assert rows[0].edits[0].norm == pytest.approx(0.5 * own)
    assert scale > 0 and lm.blocks[2]._forward_hooks == {}
