"""Sampling: filters against transformers' own processors, paired noise under a filter, texts of whole batches."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from oracles import edited_logits
from scipy.stats import chisquare
from steerkit_plugins.steerers.residual_add import ResidualAdd
from tiny import build, tiny
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from steerkit.errors import InputError
from steerkit.generation.filters import Filters
from steerkit.generation.sampling import STREAM, Sampler, Sampling
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interventions.steering import Edit
from steerkit.stats.noise import gumbel, key_of

PROMPTS = [[5, 9, 12, 33, 7], [9, 14], [22, 8, 30, 11], [40, 41, 42], [17]]
SETTINGS = [
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 10_000},
    {"top_p": 1e-12},
    {"top_p": 0.05},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 0.9999},
    {"min_p": 0.02},
    {"min_p": 0.4},
    {"min_p": 1.0},
    {"top_k": 40, "top_p": 0.9},
    {"top_k": 3, "top_p": 0.6},
    {"top_p": 0.8, "min_p": 0.1},
    {"top_k": 50, "top_p": 0.95, "min_p": 0.01},
]


def kept_by_transformers(scores: torch.Tensor, given: dict) -> torch.Tensor:
    """[B, V] bool, in the order in which `generate` applies them."""
    known = {"top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper, "min_p": MinPLogitsWarper}
    processors = LogitsProcessorList([known[name](given[name]) for name in known if name in given])
    return processors(None, scores.clone()).isfinite()


def kept(scores: torch.Tensor, given: dict, width: int) -> torch.Tensor:
    """By steerkit, asked again as long as it saw too few tokens."""
    filters = Filters(**given, width=width)
    while True:
        keep, short = filters.keep(scores)
        if short is None or not short:
            return keep
        filters.widen()


def scores_of(kind: str) -> torch.Tensor:
    """[B, V] logits / T: smooth, of bfloat16 (many ties), of five values (ties everywhere), some of them -inf."""
    draw = torch.Generator().manual_seed(len(kind))
    smooth = 4 * torch.randn(24, 1500, generator=draw)
    smooth[:, 3] += 9 * torch.rand(24, generator=draw)  # from flat rows to nearly certain ones
    if kind == "bfloat16":
        return smooth.bfloat16().float()
    if kind == "five values":
        return (smooth / 4).round().clamp(-2, 2)
    if kind == "some impossible":
        return smooth.masked_fill(torch.rand(smooth.shape, generator=draw) < 0.7, -torch.inf)
    return smooth


@pytest.mark.parametrize("kind", ["smooth", "bfloat16", "five values", "some impossible"])
@pytest.mark.parametrize("given", SETTINGS, ids=str)
def test_filters_keep_what_those_of_transformers_keep(given: dict, kind: str, monkeypatch) -> None:
    """Which of the tokens that tie with the last one top_p keeps is open there, until sorts are stable."""
    scores = scores_of(kind)
    found = kept(scores, given, 256) & scores.isfinite()
    unstable = kept_by_transformers(scores, given)
    assert unstable.any(-1).all() and torch.equal(unstable.sum(-1), found.sum(-1))
    assert torch.equal(*(scores.masked_fill(~keep, -torch.inf).sort(-1).values for keep in (unstable, found)))
    monkeypatch.setattr(torch, "sort", partial(torch.sort, stable=True))
    assert torch.equal(kept_by_transformers(scores, given), found)
    for width in (4, 1500):
        assert torch.equal(kept(scores, given, width) & scores.isfinite(), found), width


def test_a_row_alone_is_filtered_as_in_a_batch() -> None:
    scores = scores_of("bfloat16")
    for given in SETTINGS:
        together = kept(scores, given, 16)
        assert torch.equal(torch.cat([kept(row[None], given, 256) for row in scores]), together)


def test_filters_never_wait_for_the_device() -> None:
    """Tensors without data have nothing to wait for: an answer that depends on a value would be an error."""
    scores = torch.empty(3, 5000, device="meta")
    for given in SETTINGS:
        keep, short = Filters(**given).keep(scores)
        assert keep.shape == scores.shape
        assert (short is None) == ("top_k" in given or "top_p" not in given)


def test_only_top_p_sorts_more_and_no_more_than_it_needs() -> None:
    slow, steep = torch.arange(0, -3, -0.001)[None], torch.arange(0, -3000, -1.0)[None]
    for scores, wide in ((steep, 256), (slow, 2048)):
        sampler = Sampler(Sampling(temperature=1, top_p=0.5), "cpu")
        sampler.assign([1], [0])
        (_, tokens, found), filters = sampler.draw(scores, 0), sampler.filters
        assert filters is not None and filters.width == wide
        assert torch.equal(found.isfinite(), kept_by_transformers(scores, {"top_p": 0.5}))
        assert torch.equal(found, sampler.scores(scores, 0)) and tokens == found.argmax(-1).tolist()


@pytest.mark.parametrize("given", [{"top_k": 5, "min_p": 0.05}, {"top_p": 0.7}], ids=str)
def test_texts_by_hand_with_processors_of_transformers(given: dict, direction: torch.Tensor) -> None:
    """Filter, then noise, then argmax, token by token without a cache; rows of a mixed batch, taken over and alone."""
    lm, edit = tiny("llama"), Edit(ResidualAdd(), 1, 2.0, direction)
    rows = [GenerationRow(p, key_of(i), edits) for i, p in enumerate(PROMPTS[:3]) for edits in ((), (edit,))]
    expected = []
    for row in rows:
        ids: list[int] = list(row.prompt_ids)
        for step in range(8):
            steer = (lambda h: h + 2.0 * direction) if row.edits else (lambda h: h)
            scaled = edited_logits(lm.model, torch.tensor([ids]), 1, steer)[0, -1:] / 0.9
            noise = gumbel(torch.tensor(row.key), torch.tensor(step), stream=STREAM, size=scaled.shape[-1])
            scores = (scaled + noise).masked_fill(~kept_by_transformers(scaled, given), -torch.inf)
            ids.append(int(scores.argmax()))
        ends = [*ids[len(row.prompt_ids) :], lm.tokenizer.eos_token_id]
        expected.append(ends[: ends.index(lm.tokenizer.eos_token_id)])
    for size in (None, 4, 1):
        found = generate(lm, rows, max_new_tokens=8, temperature=0.9, batch_size=size, **given)
        assert [text.ids for text in found] == expected


def test_frequencies_follow_the_filtered_softmax(llama) -> None:
    count, given = 4000, {"top_k": 30, "top_p": 0.9, "min_p": 0.02}
    rows = [GenerationRow(PROMPTS[1], key_of("seed", i)) for i in range(count)]
    found = generate(llama, rows, max_new_tokens=1, temperature=1.5, **given)
    drawn = torch.tensor([row.ids[0] if row.ids else llama.tokenizer.eos_token_id for row in found])
    logits = edited_logits(llama.model, torch.tensor([PROMPTS[1]]), 0, lambda h: h)[0, -1:].double() / 1.5
    keep = kept_by_transformers(logits.float(), given)
    expected = count * logits.masked_fill(~keep, -torch.inf).softmax(-1)[0]
    seen = torch.bincount(drawn, minlength=len(expected)).double()
    assert 10 < keep.sum() < len(expected) - 10 and not seen[~keep[0]].any()
    assert expected[keep[0]].min() > 5
    assert chisquare(seen[keep[0]].numpy(), expected[keep[0]].numpy()).pvalue > 1e-3


def test_a_filter_that_keeps_everything_changes_no_text(direction: torch.Tensor) -> None:
    lm = build("llama")
    rows = [GenerationRow(p, key_of(i), (Edit(ResidualAdd(), 1, float(i), direction),)) for i, p in enumerate(PROMPTS)]
    plain = generate(lm, rows, max_new_tokens=20, temperature=1.3, margins=True)
    for given in ({"top_k": 64}, {"top_k": 10**6}, {"top_p": 1.0}, {"min_p": 0.0}, {"min_p": 1e-30}):
        assert generate(lm, rows, max_new_tokens=20, temperature=1.3, margins=True, **given) == plain


def test_noise_is_paired_under_a_filter(llama, direction: torch.Tensor) -> None:
    rows = [GenerationRow(PROMPTS[0], 7, edits) for edits in ((), (Edit(ResidualAdd(), 1, 1e-7, direction),))]
    one, other = generate(llama, rows, max_new_tokens=20, temperature=1.2, top_p=0.8)
    free = generate(llama, rows[:1], max_new_tokens=20, temperature=1.2)[0]
    assert one.ids == other.ids != free.ids


def test_temperature_0_is_greedy_whatever_the_filters(llama) -> None:
    rows = [GenerationRow(p, i) for i, p in enumerate(PROMPTS)]
    greedy = generate(llama, rows, max_new_tokens=10, temperature=0)
    assert generate(llama, rows, max_new_tokens=10, temperature=0, top_k=3, top_p=0.5, min_p=0.9) == greedy
    assert generate(llama, rows, max_new_tokens=10, temperature=1.0, top_k=1) == greedy
    assert str(Sampling(temperature=0, top_k=3)) == "greedy"


def test_impossible_settings_are_all_named(llama) -> None:
    with pytest.raises(InputError) as caught:
        generate(llama, [], max_new_tokens=1, temperature=-1, top_k=0, top_p=0, min_p=1.5)
    assert str(caught.value).splitlines() == [
        "sampling: 4 problems",
        "  temperature: input should be greater than or equal to 0, not -1",
        "  top_k: input should be greater than or equal to 1, not 0",
        "  top_p: input should be greater than 0, not 0",
        "  min_p: input should be less than or equal to 1, not 1.5",
    ]
