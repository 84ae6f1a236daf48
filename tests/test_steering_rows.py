"""One batch holds many conditions: row i of a mixed batch equals the same row alone."""

from __future__ import annotations

import pytest
import torch
from steerkit_plugins.steerers.gaussian_noise import GaussianNoise
from steerkit_plugins.steerers.overall_mean import OverallMean
from steerkit_plugins.steerers.residual_add import ResidualAdd
from steerkit_plugins.steerers.self_amplify import SelfAmplify
from tiny import ARCHITECTURES, tiny

from steerkit.generation.stream import GenerationRow, generate
from steerkit.interventions.steering import Edit, Steering
from steerkit.stats.noise import key_of

PROMPTS = [[5, 9, 12, 33, 7], [9, 14], [22, 8, 30, 11], [40, 41, 42], [5, 9, 12, 33, 7], [17], [3, 4, 5], [60, 2, 8]]


def mixed_edits(depth: int, direction: torch.Tensor) -> list[Edit | None]:
    add, mean, noise, amplify = ResidualAdd(), OverallMean(), GaussianNoise(), SelfAmplify()
    other = direction.flip(0)
    return [
        Edit(add, 0, 5.0, direction),
        Edit(add, 0, -2.0, other),
        None,
        Edit(noise, 1, 4.0, key=key_of(0, "a")),
        Edit(noise, 1, 4.0, key=key_of(0, "b"), tokens="generated"),
        Edit(amplify, depth - 2, 3.0),
        Edit(mean, 0, 6.0, other, tokens="prompt"),
        Edit(add, depth - 1, 0.0, direction),
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_of_a_mixed_batch_equal_single_rows(architecture: str, direction: torch.Tensor) -> None:
    lm = tiny(architecture)
    edits = [e for e in mixed_edits(lm.depth, direction) if e is None or e.tokens != "generated"]
    prompts = [[*prompt, 7, 7, 7, 7, 7][:5] for prompt in PROMPTS[: len(edits)]]
    with torch.no_grad():
        with Steering(lm, edits):
            batch = lm.model(input_ids=torch.tensor(prompts)).logits
        for row, edit, prompt in zip(batch, edits, prompts, strict=True):
            with Steering(lm, [edit]):
                alone = lm.model(input_ids=torch.tensor([prompt])).logits[0]
            torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-4)
        unsteered = lm.model(input_ids=torch.tensor(prompts)).logits
    changed = (batch - unsteered).abs().amax((1, 2)) > 1e-3
    assert changed.tolist() == [edit is not None and edit.norm != 0 for edit in edits]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_of_a_mixed_batch_equal_single_rows(architecture: str, temperature: float, direction) -> None:
    lm = tiny(architecture)
    edits = mixed_edits(lm.depth, direction)
    rows = [
        GenerationRow(p, key_of(3, i), (e,) if e else ()) for i, (p, e) in enumerate(zip(PROMPTS, edits, strict=True))
    ]
    together = generate(lm, rows, max_new_tokens=14, temperature=temperature)
    alone = [generate(lm, [row], max_new_tokens=14, temperature=temperature)[0] for row in rows]
    assert [(t.ids, t.finished) for t in together] == [(a.ids, a.finished) for a in alone]


def test_the_batch_counts_the_positions_of_all_its_rows(llama, direction) -> None:
    edits = [Edit(ResidualAdd(), 0, 5.0, direction), None, Edit(ResidualAdd(), 2, 5.0, direction, "prompt")]
    with torch.no_grad(), Steering(llama, edits) as steering:
        llama.model(input_ids=torch.tensor([[5, 6, 7]] * 3))
        assert steering.steered == 6


def test_assigned_rows_have_the_edits_named(llama, direction) -> None:
    edits = [Edit(ResidualAdd(), 0, float(i), direction) for i in range(4)]
    ids = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13], [14, 15, 16]])
    with torch.no_grad(), Steering(llama, edits) as steering:
        whole = llama.model(input_ids=ids).logits
        for chosen in ([3, 1, 0], [2, 2], [1]):
            steering.assign(chosen, "prompt")
            torch.testing.assert_close(llama.model(input_ids=ids[chosen]).logits, whole[chosen], rtol=1e-4, atol=1e-4)
        steering.assign([None, 3], "generated")
        found = llama.model(input_ids=ids[[0, 3]]).logits
        torch.testing.assert_close(found, whole[[0, 3]], rtol=1e-4, atol=1e-4)  # row 0's own edit has norm 0
