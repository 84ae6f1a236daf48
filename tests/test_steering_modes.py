"""HF `generate` in every mode that it has: the tokens that are steered are the prompt's and the text's own."""

from __future__ import annotations

import pytest
import torch
from steerkit_plugins.steerers.gaussian_noise import GaussianNoise
from steerkit_plugins.steerers.residual_add import ResidualAdd
from test_steering_tokens import NEW, PROMPT, STRENGTH, greedy_by_hand, hf_generate
from tiny import build

from steerkit.errors import SteerkitError
from steerkit.interventions.steering import Edit, Steering

ADD = ResidualAdd()
LONG = [5, 9, 12, 33, 7, 21, 40, 8, 15, 16, 23, 42, 4, 11, 19, 3, 50, 6]
KINDS = ["all", "prompt", "generated"]


def counts(prompt, tokens) -> int:
    return {"all": len(prompt) + NEW - 1, "prompt": len(prompt), "generated": NEW - 1}[tokens]


@pytest.mark.parametrize("tokens", KINDS)
@pytest.mark.parametrize("chunk", [1, 5, 17, 64])
def test_a_prompt_read_in_chunks(llama, direction, tokens, chunk) -> None:
    with Steering(llama, Edit(ADD, 1, STRENGTH, direction, tokens)) as steering:
        found = hf_generate(llama, torch.tensor([LONG]), prefill_chunk_size=chunk)
    assert found == [greedy_by_hand(llama, LONG, 1, direction, tokens)]
    assert steering.steered == counts(LONG, tokens)


@pytest.mark.parametrize("tokens", KINDS)
def test_chunks_of_padded_rows(llama, direction, tokens) -> None:
    ids = torch.tensor([LONG, [0] * 13 + PROMPT])
    mask = (ids > 0).long()
    with Steering(llama, Edit(ADD, 1, STRENGTH, direction, tokens)) as steering:
        found = hf_generate(llama, ids, attention_mask=mask, prefill_chunk_size=4)
    assert found == [greedy_by_hand(llama, prompt, 1, direction, tokens) for prompt in (LONG, PROMPT)]
    assert steering.steered == counts(LONG, tokens) + counts(PROMPT, tokens)


@pytest.mark.parametrize("tokens", KINDS)
@pytest.mark.parametrize("given", ["whole prompt", "rest alone"])
def test_a_prefix_that_was_cached_inside(llama, direction, tokens, given) -> None:
    ids = torch.tensor([LONG])
    with torch.no_grad(), Steering(llama, Edit(ADD, 1, STRENGTH, direction, tokens)) as steering:
        cache = llama.model(input_ids=ids[:, :7], use_cache=True).past_key_values
        options = {"past_key_values": cache, "attention_mask": torch.ones_like(ids)}
        found = hf_generate(llama, ids if given == "whole prompt" else ids[:, 7:], **options)
    assert [text[-NEW:] for text in found] == [greedy_by_hand(llama, LONG, 1, direction, tokens)]
    assert steering.steered == counts(LONG, tokens)


@pytest.mark.parametrize("tokens", KINDS)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_every_cache_with_padding(lm, direction, tokens, cache) -> None:
    ids = torch.tensor([PROMPT, [0, 0, 9, 14, 3]])
    noise = Edit(GaussianNoise(), 1, STRENGTH, None, tokens, key=5)
    with Steering(lm, noise) as steering:
        alone = [hf_generate(lm, torch.tensor([p]))[0] for p in (PROMPT, [9, 14, 3])]
        steered = steering.steered
    with Steering(lm, noise) as steering:
        found = hf_generate(lm, ids, attention_mask=(ids > 0).long(), cache_implementation=cache)
        assert steering.steered == steered
    assert found == alone


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_mask_that_generate_takes_from_the_padding(llama, direction, cache) -> None:
    ids = torch.tensor([PROMPT, [0, 0, 9, 14, 3]])
    with Steering(llama, Edit(ADD, 1, STRENGTH, direction, "prompt")) as steering:
        found = hf_generate(llama, ids, attention_mask=None, cache_implementation=cache, eos_token_id=1)
    expected = [greedy_by_hand(llama, p, 1, direction, "prompt") for p in (PROMPT, [9, 14, 3])]
    assert [text[:4] for text in found] == [text[:4] for text in expected]
    assert steering.steered == 8


@pytest.mark.parametrize("tokens", KINDS)
def test_embeddings_in_place_of_ids(llama, direction, tokens) -> None:
    embeds = llama.model.get_input_embeddings()(torch.tensor([PROMPT])).detach()
    with Steering(llama, Edit(ADD, 1, STRENGTH, direction, tokens)) as steering:
        found = llama.model.generate(
            inputs_embeds=embeds, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0
        ).tolist()
    assert found == [greedy_by_hand(llama, PROMPT, 1, direction, tokens)]
    assert steering.steered == counts(PROMPT, tokens)


@pytest.mark.parametrize("mode", ["lookup", "assistant", "early exit"])
@pytest.mark.parametrize("tokens", KINDS)
def test_assisted_decoding_gives_the_same_text(direction, tokens, mode) -> None:
    lm = build("llama")
    prompt = [*PROMPT, *PROMPT, 5, 9]
    options = {
        "lookup": {"prompt_lookup_num_tokens": 3},
        "assistant": {"assistant_model": build("llama", seed=3).model},
        "early exit": {"assistant_early_exit": 3},
    }[mode]
    with Steering(lm, Edit(ADD, 1, STRENGTH, direction, tokens)):
        found = hf_generate(lm, torch.tensor([prompt]), **options)
    assert found == [greedy_by_hand(lm, prompt, 1, direction, tokens)]


@pytest.mark.parametrize("cached", [True, False])
def test_beams_follow_the_edit_of_their_row(llama, direction, cached) -> None:
    edits = [Edit(ADD, 1, STRENGTH, direction, tokens) for tokens in KINDS]
    expected = []
    for edit in edits:
        with Steering(llama, edit):
            expected += hf_generate(llama, torch.tensor([PROMPT]), num_beams=3)
    with Steering(llama, [*edits, None]):
        found = hf_generate(llama, torch.tensor([PROMPT] * 4), num_beams=3, use_cache=cached)
    assert found[:3] == expected
    assert found[3] == hf_generate(llama, torch.tensor([PROMPT]), num_beams=3)[0]


def test_several_sequences_of_a_row_have_its_edit(llama, direction) -> None:
    edits = [Edit(ADD, 1, STRENGTH, direction, "prompt"), None]
    with Steering(llama, edits) as steering:
        options = {"attention_mask": torch.ones(2, 5, dtype=torch.long), "pad_token_id": 0, "eos_token_id": None}
        found = llama.model.generate(
            torch.tensor([PROMPT, PROMPT]), max_new_tokens=4, num_return_sequences=3, do_sample=True, **options
        )
    assert found.shape == (6, 9)
    assert steering.steered == 3 * len(PROMPT)


def test_continuous_batching_is_refused(direction) -> None:
    lm = build("llama")
    edit = Edit(ADD, 1, STRENGTH, direction)
    with pytest.raises(SteerkitError, match="generate_batch: continuous batching packs rows"), Steering(lm, edit):
        lm.model.generate_batch([PROMPT], max_new_tokens=4)
    with pytest.raises(SteerkitError, match="continuous batching packs rows"), Steering(lm, edit):
        hf_generate(lm, torch.tensor([PROMPT]), cache_implementation="paged")
    assert not {"generate", "generate_batch"} & lm.model.__dict__.keys()  # all came off


def test_generate_is_the_models_own_again(llama, direction) -> None:
    with pytest.raises(ZeroDivisionError), Steering(llama, Edit(ADD, 1, STRENGTH, direction)):
        raise ZeroDivisionError
    assert "generate" not in llama.model.__dict__
