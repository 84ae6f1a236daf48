"""One set of weights, two models: the adapter is off for the base and on for the reasoning model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adapter_zoo import with_and_without
from oracles import difference_of_means, edited_logits, hidden_by_layer
from steerkit_plugins.extractors.offset_window import OffsetWindow
from steerkit_plugins.fitters.dom import DifferenceOfMeans
from steerkit_plugins.steerers.residual_add import ResidualAdd
from tiny import LABELS, build, word_tokenizer, wrap_with_lora

from steerkit.errors import SteerkitError
from steerkit.extraction.extract import extract
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interventions.steering import Edit, Steering
from steerkit.models.language_model import LanguageModel
from steerkit.models.models import Models, load_models

WINDOW = (-4, -1)
PROMPT = [5, 9, 12, 33, 7]
ADD = ResidualAdd()


@pytest.fixture(scope="module")
def pair() -> Models:
    lora = wrap_with_lora()
    plain = LanguageModel("llama", lora.model, lora.tokenizer, adapter=False)
    return load_models({"base": plain, "reasoning": lora}, writer="reasoning")


@pytest.fixture(scope="module")
def merged() -> LanguageModel:
    """The same weights with the adapter merged in: an ordinary Llama."""
    return LanguageModel("merged", wrap_with_lora().model.merge_and_unload(), word_tokenizer())


def vector(lm, items, **options):
    found = extract(lm, items, OffsetWindow(windows=(WINDOW,)), LABELS, batch_tokens=1)
    directions = DifferenceOfMeans(label="backtracking", window=WINDOW).fit(found.at(WINDOW))
    return np.stack([directions[layer].numpy() for layer in sorted(directions)])


def test_each_role_is_extracted_as_itself(pair, merged, items) -> None:
    for lm, plain in ((pair["base"], build("llama")), (pair["reasoning"], merged)):
        states = [hidden_by_layer(plain.model, item.ids) for item in items]
        expected = difference_of_means(items, states, "backtracking", WINDOW)
        np.testing.assert_allclose(vector(lm, items), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert np.abs(vector(pair["base"], items) - vector(pair["reasoning"], items)).max() > 1e-2


def test_each_role_generates_as_itself(pair, merged, direction) -> None:
    for edit in (None, Edit(ADD, 1, 4.0, direction)):
        row = [GenerationRow(PROMPT, 3, (edit,) if edit else ())]
        texts = [
            generate(lm, row, max_new_tokens=16, temperature=1.0)[0].ids
            for lm in (pair["base"], build("llama"), pair["reasoning"], merged)
        ]
        assert texts[0] == texts[1]
        assert texts[2] == texts[3]
        assert texts[0] != texts[2]


def test_with_a_steerer_around_the_bare_model(pair, merged, direction) -> None:
    ids = torch.tensor([PROMPT])
    for lm, plain in ((pair["base"], build("llama")), (pair["reasoning"], merged)):
        with torch.no_grad(), Steering(lm, Edit(ADD, 1, 4.0, direction)):
            found = lm.model(input_ids=ids).logits
        expected = edited_logits(plain.model, ids, 1, lambda h: h + 4.0 * direction)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_the_adapter_is_on_again_after_the_base_ran(pair, items) -> None:
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        before = pair["reasoning"].model(input_ids=ids).logits
        extract(pair["base"], items, OffsetWindow(windows=(WINDOW,)), LABELS)
        generate(pair["base"], [GenerationRow(PROMPT, 0)], max_new_tokens=3, temperature=0)
        with pytest.raises(ZeroDivisionError), Steering(pair["base"], [None]):
            raise ZeroDivisionError
        assert torch.equal(pair["reasoning"].model(input_ids=ids).logits, before)


def test_the_base_stays_the_base_after_a_run_inside_the_block(pair, direction) -> None:
    ids = torch.tensor([PROMPT])
    with torch.no_grad(), Steering(pair["base"], Edit(ADD, 1, 4.0, direction)):
        before = pair["base"].model(input_ids=ids).logits
        with Steering(pair["base"], [None]):
            pair["base"].model(input_ids=ids)
        _ = LanguageModel("again", pair["base"].model, None).fingerprint
        assert torch.equal(pair["base"].model(input_ids=ids).logits, before)


def test_fingerprints_tell_the_roles_apart_and_know_the_base_again(pair) -> None:
    assert pair["base"].fingerprint == build("llama").fingerprint
    assert pair["base"].fingerprint != pair["reasoning"].fingerprint
    assert not pair.same("base", "reasoning")
    assert wrap_with_lora().fingerprint == pair["reasoning"].fingerprint


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21's
def test_a_model_and_an_adapter_on_it_load_the_weights_once(tmp_path) -> None:
    build("llama").model.save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    wrap_with_lora().model.save_pretrained(tmp_path / "adapter")
    pair = with_and_without(str(tmp_path / "base"), str(tmp_path / "adapter"))
    assert pair["base"].model is pair["reasoning"].model
    assert (pair["base"].adapter, pair["reasoning"].adapter) == (False, True)
    assert pair["reasoning"].fingerprint == wrap_with_lora().fingerprint
    assert pair["base"].fingerprint == build("llama").fingerprint


def test_adapter_errors_in_words(tmp_path) -> None:
    build("llama").model.save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    with pytest.raises(SteerkitError, match="nowhere: the model can't be loaded"):
        with_and_without(str(tmp_path / "base"), str(tmp_path / "nowhere"))
