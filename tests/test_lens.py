"""Logit lens: Eq. 2 against plain matrix products, on several architectures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import build
from transformers import LlamaConfig
from vocabularies import llama2

from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel
from steerkit.vectors.lens import LogitLens

KEYWORDS = [3, 4]  # "wait" and "hmm" in the tiny vocabulary


@pytest.mark.parametrize("final_norm", [False, True])
def test_score_is_the_mean_keyword_logit(lm, direction, final_norm: bool) -> None:
    found = LogitLens(lm, ["WAIT", "hmm"], final_norm=final_norm).score(direction)
    given = lm.final_norm(direction[None])[0] if final_norm else direction
    weight = lm.model.get_output_embeddings().weight
    expected = (weight @ given)[KEYWORDS].mean().detach()
    assert found.score == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


def test_a_word_inside_a_token_counts(llama, direction) -> None:
    inside = LogitLens(llama, ["ai"])  # "wait"
    assert inside.keywords.tolist() == [3]
    assert LogitLens(llama, ["**Wait,**"]).keywords.tolist() == [3]  # signs at its edges are no part of a word
    with pytest.raises(SteerkitError, match=r"no token contains 'zebra' or 'hold on'; change lens\.words"):
        LogitLens(llama, ["wait", "zebra", "hold on"])
    with pytest.raises(SteerkitError, match=r"no token contains '\.\.\.'; change"):
        LogitLens(llama, ["...", "wait"])


def test_an_unembeddings_bias_says_nothing_about_the_direction(direction) -> None:
    lm = build("llama")
    plain = LogitLens(lm, ["wait"]).score(direction).score
    head = torch.nn.Linear(lm.width, lm.config.vocab_size)
    with torch.no_grad():
        head.weight.copy_(lm.model.get_output_embeddings().weight)
        head.bias.fill_(7.0)
    lm.model.set_output_embeddings(head)
    assert LogitLens(lm, ["wait"]).score(direction).score == pytest.approx(plain, abs=1e-5)


def test_random_directions_lie_where_their_spread_says(llama, direction) -> None:
    lens = LogitLens(llama, ["wait", "hmm"])
    found = lens.score(3 * direction)
    row = llama.model.get_output_embeddings().weight[KEYWORDS].mean(0)
    spread = float(3 * direction.norm() * row.detach().norm()) / llama.width**0.5
    assert found.low == pytest.approx(-1.96 * spread, rel=0.35)
    assert found.high == pytest.approx(1.96 * spread, rel=0.35)
    assert lens.score(3 * direction) == found  # the same draws each time


def test_top_tokens(llama) -> None:
    lens = LogitLens(llama, ["wait"])
    weight = llama.model.get_output_embeddings().weight
    top = lens.score(weight[3].detach(), top=3).top
    logits = weight @ weight[3]
    assert [value for _, value in top] == pytest.approx(logits.topk(3).values.tolist(), rel=1e-5)
    assert [lens.texts.index(token) for token, _ in top] == logits.topk(3).indices.tolist()


def test_a_model_without_a_known_final_norm_says_so(direction) -> None:
    lm = build("llama")
    lm.__dict__["decoder"] = SimpleNamespace()
    with pytest.raises(SteerkitError, match="has no final norm that steerkit knows of"):
        LogitLens(lm, ["wait"], final_norm=True).score(direction)


def test_words_with_a_space_before_them_are_found() -> None:
    """Also where the decoder takes a space off a text's beginning, as Llama 2's does."""
    tokenizer = llama2()
    model = torch.nn.Module()
    model.config = LlamaConfig(vocab_size=len(tokenizer))
    lens = LogitLens(LanguageModel("llama2", model, tokenizer), [" the the"])
    tokens = tokenizer.convert_ids_to_tokens(lens.keywords.tolist())
    assert "▁the▁the▁wai" in tokens and all("▁the▁the" in token for token in tokens)
