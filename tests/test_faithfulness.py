"""How near adapters are to their target: sums held against whole forwards and numpy, and what the experiment says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from steerkit_plugins.transcoder.faithful_read import Read
from steerkit_plugins.transcoder.faithful_sums import adapter_sums, model_sums, part_sums
from steerkit_plugins.transcoder.units import transcoder_groups
from tiny import build
from tiny_transcoder import hybrid, logits
from torch import Tensor

from steerkit.models.language_model import LanguageModel
from steerkit.models.parts_from import put_parts
from steerkit.units.divergence import CountedText

TEXTS = [
    CountedText("a", (2, 5, 9, 12, 33, 7, 20, 41), (True,) * 8),
    CountedText("b", (2, 30, 22, 14), (True, False, True, True)),
    CountedText("c", (2, 8, 51, 19, 40, 11), (False, False, False, True, True, True)),
]
COUNTS = np.array([7, 2, 3])


def nothing(done: int) -> None:
    pass


def predictions(lm: LanguageModel, text: CountedText) -> tuple[np.ndarray, np.ndarray]:
    """log p [M, V] at positions whose next token counts, and these tokens."""
    with torch.no_grad():
        logits = lm.model(torch.tensor([text.ids]), use_cache=False).logits[0].double()
    at = [t - 1 for t in range(1, len(text.ids)) if text.counted[t]]
    return torch.log_softmax(logits, -1).numpy()[at], np.array([text.ids[t + 1] for t in at])


def expected(target: LanguageModel, other: LanguageModel) -> tuple[np.ndarray, np.ndarray]:
    """[N] sums of KL(target ‖ other), and of the other's losses."""
    kl, ce = [], []
    for text in TEXTS:
        (p, following), (q, _) = predictions(target, text), predictions(other, text)
        kl.append((np.exp(p) * (p - q)).sum())
        ce.append(-q[np.arange(len(q)), following].sum())
    return np.array(kl), np.array(ce)


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)


class Mixed:
    """A hybrid whose forward has the target's own MLPs in some blocks, put there by hand."""

    def __init__(self, lm: LanguageModel, target: set[int]) -> None:
        self.lm, self.target, self.model = lm, target, self.forward

    def forward(self, ids: Tensor, use_cache: bool) -> Any:
        mlps = [before for before, _ in self.lm.transformer.steerkit_swapped.modules.values()]
        blocks: list[Any] = list(self.lm.blocks)
        own = {n: blocks[n].mlp for n in self.target}
        for n in self.target:
            blocks[n].mlp = mlps[n]
        found = self.lm.model(ids, use_cache=use_cache)
        for n, module in own.items():
            blocks[n].mlp = module
        return found


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_sums_of_an_adapter_are_those_of_whole_forwards(architecture: str) -> None:
    lm = hybrid(architecture)
    depth, told = lm.depth, list[int]()
    found = adapter_sums(lm, TEXTS, 12, told.append)
    assert told[-1] == 3 and len(told) > 1
    target: Any = Mixed(lm, set(range(depth)))
    close(found["ce.target"], expected(target, target)[1])
    for name, blocks in {
        "full": set(),
        **{f"first.{k}": set(range(k, depth)) for k in range(1, depth)},
        **{f"last.{k}": set(range(depth - k)) for k in range(1, depth)},
        **{f"one.{n}": set(range(depth)) - {n} for n in range(depth)},
    }.items():
        kl, ce = expected(target, Mixed(lm, blocks))  # type: ignore[arg-type]
        close(found[f"kl.{name}"], kl)
        close(found[f"ce.{name}"], ce)
    for number, text in enumerate(TEXTS):
        own, whole = (
            [s[0].double().numpy() for s in _states(lm, text, blocks)] for blocks in (set(), set(range(depth)))
        )
        at = [t - 1 for t in range(1, len(text.ids)) if text.counted[t]]
        for layer in range(depth):
            error = ((own[layer] - whole[layer])[at] ** 2).sum(-1)
            size = (whole[layer][at] ** 2).sum(-1)
            close(found["error"][layer, number] / size.sum(), error.sum() / size.sum())
            close(found["ratio"][layer, number], (error / size).sum())


def _states(lm: LanguageModel, text: CountedText, target: set[int]) -> list[Tensor]:
    seen: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda m, a, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for block in lm.blocks
    ]
    with torch.no_grad():
        Mixed(lm, target).forward(torch.tensor([text.ids]), False)
    for handle in handles:
        handle.remove()
    return [each if each.dim() == 3 else each[None] for each in seen]


def test_features_are_counted() -> None:
    lm = hybrid("llama")
    found = adapter_sums(lm, TEXTS, 100, nothing)
    for group in transcoder_groups(lm):
        active, alive = np.zeros(3), np.zeros(group.count, bool)
        for number, text in enumerate(TEXTS):
            seen: list[Tensor] = []
            handle = group.watch(seen.append)
            logits(lm, (text.ids,))
            handle.remove()
            at = [t - 1 for t in range(1, len(text.ids)) if text.counted[t]]
            own = (seen[0][0] > 0).numpy()[at]
            active[number], alive = own.sum(), alive | own.any(0)
        np.testing.assert_array_equal(found["active"][group.layer], active)
        np.testing.assert_array_equal(found[f"alive.{group.layer}"], alive)


def test_parts_are_swapped_one_at_a_time_and_put_back() -> None:
    target, donor = build("llama", 0), build("llama", 1)
    before = logits(target)
    parts: Any = [("mlp",), ("head",), ("embedding",), ("norms",), ("mlp", "attention")]
    found = part_sums(target, donor, parts, TEXTS, 100, nothing)
    assert torch.equal(logits(target), before)
    for own in parts:
        other = build("llama", 0)
        put_parts(other, build("llama", 1), own)
        kl, ce = expected(target, other)
        close(found[f"kl.{'+'.join(own)}"], kl)
        close(found[f"ce.{'+'.join(own)}"], ce)


def test_another_model_reads_ids_of_its_own() -> None:
    target, other = build("llama", 0), build("llama", 1)
    mapped = [CountedText(t.id, tuple(3 if i == 33 else i for i in t.ids), t.counted) for t in TEXTS]
    found = model_sums(other, target, mapped, TEXTS, 12, nothing)
    for number, (own, text) in enumerate(zip(mapped, TEXTS, strict=True)):
        (p, _), (q, _) = predictions(target, text), predictions(other, own)
        close(found["kl.whole"][number], (np.exp(p) * (p - q)).sum())


def test_means_are_over_texts_or_tokens() -> None:
    kl = {"kl.full": [7.0, 1.0, 6.0], "error": [[1.0] * 3], "size": [[2.0] * 3]}
    losses = {"counts": COUNTS.tolist(), "models": {"a.0": kl, "parts": {"kl.mlp": [14.0, 4.0, 12.0]}}}
    for average, wanted in (("per_sequence", (1 + 0.5 + 2) / 3), ("per_token", 14 / 12)):
        read = Read(losses, {"a": ["a.0"]}, average, 0.95)  # type: ignore[arg-type]
        assert read.mean(read.values("a", "kl")).mean == pytest.approx(wanted)


def test_errors_are_shares_of_squares_and_features_those_of_blocks_that_have_some() -> None:
    own = {"error": [[1.0, 6.0], [2.0, 2.0]], "size": [[2.0, 30.0], [4.0, 4.0]], "active": [[0.0, 0.0], [6.0, 8.0]]}
    losses = {"counts": [2, 4], "models": {"a.0": {**own, "features": [0, 5], "alive": [0, 3]}}}
    for average, error, active in (("per_sequence", (0.5 + 0.2) / 2, (3 + 2) / 2), ("per_token", 7 / 32, 14 / 6)):
        read = Read(losses, {"a": ["a.0"]}, average, 0.95)  # type: ignore[arg-type]
        assert read.layers("a", "error")[0].mean() == pytest.approx(error)
        assert read.active("a").mean() == pytest.approx(active)
