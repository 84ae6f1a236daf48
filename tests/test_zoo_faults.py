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
from steerkit.extraction.extract import extract, read_layer
from steerkit.interventions.steering import Edit, Steering
from steerkit.models.language_model import LanguageModel


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


def test_extract_refuses_a_block_whose_hook_did_not_fire(deaf: LanguageModel) -> None:
    with pytest.raises(SteerkitError, match="block 1 ran without its hooks"):
        extract(deaf, random_items(3), Around(), layers=[0, 1, 2])


def test_read_layer_refuses_a_block_whose_hook_did_not_fire(deaf: LanguageModel) -> None:
    with pytest.raises(SteerkitError, match="block 1 ran without its hooks"):
        list(read_layer(deaf, random_items(1), 1))


def test_steering_refuses_one_row_that_was_not_steered(deaf: LanguageModel) -> None:
    direction = torch.ones(16) / 4
    edits = [Edit(ResidualAdd(), layer, 4.0, direction) for layer in (0, 1)]
    with pytest.raises(SteerkitError, match="block"), torch.no_grad(), Steering(deaf, edits):
        deaf.model(input_ids=torch.tensor([[5, 9, 12]] * 2))
