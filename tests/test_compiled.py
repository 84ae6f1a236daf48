"""Models that were compiled before a hook came: the hook takes effect all the same, or its absence is an error."""

from __future__ import annotations

import logging

import pytest
import torch
from steerkit_plugins.extractors.offset_window import OffsetWindow
from steerkit_plugins.steerers.residual_add import ResidualAdd
from test_steering_tokens import PROMPT, greedy_by_hand, hf_generate
from tiny import build, random_items

from steerkit.errors import SteerkitError
from steerkit.extraction.extract import extract
from steerkit.interventions.steering import Edit, Steering

ADD = ResidualAdd()
IDS = torch.tensor([PROMPT])
WAYS = ["forward", "compile()", "torch.compile(model)", "decoder", "blocks", "blocks.compile()"]


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(lm, way):
    """What is called in place of the model; it ran once, so that there is a graph without hooks."""
    model = call = lm.model
    if way == "forward":
        model.forward = torch.compile(model.forward, backend="eager")
    elif way == "compile()":
        model.compile(backend="eager")
    elif way == "torch.compile(model)":
        call = torch.compile(model, backend="eager")
    elif way == "decoder":
        lm.decoder.forward = torch.compile(lm.decoder.forward, backend="eager")
    for block in lm.blocks if way.startswith("blocks") else ():
        if way == "blocks":
            block.forward = torch.compile(block.forward, backend="eager")
        else:
            block.compile(backend="eager")
    with torch.no_grad():
        call(IDS)
    return call


@pytest.mark.parametrize("way", WAYS)
def test_a_compiled_model_is_steered(direction, way, caplog) -> None:
    lm, plain = build("llama"), build("llama")
    edit = Edit(ADD, 1, 4.0, direction)
    call = compiled(lm, way)
    with torch.no_grad():
        before = call(IDS).logits
        with Steering(plain, edit):
            expected = plain.model(IDS).logits
        with caplog.at_level(logging.INFO, "steerkit"), Steering(lm, edit) as steering:
            found = call(IDS).logits
        after = call(IDS).logits
    assert torch.equal(found, expected)
    assert steering.steered == len(PROMPT)
    assert torch.equal(before, after)  # and the hook did not stay in a graph
    assert ("it runs uncompiled (eagerly) while hooks are on it" in caplog.text) == (way != "torch.compile(model)")


@pytest.mark.parametrize("way", ["forward", "compile()"])
def test_hf_generate_of_a_compiled_model_is_steered(direction, way) -> None:
    lm = build("llama")
    compiled(lm, way)
    with Steering(lm, Edit(ADD, 1, 6.0, direction, "generated")):
        found = hf_generate(lm, IDS)
    assert found == [greedy_by_hand(build("llama"), PROMPT, 1, direction, "generated")]


@pytest.mark.parametrize("way", ["decoder", "blocks", "blocks.compile()"])
def test_a_compiled_model_is_read(way) -> None:
    lm, plain = build("llama"), build("llama")
    compiled(lm, way)
    found, expected = (extract(m, random_items(), OffsetWindow()).at((-13, -8)) for m in (lm, plain))
    assert torch.equal(found.mean("all"), expected.mean("all"))


def test_a_graph_that_hooks_cannot_reach_is_an_error(direction) -> None:
    """Parts inside the blocks are compiled and stay so; a graph around the whole model is then out of reach."""
    lm = build("llama")
    for block in lm.blocks:
        block.mlp.compile(backend="eager")
    call = compiled(lm, "torch.compile(model)")
    message = "steering changed nothing: no forward pass of llama ran its hooks inside the `with`"
    with pytest.raises(SteerkitError, match=message), torch.no_grad(), Steering(lm, Edit(ADD, 1, 4.0, direction)):
        call(IDS)
