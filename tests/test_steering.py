"""Steering with a Steerer equals an own hook that adds by hand, for every architecture and block."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from oracles import edited_logits
from steerkit_plugins.steerers.residual_add import ResidualAdd
from tiny import build

from steerkit.errors import SteerkitError
from steerkit.interventions.steering import Edit, Steering
from steerkit.vectors.info import VectorInfo
from steerkit.vectors.steer import steer
from steerkit.vectors.steering_vector import SteeringVector

IDS = torch.tensor([[5, 9, 12, 33, 7, 21, 40]])
ADD = ResidualAdd()


def logits(lm, edits, ids=IDS, **options) -> torch.Tensor:
    with torch.no_grad(), Steering(lm, edits):
        return lm.model(input_ids=ids, **options).logits


def plain(lm, ids=IDS, **options) -> torch.Tensor:
    with torch.no_grad():
        return lm.model(input_ids=ids, **options).logits


def vector_of(lm, direction, **info) -> SteeringVector:
    known = {"method": "dom", "label": "backtracking", "window": (-13, -8), "depth": lm.depth, **info}
    return SteeringVector(dict.fromkeys(range(lm.depth), 3 * direction), VectorInfo(**known))


def test_equals_adding_by_hand_at_every_block(lm, direction) -> None:
    for layer in range(lm.depth):
        found = logits(lm, Edit(ADD, layer, 4.0, direction))
        expected = edited_logits(lm.model, IDS, layer, lambda h: h + 4.0 * direction)
        assert torch.equal(found, expected)
        assert (found - plain(lm)).abs().max() > 1e-3


def test_equals_a_pre_hook_on_the_next_block(lm, direction) -> None:
    def add(module, args, kwargs):
        if args:
            return (args[0] + 4.0 * direction, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + 4.0 * direction}

    handle = lm.blocks[1].register_forward_pre_hook(add, with_kwargs=True)
    expected = plain(lm)
    handle.remove()
    assert torch.equal(logits(lm, Edit(ADD, 0, 4.0, direction)), expected)


def test_the_call_form_uses_the_vectors_unit_and_scale(llama, direction) -> None:
    for scale, length in (("unit", 1.0), ("raw", 3.0)):
        vector = vector_of(llama, direction, scale=scale)
        with torch.no_grad(), steer(llama, vector, 5.0, layer=2) as steering:
            found = llama.model(input_ids=IDS).logits
        expected = edited_logits(llama.model, IDS, 2, lambda h, by=5 * length: h + by * direction)
        torch.testing.assert_close(found, expected)
        assert steering.steered == IDS.numel()


def test_norm_scales_read_the_vectors_norms(llama, direction) -> None:
    for scale, length in (("mean-norm", 7.0), ("residual-norm", 11.0)):
        info = vector_of(llama, direction, scale=scale).info
        vector = SteeringVector({1: 3 * direction}, info, norms={1: (7.0, 11.0)})
        with torch.no_grad(), steer(llama, vector, 0.5):
            found = llama.model(input_ids=IDS).logits
        expected = edited_logits(llama.model, IDS, 1, lambda h, by=0.5 * length: h + by * direction)
        torch.testing.assert_close(found, expected)


def test_strength_zero_leaves_logits_bit_for_bit(lm, direction) -> None:
    assert torch.equal(logits(lm, Edit(ADD, 1, 0.0, direction)), plain(lm))
    mixed = logits(lm, [Edit(ADD, 1, 9.0, direction), Edit(ADD, 1, 0.0, direction), None], IDS.expand(3, -1))
    unsteered = plain(lm, IDS.expand(3, -1))
    assert torch.equal(mixed[1:], unsteered[1:])
    assert not torch.equal(mixed[0], unsteered[0])


def test_plus_v_then_minus_v_is_where_it_began(lm, direction) -> None:
    with Steering(lm, Edit(ADD, 1, 3.0, direction)):
        back = logits(lm, Edit(ADD, 1, -3.0, direction))
    torch.testing.assert_close(back, plain(lm), rtol=1e-4, atol=1e-4)
    assert (logits(lm, Edit(ADD, 1, -3.0, direction)) - plain(lm)).abs().max() > 1e-2


def test_two_steerings_at_two_blocks_add_up(llama, direction) -> None:
    with Steering(llama, Edit(ADD, 0, 3.0, direction)):
        both = logits(llama, Edit(ADD, 2, 2.0, direction))
        expected = edited_logits(llama.model, IDS, 2, lambda h: h + 2.0 * direction)
    assert torch.equal(both, expected)


def test_the_callers_vector_is_never_changed(llama, direction) -> None:
    before = direction.clone()
    vector = vector_of(llama, direction)
    directions = {layer: value.clone() for layer, value in vector.directions.items()}
    logits(llama, Edit(ADD, 1, 3.0, direction))
    with steer(llama, vector, 3.0, layer=0):
        plain(llama)
    assert torch.equal(direction, before)
    assert all(torch.equal(vector.directions[layer], value) for layer, value in directions.items())
    direction.zero_()
    assert vector.norm(0, "raw") == pytest.approx(3.0)


def test_hooks_are_gone_after_the_block_and_after_an_exception(direction) -> None:
    lm = build("llama")

    def count() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())

    with pytest.raises(KeyError), Steering(lm, Edit(ADD, 1, 3.0, direction)):
        assert count() == 2
        raise KeyError
    assert count() == 0
    unsteered = plain(lm)
    with pytest.raises(IndexError), Steering(lm, Edit(ADD, 1, 3.0, direction)):
        lm.model(input_ids=torch.tensor([[999]]))
    assert count() == 0
    assert torch.equal(plain(lm), unsteered)


def test_an_object_can_be_used_again(llama, direction) -> None:
    steering = Steering(llama, [Edit(ADD, 1, 3.0, direction), None])
    pair = IDS.expand(2, -1)
    with torch.no_grad(), steering:
        first = llama.model(input_ids=pair).logits
        steering.assign([None], "prompt")
        llama.model(input_ids=IDS)
    with torch.no_grad(), steering:
        again = llama.model(input_ids=pair).logits
    assert torch.equal(first, again)
    assert steering.steered == IDS.numel()


def test_a_run_that_steers_nothing_is_an_error(llama, direction) -> None:
    message = (
        "changed no position at block 1 in 1 forward passes of llama: with tokens: generated nothing was generated"
    )
    with pytest.raises(SteerkitError, match=message):
        logits(llama, Edit(ADD, 1, 3.0, direction, tokens="generated"))
    message = "no forward pass of llama ran its hooks inside the `with`"
    with pytest.raises(SteerkitError, match=message), Steering(llama, Edit(ADD, 1, 3.0, direction)):
        pass
    with Steering(llama, Edit(ADD, 1, 0.0, direction)):
        pass  # nothing was asked for


def test_the_error_does_not_hide_another(llama, direction) -> None:
    with pytest.raises(ZeroDivisionError), Steering(llama, Edit(ADD, 1, 3.0, direction, tokens="generated")):
        plain(llama)
        raise ZeroDivisionError


def test_errors_in_words(llama, direction) -> None:
    vector = vector_of(llama, direction)
    with pytest.raises(SteerkitError, match="layer: 4 is not a block of llama: it has 4, numbered 0 to 3"):
        Steering(llama, Edit(ADD, 4, 1.0, direction))
    with pytest.raises(SteerkitError, match="layer: 9 is not a block of llama"):
        steer(llama, vector, 1.0, layer=9)
    with pytest.raises(SteerkitError, match="name a layer: this vector has 0, 1, 2, 3"):
        steer(llama, vector, 1.0)
    narrow = SteeringVector({1: torch.ones(12)}, vector.info)
    with pytest.raises(SteerkitError, match="the vector has width 12, llama has 16: made for another model"):
        steer(llama, narrow, 1.0, steerer=ADD)
    deep = SteeringVector({1: direction}, replace(vector.info, depth=32))
    with pytest.raises(SteerkitError, match="made on a model of 32 blocks, llama has 4: made for another model"):
        steer(llama, deep, 1.0, steerer=ADD)
    with pytest.raises(SteerkitError, match=r"a direction of width \(12,\) on hidden states of 16"):
        logits(llama, Edit(ADD, 1, 1.0, torch.ones(12)))
    with pytest.raises(SteerkitError, match="2 rows came, edits were given for 3"):
        logits(llama, [Edit(ADD, 1, 1.0, direction)] * 3, IDS.expand(2, -1))


def test_bfloat16_models_take_float32_vectors(direction) -> None:
    lm = build("llama")
    lm.model.to(torch.bfloat16)
    found = logits(lm, Edit(ADD, 1, 4.0, direction))
    low = torch.tensor(4.0, dtype=torch.bfloat16) * direction.to(torch.bfloat16)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, edited_logits(lm.model, IDS, 1, lambda h: h + low))
