"""Which tokens are steered: all, prompt or generated; with and without a cache, with padding on either side."""

from __future__ import annotations

import pytest
import torch
from oracles import edited_logits
from steerkit_plugins.steerers.residual_add import ResidualAdd
from tiny import ARCHITECTURES, EOS, tiny

from steerkit.errors import SteerkitError
from steerkit.interventions.steering import Edit, Steering

ADD = ResidualAdd()
PROMPT = [5, 9, 12, 33, 7]
NEW = 8
STRENGTH = 6.0


def greedy_by_hand(lm, prompt, layer, direction, tokens, new=NEW):
    """Greedy decoding without any cache: the whole sequence again for every token, edited by an own hook."""
    ids = list(prompt)

    def change(hidden: torch.Tensor) -> torch.Tensor:
        place = torch.arange(hidden.shape[1])
        keep = {"all": place >= 0, "prompt": place < len(prompt), "generated": place >= len(prompt)}[tokens]
        return hidden + STRENGTH * keep[None, :, None] * direction

    for _ in range(new):
        ids.append(int(edited_logits(lm.model, torch.tensor([ids]), layer, change)[0, -1].argmax()))
    return ids[len(prompt) :]


def hf_generate(lm, ids, **options):
    options = {"attention_mask": torch.ones_like(ids), "eos_token_id": None, "pad_token_id": 0, **options}
    found = lm.model.generate(ids, max_new_tokens=NEW, do_sample=False, **options)
    return found[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
def test_hf_generate_with_a_cache(lm, direction, tokens) -> None:
    with Steering(lm, Edit(ADD, 1, STRENGTH, direction, tokens)) as steering:
        found = hf_generate(lm, torch.tensor([PROMPT]))
    assert found == [greedy_by_hand(lm, PROMPT, 1, direction, tokens)]
    assert steering.steered == {"all": len(PROMPT) + NEW - 1, "prompt": len(PROMPT), "generated": NEW - 1}[tokens]


def test_the_three_choices_differ() -> None:
    """So that the tests around can fail."""
    direction = torch.randn(16, generator=torch.Generator().manual_seed(7))
    direction /= direction.norm()
    different = 0
    for architecture in ARCHITECTURES:
        lm = tiny(architecture)
        texts = {t: tuple(greedy_by_hand(lm, PROMPT, 1, direction, t)) for t in ("all", "prompt", "generated")}
        different += len(set(texts.values())) == 3
    assert different >= len(ARCHITECTURES) // 2


@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
def test_hf_generate_without_a_cache(lm, direction, tokens) -> None:
    with Steering(lm, Edit(ADD, 1, STRENGTH, direction, tokens)):
        found = hf_generate(lm, torch.tensor([PROMPT]), use_cache=False)
    assert found == [greedy_by_hand(lm, PROMPT, 1, direction, tokens)]


def test_a_second_prompt_in_the_same_block_is_a_prompt_again(llama, direction) -> None:
    prompts = [PROMPT, [9, 8, 7], [9, 8, 30, 11]]
    for cached in (True, False):
        with Steering(llama, Edit(ADD, 1, STRENGTH, direction, "generated")):
            found = [hf_generate(llama, torch.tensor([prompt]), use_cache=cached)[0] for prompt in prompts]
        assert found == [greedy_by_hand(llama, prompt, 1, direction, "generated") for prompt in prompts]


@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
def test_left_padded_rows_equal_single_rows(lm, direction, tokens) -> None:
    prompts = [PROMPT, [9, 14], [22, 8, 30, 11]]
    ids = torch.tensor([[0] * (5 - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (5 - len(p)) + [1] * len(p) for p in prompts])
    with Steering(lm, Edit(ADD, 1, STRENGTH, direction, tokens)) as steering:
        found = hf_generate(lm, ids, attention_mask=mask)
    assert found == [greedy_by_hand(lm, prompt, 1, direction, tokens) for prompt in prompts]
    real = sum(map(len, prompts))
    more = len(prompts) * (NEW - 1)
    assert steering.steered == {"all": real + more, "prompt": real, "generated": more}[tokens]


@pytest.mark.parametrize("tokens", ["all", "prompt"])
def test_right_padding_changes_nothing(lm, direction, tokens) -> None:
    short = [9, 14, 3]
    ids = torch.tensor([PROMPT, short + [0] * 2])
    mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    with torch.no_grad(), Steering(lm, Edit(ADD, 1, STRENGTH, direction, tokens)) as steering:
        found = lm.model(input_ids=ids, attention_mask=mask).logits
        assert steering.steered == 8
    expected = edited_logits(lm.model, torch.tensor([short]), 1, lambda h: h + STRENGTH * direction)
    torch.testing.assert_close(found[1, :3], expected[0], rtol=1e-4, atol=1e-4)


def test_prompt_lengths_tell_a_teacher_forced_text_apart(lm, direction) -> None:
    ids = torch.tensor([[*PROMPT, 4, 8, 15, 16]])
    for tokens, keep in (("prompt", slice(0, 5)), ("generated", slice(5, 9))):
        with torch.no_grad(), Steering(lm, Edit(ADD, 1, STRENGTH, direction, tokens), prompt_lengths=[5]) as steering:
            found = lm.model(input_ids=ids).logits
        added = torch.zeros(1, 9, 16)
        added[:, keep] = STRENGTH * direction
        assert torch.equal(found, edited_logits(lm.model, ids, 1, lambda h, a=added: h + a))
        assert steering.steered == len(range(9)[keep])


def test_a_cache_from_outside_needs_the_prompt_lengths(llama, direction) -> None:
    with torch.no_grad():
        cache = llama.model(input_ids=torch.tensor([PROMPT]), use_cache=True).past_key_values
    step = {"input_ids": torch.tensor([[8]]), "past_key_values": cache}
    message = "tokens: prompt or generated needs the prompt's forward inside the same `with`"
    steering = Steering(llama, Edit(ADD, 1, STRENGTH, direction, "generated"))
    with pytest.raises(SteerkitError, match=message), torch.no_grad(), steering:
        llama.model(**step)


def test_rows_with_different_choices_in_one_batch(llama, direction) -> None:
    kinds = ["all", "prompt", "generated"]
    edits = [Edit(ADD, 1, STRENGTH, direction, tokens) for tokens in kinds]
    with Steering(llama, [*edits, None]):
        found = hf_generate(llama, torch.tensor([PROMPT] * 4))
    expected = [greedy_by_hand(llama, PROMPT, 1, direction, tokens) for tokens in kinds]
    assert found == [*expected, greedy_by_hand(llama, PROMPT, 1, 0 * direction, "all")]


def test_beam_search_with_one_edit_for_all(llama, direction) -> None:
    """Beams multiply the rows; one shared edit follows them."""
    with Steering(llama, Edit(ADD, 1, STRENGTH, direction, "generated")):
        cached = hf_generate(llama, torch.tensor([PROMPT]), num_beams=3)
    with Steering(llama, Edit(ADD, 1, STRENGTH, direction, "generated")):
        plain = hf_generate(llama, torch.tensor([PROMPT]), num_beams=3, use_cache=False)
    assert cached == plain


def test_greedy_stops_at_the_end_token_too(llama, direction) -> None:
    whole = greedy_by_hand(llama, PROMPT, 1, direction, "all")
    with Steering(llama, Edit(ADD, 1, STRENGTH, direction)):
        stopped = hf_generate(llama, torch.tensor([PROMPT]), eos_token_id=[EOS, whole[4]])[0]
    assert stopped == whole[: whole.index(whole[4]) + 1]
