"""Every built-in steerer adds the same norm; noise is a function of seed, prompt, layer and position alone."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny

from steerkit import registry
from steerkit.data.site import Site
from steerkit.interfaces import EditContext
from steerkit.interventions.steering import Edit, Steering
from steerkit.stats.noise import key_of

NAMES = ("residual-add", "overall-mean", "gaussian-noise", "self-amplify")
IDS = torch.tensor([[5, 9, 12, 33, 7, 21], [8, 9, 10, 11, 12, 13]])
KEY = key_of(0, "prompt")


def steerer(name: str):
    return registry.get("steerers", name)()


def added(name: str, direction, *, strength=4.0, layer=1, key=KEY, ids=IDS, lm=None, **options):
    """[B, T, H] edited − hidden at the block's output, seen by a hook after the steering's own."""
    lm = lm or tiny("llama")
    made = steerer(name)
    edit = Edit(made, layer, strength, direction if made.direction != "none" else None, key=key)
    seen: list[torch.Tensor] = []

    def keep(module, args, output):
        seen.append(output.clone())

    for steering in ([None] * len(ids), [edit] * len(ids)):
        with torch.no_grad(), Steering(lm, steering):
            handle = lm.blocks[layer].register_forward_hook(keep)
            lm.model(input_ids=ids, **options)
            handle.remove()
    return seen[1] - seen[0]


@pytest.mark.parametrize("strength", [0.5, 4.0, -3.0])
@pytest.mark.parametrize("name", NAMES)
def test_equal_norms_are_added(name: str, strength: float, direction: torch.Tensor) -> None:
    norms = added(name, direction, strength=strength).norm(dim=-1)
    torch.testing.assert_close(norms, torch.full_like(norms, abs(strength)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["residual-add", "overall-mean"])
def test_directions_are_added_as_they_are(name: str, direction: torch.Tensor) -> None:
    torch.testing.assert_close(added(name, direction), (4.0 * direction).expand(2, 6, 16), rtol=1e-4, atol=1e-4)
    assert registry.get("steerers", name).direction == {"residual-add": "vector", "overall-mean": "mean"}[name]


def test_self_amplify_adds_along_what_is_there(direction: torch.Tensor) -> None:
    lm, seen = tiny("llama"), []
    handle = lm.blocks[1].register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    with torch.no_grad():
        lm.model(input_ids=IDS)
    handle.remove()
    change = added("self-amplify", direction)
    torch.testing.assert_close(change, 4.0 * seen[0] / seen[0].norm(dim=-1, keepdim=True), rtol=1e-3, atol=1e-4)


def test_self_amplify_leaves_zeros_alone() -> None:
    at = EditContext(
        Site(0), torch.full((1, 1, 1), 4.0), torch.zeros(1, 1, 1), torch.zeros(1, 2, dtype=int), torch.zeros(1)
    )
    assert torch.equal(steerer("self-amplify").edit(torch.zeros(1, 2, 3), at), torch.zeros(1, 2, 3))


def test_noise_is_the_same_at_every_strength(direction: torch.Tensor) -> None:
    one, other = (added("gaussian-noise", direction, strength=s) / s for s in (1.0, 8.0))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_noise_depends_on_seed_prompt_layer_and_position(direction: torch.Tensor) -> None:
    base = added("gaussian-noise", direction)
    torch.testing.assert_close(base[0], base[1], rtol=1e-3, atol=1e-4)  # the hidden states play no part
    for other in (
        added("gaussian-noise", direction, key=key_of(1, "prompt")),
        added("gaussian-noise", direction, key=key_of(0, "another")),
        added("gaussian-noise", direction, layer=2),
        base.roll(1, 1),
    ):
        cosine = torch.cosine_similarity(base, other, -1)
        assert cosine.abs().max() < 0.9
        assert cosine.mean().abs() < 0.35


def test_noise_does_not_know_of_padding_or_batch(direction: torch.Tensor) -> None:
    base = added("gaussian-noise", direction)
    ids = torch.cat([torch.zeros(2, 3, dtype=torch.long), IDS], 1)
    mask = torch.tensor([[0] * 3 + [1] * 6] * 2)
    padded = added("gaussian-noise", direction, ids=ids, attention_mask=mask)
    torch.testing.assert_close(padded[:, 3:], base, rtol=1e-3, atol=1e-4)
    assert padded[:, :3].abs().max() == 0
    torch.testing.assert_close(added("gaussian-noise", direction, ids=IDS[:1]), base[:1], rtol=1e-3, atol=1e-4)


def test_noise_is_the_same_with_and_without_a_cache(direction: torch.Tensor) -> None:
    lm, whole = tiny("llama"), added("gaussian-noise", direction)
    edit, seen = Edit(steerer("gaussian-noise"), 1, 4.0, key=KEY), []
    with torch.no_grad(), Steering(lm, edit):
        handle = lm.blocks[1].register_forward_hook(lambda m, a, out: seen.append(out.clone()))
        cache = None
        for step in range(IDS.shape[1]):
            cache = lm.model(input_ids=IDS[:, step : step + 1], past_key_values=cache, use_cache=True).past_key_values
        handle.remove()
    unsteered = []
    handle = lm.blocks[1].register_forward_hook(lambda m, a, out: unsteered.append(out.clone()))
    with torch.no_grad():
        lm.model(input_ids=IDS)
    handle.remove()
    torch.testing.assert_close(torch.cat(seen, 1) - unsteered[0], whole, rtol=1e-3, atol=1e-4)


def test_edits_are_pure(direction: torch.Tensor) -> None:
    hidden = torch.randn(2, 3, 16)
    for name in NAMES:
        made = steerer(name)
        row = direction.expand(2, 1, 16) if made.direction != "none" else torch.zeros(2, 1, 1)
        at = EditContext(
            Site(1), torch.full((2, 1, 1), 2.0), row, torch.arange(3).expand(2, 3), torch.tensor([KEY, KEY + 1])
        )
        before = hidden.clone()
        once, twice = made.edit(hidden, at), made.edit(hidden, at)
        assert torch.equal(hidden, before)
        assert torch.equal(once, twice)
        assert (once.shape, once.dtype) == (hidden.shape, hidden.dtype)
        assert made.edit(hidden.bfloat16(), at_bf16(at)).dtype == torch.bfloat16


def at_bf16(at):
    from dataclasses import replace

    return replace(at, norm=at.norm.bfloat16(), direction=at.direction.bfloat16())
