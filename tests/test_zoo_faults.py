"""Faults that the checks and the zoo brought up, each in its smallest form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steerkit_plugins.steerers.residual_add import ResidualAdd
from tiny import random_items
from zoo import breed

from steerkit.checks.averages import Around
from steerkit.errors import SteerkitError
from steerkit.extraction import extract, read_layer
from steerkit.generation import GenerationRow, generate
from steerkit.model import LanguageModel
from steerkit.steering import Edit, Steering


@pytest.fixture
def deaf() -> LanguageModel:
    """A Llama whose block 1 runs no hooks."""
    lm = breed("llama")
    block: Any = lm.blocks[1]

    class Deaf(type(block)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.forward(*args, **kwargs)

    block.__class__ = Deaf
    return lm


@pytest.mark.xfail(reason="rooms of torch.empty stay unwritten", strict=True)
def test_extract_refuses_a_block_whose_hook_did_not_fire(deaf: LanguageModel) -> None:
    with pytest.raises(SteerkitError, match="1"):
        extract(deaf, random_items(3), Around(), layers=[0, 1, 2])


@pytest.mark.xfail(reason="IndexError", raises=IndexError, strict=True)
def test_read_layer_refuses_a_block_whose_hook_did_not_fire(deaf: LanguageModel) -> None:
    with pytest.raises(SteerkitError, match="1"):
        list(read_layer(deaf, random_items(1), 1))


@pytest.mark.xfail(reason="positions are counted over all edits together", strict=True)
def test_steering_refuses_one_row_that_was_not_steered(deaf: LanguageModel) -> None:
    direction = torch.ones(16) / 4
    edits = [Edit(ResidualAdd(), layer, 4.0, direction) for layer in (0, 1)]
    with pytest.raises(SteerkitError, match="block"), torch.no_grad(), Steering(deaf, edits):
        deaf.model(input_ids=torch.tensor([[5, 9, 12]] * 2))


@pytest.mark.xfail(
    reason="their caches have no batch_select_indices", raises=(AttributeError, RuntimeError), strict=True
)
@pytest.mark.parametrize("name", ["lfm2", "jamba", "zamba2", "qwen3_next", "falcon_h1"])
def test_rows_of_a_recurrent_model_leave_the_batch_or_it_is_refused(name: str) -> None:
    lm = breed(name)
    prompts = [[5, 9, 12, 33, 7], [9, 14, 20], [22, 8, 30, 11], [40, 41, 42]]
    rows = [GenerationRow(prompt, 0) for prompt in prompts]
    try:
        plain = [row.ids for row in generate(lm, rows, max_new_tokens=6, temperature=0)]
        lm.model.generation_config.eos_token_id = [ids[1] for ids in plain[:2]]
        together = generate(lm, rows, max_new_tokens=6, temperature=0)
    except SteerkitError as error:
        assert type(lm.model).__name__ in str(error)
        return
    assert [row.ids for row in together] == [
        generate(lm, [row], max_new_tokens=6, temperature=0)[0].ids for row in rows
    ]
