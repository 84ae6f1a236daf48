"""A base/reasoning pair: ids compared, differences named, id_map accepted and used."""

from __future__ import annotations

import pytest
import torch
from steerkit.models.pair import ModelPair, load_pair
from tiny import VOCABULARY, build, tiny, word_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel

THINK = ("<think>", "</think>")


@pytest.fixture(scope="module")
def base() -> LanguageModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def reasoning() -> LanguageModel:
    """Two special tokens more than the base's tokenizer knows."""
    return LanguageModel("thinker", build("llama", 1).model, word_tokenizer(THINK))


def test_differing_ids_are_refused_and_the_first_named(base, reasoning) -> None:
    with pytest.raises(SteerkitError) as caught:
        ModelPair(base, reasoning)
    first = VOCABULARY + 1
    text = str(caught.value)
    assert "the pair's tokenizers disagree on 2 ids not in id_map; the first:" in text
    assert f"id {first}: '<think>' in thinker, None in llama" in text
    assert "under `id_map:` in the recipe" in text


def test_only_the_first_five_of_many_are_shown(base) -> None:
    many = LanguageModel("many", build("llama", 1).model, word_tokenizer(tuple(f"x{i}" for i in range(9))))
    with pytest.raises(SteerkitError, match="disagree on 9 ids") as caught:
        ModelPair(base, many)
    assert str(caught.value).count("  id ") == 5


def test_id_map_is_accepted_and_used(base, reasoning) -> None:
    first = VOCABULARY + 1
    with pytest.raises(SteerkitError, match="disagree on 1 ids"):
        ModelPair(base, reasoning, {first: 6})
    pair = ModelPair(base, reasoning, {first: 6, first + 1: 7})
    ids = [2, first, 9, first + 1]
    assert pair.ids_for("base", ids) == [2, 6, 9, 7]
    assert pair.ids_for("reasoning", ids) == ids
    assert ids == [2, first, 9, first + 1]
    assert (pair["base"], pair["reasoning"]) == (base, reasoning)


def test_an_id_map_to_an_id_that_the_base_lacks(base, reasoning) -> None:
    first = VOCABULARY + 1
    with pytest.raises(SteerkitError, match=rf"id_map: {first + 1} is mapped to 900, .* has no such id"):
        ModelPair(base, reasoning, {first: 6, first + 1: 900})


def test_models_of_other_shapes_are_no_pair(base) -> None:
    config = LlamaConfig(**{**base.model.config.to_dict(), "num_hidden_layers": 2})
    small = LanguageModel("small", AutoModelForCausalLM.from_config(config), base.tokenizer)
    with pytest.raises(SteerkitError, match="not a pair: llama is 4 blocks × 16, small is 2 × 16"):
        ModelPair(base, small)


def test_one_model_may_be_both(base) -> None:
    assert ModelPair(base, base).same
    assert ModelPair(base, LanguageModel("copy", build("llama").model, base.tokenizer)).same
    assert not ModelPair(base, LanguageModel("other", build("llama", 1).model, base.tokenizer)).same
    assert load_pair(base, base).same


def test_load_pair_from_folders(tmp_path, base) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        build("llama", seed).model.save_pretrained(tmp_path / name)
        word_tokenizer().save_pretrained(tmp_path / name)
    pair = load_pair(str(tmp_path / "a"), str(tmp_path / "b"))
    assert not pair.same
    assert pair.base.fingerprint == base.fingerprint
    ids = torch.tensor([[5, 9]])
    with torch.no_grad():
        torch.testing.assert_close(pair.base.model(input_ids=ids).logits, base.model(input_ids=ids).logits)
