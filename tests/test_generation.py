"""steerkit's own decode loop: HF's greedy tokens, rows that leave early, paired noise, margins."""

from __future__ import annotations

import pytest
import torch
from oracles import edited_logits
from steerkit_plugins.steerers.residual_add import ResidualAdd
from tiny import ARCHITECTURES, EOS, build, tiny

from steerkit.errors import SteerkitError
from steerkit.generation.stream import GenerationRow, end_ids, generate
from steerkit.interventions.steering import Edit, Steering
from steerkit.stats.noise import gumbel, key_of

ADD = ResidualAdd()
PROMPTS = [[5, 9, 12, 33, 7], [9, 14], [22, 8, 30, 11], [40, 41, 42], [17]]
NEW = 24


def ends_early(lm, prompts, new):
    """A copy of the model that often chooses the end token, at different steps for different rows."""
    changed = build(lm.name)
    with torch.no_grad():
        head = changed.model.get_output_embeddings().weight
        head[EOS] = head.abs().mean() * torch.randn(head.shape[1], generator=torch.Generator().manual_seed(5)) * 6
    return changed


@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_hf_generate(architecture: str, steered: bool, direction) -> None:
    lm = ends_early(tiny(architecture), PROMPTS, NEW)
    edits = (Edit(ADD, 1, 4.0, direction),) if steered else ()
    found = generate(lm, [GenerationRow(p, 0, edits) for p in PROMPTS], max_new_tokens=NEW, temperature=0)
    for prompt, row in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        with Steering(lm, edits):
            whole = lm.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=EOS,
            )[0, len(prompt) :].tolist()
        assert row.finished == (EOS in whole)
        assert row.ids == whole[: whole.index(EOS)] if EOS in whole else whole


def test_some_rows_end_early_and_some_do_not() -> None:
    """So that the tests around see rows that leave."""
    ended, lengths = set(), set()
    for architecture in ARCHITECTURES:
        lm = ends_early(tiny(architecture), PROMPTS, NEW)
        rows = [GenerationRow(p, key_of(i)) for i, p in enumerate(PROMPTS)]
        for temperature in (0, 1):
            for row in generate(lm, rows, max_new_tokens=NEW, temperature=temperature):
                ended.add(row.finished)
                lengths.add(len(row.ids))
    assert ended == {True, False}
    assert len(lengths) > 5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sampled_rows_equal_the_same_row_alone(architecture: str, direction) -> None:
    lm = ends_early(tiny(architecture), PROMPTS, NEW)
    rows = [GenerationRow(p, key_of(i), (Edit(ADD, 1, float(i), direction),)) for i, p in enumerate(PROMPTS * 2)]
    together = generate(lm, rows, max_new_tokens=NEW, temperature=1.2)
    shuffled = generate(lm, rows[::-1], max_new_tokens=NEW, temperature=1.2)[::-1]
    alone = [generate(lm, [row], max_new_tokens=NEW, temperature=1.2)[0] for row in rows]
    assert [t.ids for t in together] == [a.ids for a in alone] == [s.ids for s in shuffled]


def test_sampling_by_hand(llama) -> None:
    """argmax(logits / T + noise(key, step)), over the whole sequence without a cache."""
    key, ids = key_of(0, "prompt"), list(PROMPTS[0])
    for step in range(10):
        last = edited_logits(llama.model, torch.tensor([ids]), 0, lambda h: h)[0, -1]
        noise = gumbel(torch.tensor(key), torch.tensor(step), stream=0x67656E, size=len(last))
        ids.append(int((last / 0.7 + noise).argmax()))
    row = generate(llama, [GenerationRow(PROMPTS[0], key)], max_new_tokens=10, temperature=0.7)[0]
    assert EOS not in ids
    assert row.ids == ids[len(PROMPTS[0]) :]


def test_the_same_key_gives_the_same_draws_in_every_condition(llama, direction) -> None:
    """Steered and unsteered rows of a prompt are paired: a vanishing edit changes no token."""
    rows = [GenerationRow(PROMPTS[0], key_of(1), edits) for edits in ((), (Edit(ADD, 1, 1e-7, direction),))]
    one, other = generate(llama, rows, max_new_tokens=NEW, temperature=1.0)
    assert one.ids == other.ids
    another = generate(llama, [GenerationRow(PROMPTS[0], key_of(2))], max_new_tokens=NEW, temperature=1.0)[0]
    assert another.ids != one.ids


def test_sampled_frequencies_follow_the_softmax(llama) -> None:
    from scipy.stats import chisquare

    count, temperature = 4000, 1.5
    rows = [GenerationRow(PROMPTS[1], key_of("seed", i)) for i in range(count)]
    found = generate(llama, rows, max_new_tokens=1, temperature=temperature)
    drawn = torch.tensor([row.ids[0] if row.ids else EOS for row in found])
    logits = edited_logits(llama.model, torch.tensor([PROMPTS[1]]), 0, lambda h: h)[0, -1]
    expected = count * (logits.double() / temperature).softmax(-1)
    seen = torch.bincount(drawn, minlength=len(expected)).double()
    big = expected >= 5
    merged = [torch.cat([x[big], x[~big].sum()[None]])[: big.sum() + (~big).any()] for x in (seen, expected)]
    assert big.sum() >= 10
    assert chisquare(merged[0].numpy(), merged[1].numpy()).pvalue > 1e-3


def test_margins_are_the_lead_of_each_decision(llama) -> None:
    row = generate(llama, [GenerationRow(PROMPTS[0], 0)], max_new_tokens=3, temperature=0, margins=True)[0]
    ids = list(PROMPTS[0])
    for token, margin in zip(row.ids, row.margins, strict=True):
        last = edited_logits(llama.model, torch.tensor([ids]), 0, lambda h: h)[0, -1]
        top = last.topk(2).values
        assert margin == pytest.approx(float(top[0] - top[1]), abs=1e-4)
        ids.append(token)
    assert generate(llama, [GenerationRow(PROMPTS[0], 0)], max_new_tokens=3, temperature=0)[0].margins == []


def test_the_models_own_generation_config_does_not_leak_in(llama) -> None:
    lm = build("llama")
    expected = generate(lm, [GenerationRow(PROMPTS[0], 5)], max_new_tokens=NEW, temperature=1.0)[0].ids
    lm.model.generation_config.update(do_sample=True, top_k=1, temperature=0.1, repetition_penalty=5.0, max_length=3)
    assert generate(lm, [GenerationRow(PROMPTS[0], 5)], max_new_tokens=NEW, temperature=1.0)[0].ids == expected


def test_end_tokens_of_the_generation_config_and_the_tokenizer() -> None:
    lm = build("llama")
    lm.model.generation_config.eos_token_id = [7, 12]
    assert end_ids(lm) == [EOS, 7, 12]
    found = generate(lm, [GenerationRow(PROMPTS[0], i) for i in range(40)], max_new_tokens=60, temperature=2.0)
    assert not any({EOS, 7, 12} & set(row.ids) for row in found)
    assert any(row.finished for row in found)


def test_no_position_steered_is_an_error_unless_the_steered_rows_ended_at_once(direction) -> None:
    lm = build("llama")
    edit = Edit(ADD, 1, 3.0, direction, tokens="generated")
    with pytest.raises(SteerkitError, match="steering changed no position at block 1 in 1 forward pass"):
        generate(lm, [GenerationRow(PROMPTS[0], 0, (edit,))], max_new_tokens=1, temperature=0)
    first = generate(lm, [GenerationRow(PROMPTS[0], 0)], max_new_tokens=1, temperature=0)[0].ids[0]
    lm.model.generation_config.eos_token_id = first  # now this prompt's answer is empty
    rows = [GenerationRow(PROMPTS[0], 0, (edit,))]
    assert [r.ids for r in generate(lm, rows, max_new_tokens=5, temperature=0)] == [[]]
    others = [p for p in PROMPTS[1:] if generate(lm, [GenerationRow(p, 0)], max_new_tokens=5, temperature=0)[0].ids]
    rows += [GenerationRow(others[0], 0)]  # unsteered, and it has a text
    assert [bool(r.ids) for r in generate(lm, rows, max_new_tokens=5, temperature=0)] == [False, True]


def test_no_rows(llama) -> None:
    assert generate(llama, [], max_new_tokens=5, temperature=0) == []
