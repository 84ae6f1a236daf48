"""The vLLM worker's part that needs no vLLM: edits on flattened tokens and (hidden, residual) blocks."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from steerkit_plugins.engines.vllm_worker import EDIT, FlatBatch, FlatSteering, SteeringExtension, blocks_of, split
from steerkit_plugins.steerers.gaussian_noise import GaussianNoise
from steerkit_plugins.steerers.residual_add import ResidualAdd
from steerkit_plugins.steerers.self_amplify import SelfAmplify
from tiny import tiny
from torch import nn

from steerkit.errors import SteerkitError
from steerkit.interventions.steering import Edit, Steering

LAYER = 1


class Block(nn.Module):
    """A block in vLLM's manner: tokens one after another, (hidden, residual) out, or their sum."""

    def __init__(self, given: torch.Tensor, pair: bool) -> None:
        super().__init__()
        self.given, self.pair = given, pair

    def forward(self) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if not self.pair:
            return self.given.clone()
        residual = torch.randn_like(self.given)
        return self.given - residual, residual


class Model(nn.Module):
    def __init__(self, given: torch.Tensor, pair: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(given, pair) for _ in range(LAYER + 1))

    def forward(self) -> list[torch.Tensor]:
        return [hidden if residual is None else hidden + residual for hidden, residual in map(split, self.each())]

    def each(self) -> list[object]:
        return [block() for block in self.layers]


def edits_for(direction: torch.Tensor) -> list[Edit | None]:
    add, noise, own = ResidualAdd(), GaussianNoise(), SelfAmplify()
    return [
        Edit(add, LAYER, 4.0, direction),
        None,
        Edit(add, LAYER, -7.0, direction.roll(1), "prompt", 3),
        Edit(noise, LAYER, 5.0, None, "all", 2**62 + 11),
        Edit(add, LAYER, 9.0, direction, "generated"),
        Edit(own, LAYER, 3.0),
        Edit(noise, LAYER, 2.0, None, "generated", 77),
    ]


@pytest.mark.parametrize("pair", [True, False], ids=["hidden and residual", "hidden"])
def test_a_flat_batch_is_edited_as_the_hook_edits_rows(direction, pair) -> None:
    """Whole sequences through the HF hook, and the same hidden states in uneven pieces through the flat one."""
    lm = tiny("llama")
    edits = edits_for(direction)
    draw = random.Random(0)
    prompts = [draw.randint(2, 6) for _ in edits]
    ids = torch.randint(3, 60, (len(edits), 12))
    seen: dict[str, torch.Tensor] = {}
    before = lm.blocks[LAYER].register_forward_hook(lambda m, a, out: seen.update(plain=out.clone()))
    with torch.inference_mode(), Steering(lm, edits, prompts) as steering:
        after = lm.blocks[LAYER].register_forward_hook(lambda m, a, out: seen.update(steered=out.clone()))
        lm.model(input_ids=ids, use_cache=False)
    before.remove()
    after.remove()

    table = [edit for edit in edits if edit is not None]
    places = np.array([-1 if edit is None else table.index(edit) for edit in edits])
    now: list[FlatBatch] = []
    flat = FlatSteering(table, lambda: now[-1])
    found = torch.empty_like(seen["plain"])
    computed = np.zeros(len(edits), dtype=np.int64)
    while (computed < 12).any():
        order = draw.sample(range(len(edits)), len(edits))
        counts = np.array([min(draw.randint(0, 5), 12 - computed[row]) for row in order])
        now.append(FlatBatch(places[order], counts, computed[order], np.array(prompts)[order]))
        pieces = [seen["plain"][r, computed[r] : computed[r] + n] for r, n in zip(order, counts, strict=True)]
        model = Model(torch.cat([*pieces, torch.full((3, 16), 7.0)]), pair)  # vLLM may pad a batch
        flat.attach(model, dict(enumerate(model.layers)))
        out = model()[LAYER]
        flat.detach()
        assert (out[counts.sum() :] - 7).abs().max() < 1e-5
        for row, piece in zip(order, out[: counts.sum()].split(counts.tolist()), strict=True):
            found[row, computed[row] : computed[row] + len(piece)] = piece
        computed[order] += counts
    torch.testing.assert_close(found, seen["steered"], rtol=0, atol=2e-6)
    assert not torch.allclose(found, seen["plain"], atol=0.1)
    assert flat.counts.sum() == steering.steered
    assert flat.counts.tolist() == [12, prompts[2], 12, 12 - prompts[4], 12, 12 - prompts[6]]


def test_an_unsteered_request_is_untouched_to_the_bit(direction) -> None:
    hidden, residual = torch.randn(5, 16), torch.randn(5, 16)
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Identity()])
    flat = FlatSteering([Edit(ResidualAdd(), 0, 3.0, direction)], lambda: BATCH)
    flat.attach(model, {0: model.layers[0]})
    flat._before(None, None)
    out = flat._block_hook(0)(None, None, (hidden, residual))
    assert torch.equal(out[0][:3], hidden[:3]) and torch.equal(out[1][:3], residual[:3])
    assert torch.equal(out[0][3:] + out[1][3:], hidden[3:] + residual[3:] + 3 * direction)


BATCH = FlatBatch(np.array([-1, 0]), np.array([3, 2]), np.array([0, 4]), np.array([3, 2]))


class Stage(nn.Module):
    """A pipeline stage that has the second of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        missing = type("PPMissingLayer", (nn.Identity,), {})()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([missing, nn.Identity()])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.layers[1](hidden)


class Runner:
    """What the worker extension reads of vLLM's model runner, filled by hand."""

    class Named:
        def __init__(self, **fields: object) -> None:
            self.__dict__.update(fields)

    def __init__(self) -> None:
        self.model = Stage()
        self.model_config = self.Named(hf_text_config=self.Named(num_hidden_layers=2))
        given = {"a": {EDIT: 1}, "b": None, "c": {EDIT: 0}}
        self.requests = {k: self.Named(sampling_params=self.Named(extra_args=v)) for k, v in given.items()}
        self.input_batch = self.Named(
            num_reqs=3,
            req_ids=["c", "a", "b", "gone"],
            num_computed_tokens_cpu=np.array([0, 5, 0, 9], np.int32),
            num_prompt_tokens=np.array([2, 4, 3, 9], np.int32),
        )
        self.query_start_loc = self.Named(np=np.array([0, 2, 3, 6, 6], np.int32))

    def get_model(self) -> nn.Module:
        return self.model


def test_the_worker_extension_registers_edits_steers_and_counts(direction) -> None:
    worker = SteeringExtension()
    worker.model_runner = Runner()
    add = ResidualAdd()
    edits = [Edit(add, 0, 2.0, direction), Edit(add, 1, 3.0, direction)]  # the first one's block is elsewhere
    hidden = torch.randn(6, 16)
    worker.steerkit_begin(pickle.dumps(edits))
    found = worker.model_runner.model(hidden)
    expected = hidden.clone()
    expected[2] += 3 * direction
    assert torch.equal(found, expected)
    assert worker.steerkit_end() == [0, 1]
    assert torch.equal(worker.model_runner.model(hidden), hidden)  # the hooks are gone
    assert worker.steerkit_end() == []


def test_a_direction_of_another_width_is_refused() -> None:
    worker = SteeringExtension()
    worker.model_runner = Runner()
    worker.steerkit_begin(pickle.dumps([Edit(ResidualAdd(), 1, 1.0, torch.ones(8))] * 2))
    with pytest.raises(SteerkitError, match="a direction of width 8 on hidden states of 16"):
        worker.model_runner.model(torch.randn(6, 16))


def test_blocks_that_return_something_else_are_refused() -> None:
    with pytest.raises(SteerkitError, match="return dict, not hidden states"):
        split({})
    with pytest.raises(SteerkitError, match="no list of 3 decoder blocks under layers, h, blocks"):
        blocks_of(Stage(), Runner.Named(num_hidden_layers=3))
