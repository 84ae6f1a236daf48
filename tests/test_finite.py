"""Values that are not finite end a row, and are traced to their block; the other rows are as they would be alone."""

from __future__ import annotations

import pytest
import torch
from steerkit_plugins.steerers.residual_add import ResidualAdd
from tiny import build, tiny

from steerkit import registry
from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.generation.likelihood import ScoredText, log_likelihoods
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interfaces import EditContext, Intervention
from steerkit.interventions.steering import Edit, Steering
from steerkit.vectors.lens import LogitLens

ADD = ResidualAdd()
PROMPTS = [[5, 9, 12, 33, 7], [9, 14], [22, 8, 30, 11], [40, 41, 42], [17]]
NEW = 12


def with_a_nan(architecture="llama", layer=2):
    lm = build(architecture)
    with torch.no_grad():
        next(iter(lm.blocks[layer].parameters()))[0] = float("nan")
    return lm


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_an_unsteered_row_that_breaks_is_an_error(temperature) -> None:
    message = (
        r"llama: row 0 \(unsteered\): not finite in the output of block 2, at generated token 0. Its weights hold NaN"
    )
    with pytest.raises(SteerkitError, match=message):
        generate(with_a_nan(), [GenerationRow(p, 1) for p in PROMPTS], max_new_tokens=NEW, temperature=temperature)


@pytest.mark.parametrize(("size", "norm"), [(None, 1e20), (2, 3e38), (2, 1e20), (1, 1e20)])
@pytest.mark.parametrize("tokens", ["all", "generated"])
def test_a_strength_that_breaks_its_rows_leaves_the_others_alone(llama, direction, tokens, size, norm) -> None:
    """Also those that take over a broken row's line, whose cache held NaN. 1e20 is finite, and its square is not."""
    edits = [None, Edit(ADD, 1, 4.0, direction, tokens), Edit(ADD, 2, norm, direction, tokens)]
    rows = [GenerationRow(p, i, (edit,) if edit else ()) for i, p in enumerate(PROMPTS) for edit in edits]
    found = generate(llama, rows, max_new_tokens=NEW, temperature=0.7, batch_size=size)
    sound = [row for row in rows if edits[2] not in row.edits]
    expected = generate(llama, sound, max_new_tokens=NEW, temperature=0.7, batch_size=size)
    assert [text for text, row in zip(found, rows, strict=True) if edits[2] not in row.edits] == expected
    broken = [text for text, row in zip(found, rows, strict=True) if edits[2] in row.edits]
    before = 0 if tokens == "all" else 1  # the prompt alone gives the first token
    told = f"not finite in the output of block 2, where {norm:g} is added, at generated token {before}"
    assert [(text.broken, text.finished, len(text.ids)) for text in broken] == [(told, False, before)] * len(PROMPTS)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "gemma2"])
def test_a_strength_of_1e20_breaks_under_every_norm(architecture, direction) -> None:
    [text] = generate(
        tiny(architecture),
        [GenerationRow(PROMPTS[0], 1, (Edit(ADD, 1, 1e20, direction),))],
        max_new_tokens=4,
        temperature=0,
    )
    assert text.broken == "not finite in the output of block 1, where 1e+20 is added, at generated token 0"


def test_hf_generate_with_such_a_strength_is_an_error(llama, direction) -> None:
    message = "llama: the steered output of block 1 is not finite, or its squares overflow; up to 1e[+]20 is added"
    ids = torch.tensor([PROMPTS[0]])
    with pytest.raises(SteerkitError, match=message), Steering(llama, Edit(ADD, 1, 1e20, direction)):
        llama.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)


def test_half_precision_that_overflows_is_an_error() -> None:
    lm = build("llama")
    lm.model.half()
    with torch.no_grad():
        lm.blocks[1].mlp.down_proj.weight.mul_(1e4)
    with pytest.raises(SteerkitError, match=r"in the output of block 1.*load the model in float32 or bfloat16"):
        generate(lm, [GenerationRow(PROMPTS[0], 1)], max_new_tokens=NEW, temperature=0)


def test_a_head_with_a_nan_is_told_from_the_blocks() -> None:
    lm = build("llama")
    with torch.no_grad():
        lm.model.lm_head.weight[3] = float("inf")
    with pytest.raises(SteerkitError, match=r"not finite behind the last block \(final norm or LM head\)"):
        generate(lm, [GenerationRow(PROMPTS[0], 1)], max_new_tokens=NEW, temperature=0.7)


def test_a_masked_logit_is_no_break(llama) -> None:
    """-inf beside finite logits is how models and filters rule a token out."""

    def rule_out(module, args, output):
        return output.index_fill(-1, torch.tensor([3, 8]), float("-inf"))

    handle = llama.model.lm_head.register_forward_hook(rule_out)
    try:
        [text] = generate(llama, [GenerationRow(PROMPTS[0], 1)], max_new_tokens=NEW, temperature=0.7)
    finally:
        handle.remove()
    assert not text.broken
    assert not {3, 8} & set(text.ids)


def test_likelihoods_and_logits_that_are_not_finite_are_errors() -> None:
    texts = [ScoredText([5, 9], [12, 7])]
    with pytest.raises(SteerkitError, match=r"log-likelihood of text 0 is nan.*it breaks in the output of block 2"):
        list(log_likelihoods(with_a_nan(), texts))
    lm = build("llama")
    with torch.no_grad():
        lm.model.lm_head.weight[3] = float("nan")
    with pytest.raises(SteerkitError, match="logits of its unembedding are not finite"):
        LogitLens(lm, ["wait"]).score(torch.ones(16))


OF_ADAPTERS = {"lora-scalar", "sae-latent"}
"""Steerers that read a saved adapter: tests/test_lora_scalar.py and tests/test_sae_latent.py have them."""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", sorted(set(registry.entries("steerers")) - OF_ADAPTERS))
def test_every_steerer_at_large_activations(name, dtype) -> None:
    """Elements of 2,000 and a norm of 45, as Gemma's; against the same edit in float64, to the dtype's precision."""
    steerer = registry.get("steerers", name)()
    hidden = 50 * torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    hidden[0, 0, 5], hidden[1, 2, 9] = 2000, -2000
    direction = torch.nn.functional.normalize(torch.arange(1.0, 65, dtype=torch.float64), dim=0)

    def edited(kind: torch.dtype) -> torch.Tensor:
        at = EditContext(
            Site(1),
            torch.full((2, 1, 1), 45.0, dtype=kind),
            direction.to(kind).expand(2, 1, 64),
            torch.arange(3).expand(2, 3),
            torch.tensor([7, 8]),
        )
        x = hidden.to(kind)
        if type(steerer).forward is Intervention.forward:  # it changes gradients alone
            return steerer.backward(x, x, at).double()
        return steerer.forward(x, at).double()

    found, expected = edited(dtype), edited(torch.float64)
    assert found.isfinite().all()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found, expected, rtol=4 * eps, atol=4 * eps * 45)


def test_the_shared_models_are_whole() -> None:
    """So that the tests above see the faults that they made themselves."""
    assert not generate(tiny("llama"), [GenerationRow(PROMPTS[0], 1)], max_new_tokens=NEW, temperature=0)[0].broken
