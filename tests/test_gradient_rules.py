"""Gradient rules and the ablated direction: their algebra, one step on activations, and what they leave alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steerkit_plugins.steerers.residual_add import ResidualAdd
from test_gradients import CHECKPOINTS, checkpointed, gradients
from test_interventions import unit
from tiny import VOCABULARY, build, wrap_with_lora
from torch import Tensor

from steerkit import registry
from steerkit.data.site import Site
from steerkit.interfaces import EditContext, Intervention
from steerkit.interventions.steering import Edit, Steering

RULES = ("neutralise", "attenuate", "amplify")
SITE = Site(1)
IDS = torch.tensor([[5, 9, 12, 33, 7, 21], [8, 3, 40, 41, 42, 6]])


def rule(name: str) -> Intervention:
    found: Intervention = registry.get("steerers", name)()
    return found


def at(v: Tensor) -> EditContext:
    zeros = torch.zeros(1, 1, 1, dtype=v.dtype)
    return EditContext(SITE, zeros + 1, v[None, None], torch.zeros(1, 1), torch.zeros(1))


def changed(name: str, g: Tensor, v: Tensor) -> Tensor:
    return rule(name).backward(g, torch.full_like(g, torch.nan), at(v))  # activations play no part


def case(width: int = 32, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """g [1, 40, D], unit v, and c = g · v [1, 40]."""
    draw = torch.Generator().manual_seed(3)
    g = torch.randn(1, 40, width, generator=draw, dtype=torch.float64).to(dtype)
    v = torch.nn.functional.normalize(torch.randn(width, generator=draw, dtype=torch.float64), dim=0).to(dtype)
    return g, v, (g.double() @ v.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_share_along_the_vector_and_the_rest(dtype: torch.dtype) -> None:
    g, v, c = case(dtype=dtype)
    assert (c > 0).any() and (c < 0).any()
    wanted = {"neutralise": torch.zeros_like(c), "attenuate": c.abs(), "amplify": -c.abs()}
    for name, share in wanted.items():
        found = changed(name, g, v)
        assert found.dtype == dtype
        along = found.double() @ v.double()
        assert ((along - share).abs() <= 1e-6 * g.double().norm(dim=-1)).all(), name
        rest = found.double() - along[..., None] * v.double()
        torch.testing.assert_close(rest, g.double() - c[..., None] * v.double(), rtol=0, atol=1e-6)
    assert torch.equal(changed("attenuate", g, v)[c > 0], g[c > 0])
    assert torch.equal(changed("amplify", g, v)[c < 0], g[c < 0])


def test_rules_combined() -> None:
    g, v, _ = case()
    neutral, attenuated, amplified = (changed(name, g, v) for name in RULES)
    close: Any = {"rtol": 0, "atol": 1e-14}
    torch.testing.assert_close(changed("neutralise", neutral, v), neutral, **close)
    torch.testing.assert_close(changed("amplify", attenuated, v), amplified, **close)
    torch.testing.assert_close(changed("attenuate", amplified, v), attenuated, **close)
    torch.testing.assert_close((attenuated + amplified) / 2, neutral, **close)
    torch.testing.assert_close(changed("attenuate", g, -v), amplified, **close)
    torch.testing.assert_close(changed("amplify", g, -v), attenuated, **close)
    torch.testing.assert_close(changed("neutralise", g, -v), neutral, **close)


def test_half_precision_leaves_no_more_than_rounding() -> None:
    """Of a gradient of 50 v with a v that is 0.3 % too long, as bfloat16 may round it, 0.3 would stay."""
    g, v, _ = case(dtype=torch.bfloat16)
    v = (v * 1.003).to(torch.bfloat16)
    share = changed("neutralise", g + 50 * v, v).double() @ v.double()
    assert share.abs().max() < 0.05


@pytest.mark.parametrize(("name", "sign"), [("neutralise", 0), ("attenuate", -1), ("amplify", 1)])
def test_one_step_on_the_activations(name: str, sign: int) -> None:
    """h · v moves by -lr g' · v: by 0, -lr |c|, +lr |c|; h is what a block of a real model puts out."""
    lm, v, lr = build("llama"), unit(16), 0.1
    block: Any = lm.blocks[SITE.layer]
    h = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    handle = block.register_forward_hook(lambda *args: h * 1)
    optimizer = torch.optim.SGD([h], lr)
    before = h.detach().clone()

    def loss() -> Tensor:
        found: Tensor = lm.model(input_ids=IDS, labels=IDS, use_cache=False).loss
        return found

    (plain,) = torch.autograd.grad(loss(), h)
    with Steering(lm, Edit(rule(name), SITE, 1.0, v)):
        loss().backward()
    optimizer.step()
    handle.remove()
    c = plain @ v
    assert c.abs().min() > 1e-7 or (c == 0).any()  # nothing is predicted after the last token
    torch.testing.assert_close((h.detach() - before) @ v, sign * lr * c.abs(), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", RULES)
def test_later_blocks_get_the_same_gradients(name: str) -> None:
    """To the bit; earlier ones get others."""
    lm = build("qwen3")
    plain = gradients(lm.model)
    with Steering(lm, Edit(rule(name), SITE, 1.0, unit(16))) as steering:
        found = gradients(lm.model)
    assert steering.gradients_at == {SITE: IDS.numel()}
    later = {key for key in plain if ".layers.2." in key or "lm_head" in key or key == "model.norm.weight"}
    same = {key for key in plain if torch.equal(plain[key], found[key])}
    assert same == later and any(".layers.2." in key for key in later)


@pytest.mark.parametrize("options", CHECKPOINTS, ids=str)
def test_rules_under_gradient_checkpointing(options: dict[str, bool]) -> None:
    edits = (Edit(ResidualAdd(), SITE, 2.0, unit(16)), Edit(rule("attenuate"), SITE, 1.0, unit(16), "generated"))
    found = []
    for lm in (build("llama"), checkpointed(build("llama"), options)):
        with Steering(lm, edits, prompt_lengths=[2, 3]):
            found.append(gradients(lm.model))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-5, atol=1e-6)


def test_any_strength_but_zero_is_on() -> None:
    lm = wrap_with_lora()
    plain = gradients(lm.model)
    for name in RULES:
        found = []
        for strength in (0.0, 1.0, -7.5):
            with Steering(lm, Edit(rule(name), SITE, strength, unit(16))):
                found.append(gradients(lm.model))
        off, on, other = found
        assert all(torch.equal(off[key], plain[key]) for key in plain)
        assert all(torch.equal(on[key], other[key]) for key in plain)
        assert any(not torch.equal(on[key], plain[key]) for key in plain)


def test_an_ablated_direction() -> None:
    """Block 2 is given h - (h · v) v; the gradient goes back through the same projection. Twice is once."""
    lm, v = build("llama"), unit(16)
    ablate = rule("ablate-direction")
    seen: list[Tensor] = []

    def forward() -> Tensor:
        block: Any = lm.blocks[2]
        handle = block.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        logits: Tensor = lm.model(input_ids=IDS, use_cache=False).logits
        handle.remove()
        return logits

    with torch.no_grad():
        forward()
        with Steering(lm, Edit(ablate, SITE, 1.0, v)):
            once = forward()
        with Steering(lm, (Edit(ablate, SITE, -3.0, v), Edit(ablate, SITE, 5.0, v))):
            twice = forward()
    h, ablated, _ = seen
    torch.testing.assert_close(ablated, h - (h @ v)[..., None] * v, rtol=1e-6, atol=1e-6)
    assert (ablated @ v).abs().max() <= 1e-6 * h.norm(dim=-1).max()
    torch.testing.assert_close(twice, once, rtol=1e-5, atol=1e-5)
    with Steering(lm, Edit(ablate, SITE, 1.0, v)):
        found = gradients(lm.model)
    block: Any = lm.blocks[SITE.layer]
    projection = torch.eye(16) - v.outer(v)
    handle = block.register_forward_hook(lambda module, args, output: output @ projection)
    expected = gradients(lm.model)
    handle.remove()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


def test_steering_reverses_the_pressure_beyond_a_strength() -> None:
    """Loss ½ |h + α v - t|² on a steered block: g = h + α v - t, and -g · v < 0 exactly when α > (t - h) · v."""
    lm, v = build("gpt2"), unit(16)
    block: Any = lm.blocks[SITE.layer]
    target = torch.randn(*IDS.shape, 16, generator=torch.Generator().manual_seed(5))
    ids = IDS % VOCABULARY

    def pressure(alpha: float) -> tuple[Tensor, Tensor]:
        """The output that is passed on and -g · v at what the block computed, before the addition."""
        states: list[Tensor] = []
        before = block.register_forward_hook(lambda module, args, output: states.append(output))
        with Steering(lm, Edit(ResidualAdd(), SITE, alpha, v)):
            after = block.register_forward_hook(lambda module, args, output: states.append(output))
            lm.model(input_ids=ids, use_cache=False)
            own, passed_on = (state[0] if isinstance(state, tuple) else state for state in states)
            (g,) = torch.autograd.grad(0.5 * (passed_on - target).square().sum(), own)
        before.remove()
        after.remove()
        torch.testing.assert_close(g, passed_on.detach() - target)
        return own.detach(), -(g @ v)

    h, plain = pressure(0.0)
    limit = (target - h) @ v
    torch.testing.assert_close(plain, limit)
    for alpha in (0.5, 1.0, 2.0, 4.0):
        assert torch.equal(pressure(alpha)[1] < 0, limit < alpha)
    assert (limit > 0).any() and (limit < 4).all()
