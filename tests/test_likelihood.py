"""Log-likelihoods of texts against one forward each."""

from __future__ import annotations

import random

import pytest
import torch

from steerkit.generation.likelihood import ScoredText, log_likelihoods


def test_equals_a_plain_forward_in_any_batching(lm) -> None:
    rng = random.Random(0)
    words = [[rng.randrange(3, 60) for _ in range(n)] for n in (1, 7, 3, 12, 7)]
    texts = [ScoredText([2, *range(3, 3 + i)], ids) for i, ids in enumerate(words)]
    expected = []
    for text in texts:
        ids = torch.tensor([[*text.prompt_ids, *text.ids]])
        with torch.no_grad():
            scores = lm.model(ids, use_cache=False).logits[0].double().log_softmax(-1)
        first = len(text.prompt_ids)
        expected.append(sum(float(scores[t - 1, ids[0, t]]) for t in range(first, ids.shape[1])))
    for room in (1, 2**11, 2**26):
        found = [0.0] * len(texts)
        for places, values in log_likelihoods(lm, texts, room=room):
            for place, value in zip(places, values, strict=True):
                found[place] = value
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_nothing_gives_nothing(llama) -> None:
    assert list(log_likelihoods(llama, [])) == []
