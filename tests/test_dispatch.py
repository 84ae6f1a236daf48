"""Under accelerate's dispatch, with blocks on the CPU and on the disk, everything gives the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from steerkit_plugins.extractors.offset_window import OffsetWindow
from steerkit_plugins.steerers.gaussian_noise import GaussianNoise
from steerkit_plugins.steerers.residual_add import ResidualAdd
from tiny import LABELS, build, tiny

from steerkit.extraction.extract import extract
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interventions.steering import Edit, Steering
from steerkit.models.language_model import LanguageModel
from steerkit.stats.noise import key_of

PROMPTS = [[5, 9, 12, 33, 7], [9, 14]]


@pytest.fixture(scope="module")
def dispatched(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """Embeddings and two blocks on the CPU, the steered block, another one and the head on the disk."""
    from accelerate import dispatch_model

    lm = build("llama")
    folder: Path = tmp_path_factory.mktemp("offload")
    places = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "cpu",
        "model.layers.3": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "disk",
    }
    model = dispatch_model(lm.model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)
    return LanguageModel("dispatched", model, lm.tokenizer)


def test_offloaded_parameters_really_are_elsewhere(dispatched) -> None:
    assert {p.device.type for p in dispatched.blocks[1].parameters()} == {"meta"}
    assert dispatched.device == torch.device("cpu")


@pytest.mark.parametrize("layer", [0, 1])
def test_steered_logits(dispatched, direction, layer) -> None:
    found = []
    for lm in (dispatched, tiny("llama")):
        with torch.no_grad(), Steering(lm, Edit(ResidualAdd(), layer, 4.0, direction)):
            found.append(lm.model(input_ids=torch.tensor([PROMPTS[0]])).logits)
    assert torch.equal(*found)


def test_steered_generation(dispatched, direction) -> None:
    rows = [
        GenerationRow(p, key_of(p), (e,) if e else ())
        for p in PROMPTS
        for e in (None, Edit(ResidualAdd(), 1, 4.0, direction), Edit(GaussianNoise(), 3, 4.0, key=5))
    ]
    texts = [
        [r.ids for r in generate(lm, rows, max_new_tokens=12, temperature=1.0)] for lm in (dispatched, tiny("llama"))
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("layers", [None, [1]])
def test_extraction(dispatched, items, layers) -> None:
    window = (-4, -1)
    found = [
        extract(lm, items, OffsetWindow(windows=(window,)), LABELS, layers=layers).at(window)
        for lm in (dispatched, tiny("llama"), dispatched)
    ]
    assert torch.equal(found[0].sums, found[1].sums)
    assert torch.equal(found[0].sums, found[2].sums)
