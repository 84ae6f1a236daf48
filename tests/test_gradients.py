"""Gradients changed at a site, gradient checkpointing, and modules that others stand in for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from steerkit_plugins.steerers.residual_add import ResidualAdd
from test_interventions import PROMPTS, SITES, by_hand, names_in_llama, unit, width_of
from tiny import build, wrap_with_lora
from torch import Tensor, nn
from zoo import breed

from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interfaces import EditContext, Intervention
from steerkit.interventions.edits import Edit, EditSet
from steerkit.interventions.steering import Steering
from steerkit.models.language_model import LanguageModel

ADD = ResidualAdd()
IDS = torch.tensor([[5, 9, 12, 33, 7, 21], [8, 3, 40, 41, 42, 6]])


class Neutralise(Intervention):
    """The gradient without its share along v̂."""

    direction = "vector"

    def backward(self, grad: Tensor, x: Tensor, at: EditContext) -> Tensor:
        return grad - (grad * at.direction).sum(-1, keepdim=True) * at.direction


class ScaleBoth(Intervention):
    """norm · x forward; the gradient is multiplied by tanh(x)."""

    def forward(self, x: Tensor, at: EditContext) -> Tensor:
        return at.norm * x

    def backward(self, grad: Tensor, x: Tensor, at: EditContext) -> Tensor:
        return grad * torch.tanh(x)


class Stands(Intervention):
    """`make(module)` in the module's place."""

    def __init__(self, make: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.make = make

    def replace_module(self, site: Site, module: nn.Module) -> nn.Module:
        made: nn.Module = self.make(module)
        return made


def gradients(model: Any, **inputs: Any) -> dict[str, Tensor]:
    model.zero_grad()
    inputs = {"input_ids": IDS, **inputs}
    loss = model(**inputs, use_cache=False, labels=inputs["input_ids"]).loss
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


class _Oracle(torch.autograd.Function):
    """The same numbers, whose gradient goes through `change`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.change(grads[0]), None


@pytest.mark.parametrize("site", SITES, ids=lambda site: f"{site.part}.{site.side}")
def test_gradients_are_changed_where_the_site_is(site: Site) -> None:
    """Against an autograd function of the test's own at the module of that name, at some tokens.

    Inputs in all rows (q, k and v are given the same tensor), outputs in one of two.
    """
    lm = build("llama")
    v = unit(width_of(site))
    edit = Edit(Neutralise(), site, 1.0, v, "prompt")
    plain = gradients(lm.model)
    rows = 2 if site.side == "in" else 1
    with Steering(lm, edit if rows == 2 else [edit, None], prompt_lengths=[4, 4]) as steering:
        found = gradients(lm.model)

    def change(grad: Tensor) -> Tensor:
        changed = grad.clone()
        changed[:rows, :4] -= (grad[:rows, :4] * v).sum(-1, keepdim=True) * v
        return changed

    def apply(value: Any) -> Any:
        if isinstance(value, tuple):
            return (_Oracle.apply(value[0], change), *value[1:])
        return _Oracle.apply(value, change)

    name, side = names_in_llama(site)
    module = lm.model.get_submodule(name)
    if side == "out":
        handle = module.register_forward_hook(lambda m, args, out: apply(out))
    else:
        handle = module.register_forward_pre_hook(
            lambda m, args, kwargs: (
                ((apply(args[0]), *args[1:]), kwargs)
                if args
                else (args, {**kwargs, "hidden_states": apply(kwargs["hidden_states"])})
            ),
            with_kwargs=True,
        )
    expected = gradients(lm.model)
    handle.remove()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)
    assert any(not torch.allclose(found[key], plain[key], atol=1e-5) for key in plain)
    assert (steering.gradients_at, steering.steered_at) == ({site: 4 * rows}, {})
    assert all(torch.equal(value, plain[key]) for key, value in gradients(lm.model).items())


def test_forward_and_backward_of_one_intervention_and_the_order_of_several() -> None:
    """y = 3 x; then dL/dy · tanh(x), and on through the factor 3; in front of it an added vector."""
    lm = build("llama")
    v = unit(24)
    site = Site(1, "up")
    edits = (Edit(ADD, site, 2.0, v), Edit(ScaleBoth(), site, 3.0))
    with Steering(lm, edits):
        found = gradients(lm.model)
    up: Any = lm.model.model.layers[1].mlp.up_proj

    def oracle(module: Any, args: Any, out: Tensor) -> Tensor:
        x = out + 2.0 * v
        return _Oracle.apply(3.0 * x, lambda grad: grad * torch.tanh(x.detach()))  # type: ignore[no-any-return]

    handle = up.register_forward_hook(oracle)
    expected = gradients(lm.model)
    handle.remove()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)


def test_strength_zero_leaves_gradients_bit_for_bit() -> None:
    lm = build("llama")
    plain = gradients(lm.model)
    rows: list[EditSet] = [(Edit(Neutralise(), 1, 0.0, unit(16)),), (Edit(ADD, Site(1, "q"), 0.0, unit(16)),)]
    with Steering(lm, rows):
        found = gradients(lm.model)
    assert all(torch.equal(found[key], value) for key, value in plain.items())


def test_edits_forward_are_differentiated() -> None:
    lm = build("llama")
    edits = (Edit(ADD, Site(1, "k"), 3.0, unit(8)), Edit(ADD, 2, 2.0, unit(16)))
    with Steering(lm, edits):
        found = gradients(lm.model)
    with by_hand(lm.model, edits, 6):
        expected = gradients(lm.model)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)


def test_gradients_come_off_with_the_block_and_what_did_nothing_is_an_error() -> None:
    lm = build("llama")
    plain = gradients(lm.model)
    edit = Edit(Neutralise(), 2, 1.0, unit(16))
    message = r"no gradient was changed at block 2 of llama: call backward\(\) inside the `with`, and train something"
    lm.model.zero_grad()
    with pytest.raises(SteerkitError, match=message), Steering(lm, edit):
        loss = lm.model(input_ids=IDS, use_cache=False, labels=IDS).loss
    loss.backward()
    assert all(torch.equal(p.grad, plain[name]) for name, p in lm.model.named_parameters())
    with pytest.raises(SteerkitError, match="no gradient was changed"), Steering(lm, edit), torch.no_grad():
        lm.model(input_ids=IDS)
    with pytest.raises(SteerkitError, match="Neutralise: changes gradients alone, and generating computes none"):
        generate(lm, [GenerationRow([5], 0, (edit,))], max_new_tokens=2, temperature=0)
    with pytest.raises(ZeroDivisionError), Steering(lm, edit):
        raise ZeroDivisionError


def test_gradients_under_a_lora_adapter() -> None:
    """The trained parts alone have gradients; those below the site are changed."""
    lm = wrap_with_lora()
    plain = gradients(lm.model)
    with Steering(lm, Edit(Neutralise(), 2, 1.0, unit(16))) as steering:
        found = gradients(lm.model)
    assert steering.gradients_at == {Site(2): IDS.numel()}
    changed = {key for key in plain if not torch.equal(plain[key], found[key])}
    assert changed == {key for key in plain if ".layers.3." not in key} and changed


CHECKPOINTS = [{"use_reentrant": True}, {"use_reentrant": False}]


def checkpointed(lm: LanguageModel, options: dict[str, bool]) -> LanguageModel:
    if hasattr(lm.model, "activation_checkpointing_enable"):  # its name since transformers 5.2x
        lm.model.activation_checkpointing_enable(options)
    else:
        lm.model.gradient_checkpointing_enable(options)
    if options["use_reentrant"]:
        lm.model.enable_input_require_grads()
    lm.model.train()
    return lm


@pytest.mark.parametrize("options", CHECKPOINTS, ids=str)
def test_checkpointing_counts_positions_once_and_gives_the_same_gradients(options: dict[str, bool]) -> None:
    sets: list[EditSet] = [
        (Edit(ADD, 1, 3.0, unit(16)), Edit(Neutralise(), Site(2, "mlp"), 1.0, unit(16))),
        (Edit(ADD, Site(2, "q"), 3.0, unit(16), "prompt"), Edit(ScaleBoth(), Site(1, "down", "in"), 2.0)),
    ]
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    results = []
    for lm in (build("llama"), checkpointed(build("llama"), options)):
        with Steering(lm, sets, prompt_lengths=[2, 4]) as steering:
            for _ in range(2):
                found = gradients(lm.model, attention_mask=mask)
        results.append((found, steering.steered_at, steering.gradients_at))
    (plain, counts, backward), (found, counts_again, backward_again) = results
    assert counts == counts_again == {Site(1, "down", "in"): 12, Site(1): 8, Site(2, "q"): 8}
    assert backward == backward_again == {Site(1, "down", "in"): 12, Site(2, "mlp"): 8}
    for key, value in plain.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_around_a_block_and_its_hooks(reentrant: bool) -> None:
    """As transformers had it before 5.2x: the hooks on the block itself run again, too."""
    from torch.utils.checkpoint import checkpoint

    lm = build("llama")
    lm.model.enable_input_require_grads()
    edits = (Edit(ADD, 1, 3.0, unit(16), "prompt"), Edit(Neutralise(), Site(1, "block", "in"), 1.0, unit(16)))
    with Steering(lm, edits, prompt_lengths=[3, 5]) as plain:
        expected = gradients(lm.model)

    class Checkpointed(type(lm.blocks[1])):  # type: ignore[misc]
        def __call__(self, hidden: Tensor, **kwargs: Any) -> Any:
            again = super().__call__
            return checkpoint(lambda x: again(x, **kwargs), hidden, use_reentrant=reentrant)

    block: Any = lm.blocks[1]
    block.__class__ = Checkpointed
    with Steering(lm, edits, prompt_lengths=[3, 5]) as steering:
        found = gradients(lm.model)
    assert steering.steered_at == plain.steered_at == {Site(1): 8}
    assert steering.gradients_at == plain.gradients_at == {Site(1, "block", "in"): 12}
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)


def test_blocks_that_run_again_for_an_unknown_forward_are_refused() -> None:
    """Two forwards with other padding and one backward pass: masks would be mixed up."""
    lm = checkpointed(build("llama"), {"use_reentrant": False})
    edit = Edit(ADD, Site(1, "mlp"), 3.0, unit(16))
    masks = [torch.ones_like(IDS), torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])]
    message = r"llama: gradient checkpointing runs blocks again, and 2 forwards with other tokens came before"
    with pytest.raises(SteerkitError, match=message), Steering(lm, edit):
        losses = [lm.model(input_ids=IDS, attention_mask=m, use_cache=False, labels=IDS).loss for m in masks]
        (losses[0] + losses[1]).backward()
    with Steering(lm, edit) as steering:  # of the same tokens, or each with its own backward pass
        losses = [lm.model(input_ids=IDS, attention_mask=masks[1], use_cache=False, labels=IDS).loss for _ in "ab"]
        (losses[0] + losses[1]).backward()
        for m in masks:
            lm.model(input_ids=IDS, attention_mask=m, use_cache=False, labels=IDS).loss.backward()
        with torch.no_grad():
            lm.model(input_ids=IDS[:, :3], use_cache=False)
        lm.model(input_ids=IDS, use_cache=False, labels=IDS).loss.backward()
    assert steering.steered == 11 + 11 + 12 + 11 + 6 + 12


def test_a_checkpoint_around_the_whole_model() -> None:
    from torch.utils.checkpoint import checkpoint

    lm = build("llama")
    edits = (Edit(ADD, Site(1, "mlp"), 3.0, unit(16), "prompt"), Edit(Neutralise(), 1, 1.0, unit(16)))
    with Steering(lm, edits, prompt_lengths=[3, 5]) as plain:
        expected = gradients(lm.model)
    lm.model.zero_grad()
    with Steering(lm, edits, prompt_lengths=[3, 5]) as steering:
        loss = checkpoint(
            lambda ids: lm.model(input_ids=ids, use_cache=False, labels=ids).loss, IDS, use_reentrant=False
        )
        loss.backward()
    assert (steering.steered_at, steering.gradients_at) == (plain.steered_at, plain.gradients_at)
    for name, parameter in lm.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-6)


# --- modules replaced ---------------------------------------------------------------------------------------------


class Affine(nn.Module):
    """A stand-in with weights of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.inner = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.inner(x).tanh()


def logits(lm: LanguageModel) -> Tensor:
    with torch.no_grad():
        found: Tensor = lm.model(input_ids=IDS, use_cache=False).logits
    return found


def state(lm: LanguageModel) -> list[tuple[str, Tensor]]:
    return [(name, value.clone()) for name, value in lm.model.state_dict().items()]


@pytest.mark.parametrize(
    ("site", "name"), [(Site(1, "mlp"), "layers.1.mlp"), (Site(2, "q", "in"), "layers.2.self_attn.q_proj")]
)
def test_another_module_stands_in_and_comes_off(site: Site, name: str) -> None:
    lm, twin = build("llama"), build("llama")
    before, plain, fingerprint = state(lm), logits(lm), lm.fingerprint
    made: list[nn.Module] = []

    def make(module: nn.Module) -> nn.Module:
        made.append(module)
        return Affine(16)

    edit = Edit(Stands(make), site, 1.0)
    own = lm.model.model.get_submodule(name)
    with Steering(lm, edit) as steering:
        found = logits(lm)
        assert steering.steered == IDS.numel()
        assert any("inner" in key for key in lm.model.state_dict())
    assert made == [own] and lm.model.model.get_submodule(name) is own
    twin.model.model.set_submodule(name, Affine(16))
    assert torch.equal(found, logits(twin)) and not torch.allclose(found, plain, atol=1e-2)
    with pytest.raises(KeyError), Steering(lm, edit):
        raise KeyError
    after = state(lm)
    assert [name for name, _ in after] == [name for name, _ in before]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(after, before, strict=True))
    assert lm.fingerprint == fingerprint and torch.equal(logits(lm), plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


def test_a_block_is_replaced_and_edits_apply_to_the_stand_in() -> None:
    lm = build("llama")

    class Twice(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, hidden: Tensor, **kwargs: Any) -> Tensor:
            return self.block(self.block(hidden, **kwargs), **kwargs)

    own = lm.blocks[2]
    edits = (Edit(ADD, 2, 3.0, unit(16)), Edit(Stands(Twice), 2, 1.0))
    with Steering(lm, edits) as steering:
        found = logits(lm)
    assert steering.steered_at == {Site(2): 2 * IDS.numel()} and lm.blocks[2] is own
    calls: list[int] = []

    def again(module: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 1:
            return module(out, **kwargs) + 3.0 * unit(16)
        return out

    handle = own.register_forward_hook(again, with_kwargs=True)
    torch.testing.assert_close(found, logits(lm))
    handle.remove()


def test_stand_ins_are_trained_with_the_rest() -> None:
    lm = build("llama")
    stand_in = Affine(16)
    with Steering(lm, Edit(Stands(lambda module: stand_in), Site(1, "mlp"), 1.0)):
        gradients(lm.model)
    assert stand_in.inner.weight.grad is not None and stand_in.inner.weight.grad.abs().sum() > 0


def test_rows_with_and_without_a_stand_in_are_generated_apart() -> None:
    lm = build("llama")
    stand_in = Affine(16)
    replaced = Edit(Stands(lambda module: stand_in), Site(1, "mlp"), 1.0)
    add = Edit(ADD, Site(2, "o"), 4.0, unit(16))
    sets: list[EditSet] = [(), (replaced,), (add,), (add, replaced)]
    rows = [GenerationRow(prompt, 0, edits) for prompt in PROMPTS for edits in sets]
    told: list[int] = []
    found = generate(lm, rows, max_new_tokens=5, temperature=0, batch_size=5, progress=told.append)
    assert told == sorted(told) and told[-1] == len(rows)
    twin = build("llama")
    twin.model.model.layers[1].mlp = stand_in
    for row, text in zip(rows, found, strict=True):
        model = twin if replaced in row.edits else lm
        rest = tuple(edit for edit in row.edits if edit is not replaced)
        assert generate(model, [GenerationRow(row.prompt_ids, 0, rest)], max_new_tokens=5, temperature=0) == [text]
    assert type(lm.model.model.layers[1].mlp).__name__ == "LlamaMLP"


def test_replacements_that_are_refused() -> None:
    lm = build("llama")
    stands = Stands(lambda module: Affine(16))
    with pytest.raises(
        SteerkitError, match=r"block 1 \(mlp.out\): tokens: prompt: a replaced module runs on all tokens"
    ):
        Steering(lm, Edit(stands, Site(1, "mlp"), 1.0, tokens="prompt"))
    with pytest.raises(SteerkitError, match="rows of one batch differ in the modules that are replaced"):
        Steering(lm, [Edit(stands, Site(1, "mlp"), 1.0), None])
    with pytest.raises(SteerkitError, match=r"Stands\.replace_module gave str for block 1 \(mlp\.out\), not a torch"):
        Steering(lm, Edit(Stands(lambda module: "x"), Site(1, "mlp"), 1.0)).__enter__()
    for name, site in (("phi3", Site(0, "q")), ("opt", Site(0, "mlp")), ("bloom", Site(1, "mlp"))):
        with pytest.raises(SteerkitError, match=f"^{name}: {str(site)[:7]}.* is no module of its own"):
            Steering(breed(name), Edit(stands, site, 1.0)).__enter__()
    never = Stands(lambda module: Affine(16))
    with pytest.raises(SteerkitError, match="no forward pass of llama"), Steering(lm, Edit(never, Site(1, "mlp"), 1.0)):
        pass
    assert type(lm.model.model.layers[1].mlp).__name__ == "LlamaMLP"
