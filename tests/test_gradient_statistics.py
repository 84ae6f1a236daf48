"""Gradients of all layers in one pass, against autograd with a pass for each layer and row."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import blocks_of
from steerkit_plugins.steerers.residual_add import ResidualAdd
from test_gradients import CHECKPOINTS, checkpointed
from test_interventions import unit
from tiny import ARCHITECTURES, UNUSED, VOCABULARY, build, tiny, wrap_with_lora
from torch import Tensor
from zoo import breed

from steerkit import registry
from steerkit.data.gradient_shift import shift
from steerkit.data.gradient_statistics import GradientStatistics, Reduction, TokensRead
from steerkit.data.gradient_sums import GradientSums
from steerkit.data.site import Site
from steerkit.errors import InputError, SteerkitError
from steerkit.extraction.gradient_rows import GradientRow, PaddedRows, padded
from steerkit.extraction.gradients import gradients
from steerkit.extraction.token_losses import cross_entropy
from steerkit.interventions.edits import EditSet
from steerkit.interventions.steering import Edit, Steering, Tokens
from steerkit.models.language_model import LanguageModel

ADD = ResidualAdd()
V = unit(16)


def some_rows(count: int = 7, edits: EditSet = (), seed: int = 0, *, longest: int = 24) -> list[GradientRow]:
    """Rows of random ids, lengths and prompts."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        ids = [draw.randrange(3, UNUSED) for _ in range(draw.randint(6, longest))]
        rows.append(GradientRow(ids, draw.randint(1, 4), edits, f"r{number}"))
    return rows


def by_hand(lm: LanguageModel, layer: int, row: GradientRow) -> tuple[float, Tensor]:
    """Summed loss of a row's response, alone, and its gradient [T, D] by one block's output, cut out of the graph."""
    leaves: list[Tensor] = []

    def cut(module: Any, args: Any, output: Any) -> Any:
        whole = isinstance(output, torch.Tensor)
        leaves.append((output if whole else output[0]).detach().requires_grad_())
        return leaves[0] if whole else (leaves[0], *output[1:])

    handle = blocks_of(lm.model)[layer].register_forward_hook(cut)
    try:
        logits = lm.model(input_ids=torch.tensor([list(row.ids)]), use_cache=False).logits[0]
    finally:
        handle.remove()
    chances = logits.log_softmax(-1)
    first = row.prompt_length
    loss = -sum(chances[t - 1, row.ids[t]] for t in range(first, len(row.ids)))
    (found,) = torch.autograd.grad(loss, leaves)
    return float(loss.detach()), found[0]


def oracle(
    lm: LanguageModel, layer: int, rows: Sequence[GradientRow], tokens: TokensRead = "response", *, by_row: bool = False
) -> dict[str, Any]:
    """The statistics of one layer from the gradients of single rows, in numpy."""
    losses, parts, shares = [], [], []
    for row in rows:
        loss, g = by_hand(lm, layer, row)
        weight = 1 / len(row.response) if by_row else 1.0
        place = {"response": slice(row.prompt_length, None), "prompt": slice(row.prompt_length), "all": slice(None)}
        losses.append(weight * loss)
        parts.append(weight * g.double().numpy()[place[tokens]])
        shares.append(np.full(len(parts[-1]), weight))
    g, w = np.concatenate(parts), np.concatenate(shares)
    total = len(rows) if by_row else sum(len(row.response) for row in rows)
    lengths = np.linalg.norm(g, axis=1)
    some = lengths > 0
    spectrum = np.linalg.eigvalsh(g.T @ g)
    centred = np.linalg.eigvalsh(np.cov(g.T, bias=True))
    mean = g.sum(0)
    return {
        "loss": sum(losses) / total,
        "gradient": mean / total,
        "pressure": -mean @ V.numpy() / total,
        "cosine": -mean @ V.numpy() / np.linalg.norm(mean),
        "token_cosine": np.average(-(g @ V.numpy())[some] / lengths[some], weights=w[some]),
        "spectrum": spectrum.sum() ** 2 / (spectrum**2).sum(),
        "centred": centred.sum() ** 2 / (centred**2).sum(),
        "coordinates": (mean**2).sum() ** 2 / (mean**4).sum(),
    }


def told(statistics: GradientStatistics, layer: int, tokens: TokensRead = "response") -> dict[str, Any]:
    site = Site(layer)
    return {
        "loss": statistics.loss,
        "gradient": statistics.mean_gradient(site, tokens).numpy(),
        "pressure": statistics.pressure(site, 3 * V, tokens),
        "cosine": statistics.cosine(site, 3 * V, tokens),
        "token_cosine": statistics.token_cosine(site, "v", tokens),
        "spectrum": statistics.participation(site, "spectrum", tokens),
        "centred": statistics.participation(site, "centred", tokens),
        "coordinates": statistics.participation(site, "coordinates", tokens),
    }


def directions(lm: LanguageModel) -> dict[str, dict[Site, Tensor]]:
    own = {Site(layer): V * (layer + 1) for layer in range(lm.depth)}
    return {"v": own, "random": {site: unit(16, site.layer + 7) for site in own}}


def assert_same(a: GradientStatistics, b: GradientStatistics, atol: float = 1e-6, rtol: float = 1e-5) -> None:
    assert (a.sites, a.reduction, a.tokens, a.rows, a.responses) == (
        b.sites,
        b.reduction,
        b.tokens,
        b.rows,
        b.responses,
    )
    assert a.loss_sum == pytest.approx(b.loss_sum, rel=3 * rtol)  # float32, row by row and together
    for site, kinds in a.sums.items():
        for kind, own in kinds.items():
            other = b.sums[site][kind].tensors()
            for name, value in own.tensors().items():
                torch.testing.assert_close(value, other[name], rtol=rtol, atol=atol, msg=f"{site} {kind} {name}")


@pytest.mark.parametrize("name", [*ARCHITECTURES, "opt", "qwen3_moe", "gptj", "cohere2", "mamba", "lfm2", "bloom"])
def test_every_layer_in_one_pass_is_a_pass_for_each(name: str) -> None:
    lm = tiny(name) if name in ARCHITECTURES else breed(name)
    rows = some_rows(5)
    found = gradients(lm, rows, directions=directions(lm), moments="all")
    for layer in range(lm.depth):
        for tokens in ("response", "prompt", "all"):
            expected = oracle(lm, layer, rows, tokens)
            for key, value in told(found, layer, tokens).items():
                np.testing.assert_allclose(
                    value, expected[key], rtol=2e-4, atol=2e-6, err_msg=f"{layer} {tokens} {key}"
                )


@pytest.mark.parametrize("reduction", ["token", "row"])
def test_reductions(reduction: Reduction) -> None:
    lm = tiny("llama")
    rows = some_rows()
    found = gradients(lm, rows, reduction=reduction, directions=directions(lm))
    expected = oracle(lm, 1, rows, by_row=reduction == "row")
    for key, value in told(found, 1).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-4, atol=1e-6, err_msg=key)
    other = oracle(lm, 1, rows, by_row=reduction != "row")
    assert abs(other["loss"] / expected["loss"] - 1) > 1e-3


@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
@pytest.mark.parametrize(("name", "reduction"), [("gpt2", "token"), ("gpt2", "row"), ("opt", "token")])
def test_the_pressure_is_the_slope_of_the_loss(name: str, tokens: Tokens, reduction: Reduction) -> None:
    """d loss / d α, by central differences: the sum runs over every token that is steered.

    In float64, by families that don't compute norms or rotations in float32.
    """
    lm, layer, alpha, step = build(name) if name in ARCHITECTURES else breed(name), 1, 0.7, 1e-4
    lm.model.double()
    read: dict[Tokens, TokensRead] = {"all": "all", "prompt": "prompt", "generated": "response"}

    def at(strength: float) -> GradientStatistics:
        edits = (Edit(ADD, layer, strength, V.double() / V.double().norm(), tokens),)
        return gradients(lm, some_rows(edits=edits), sites=[Site(layer)], reduction=reduction)

    slope = (at(alpha + step).loss - at(alpha - step).loss) / (2 * step)
    assert -at(alpha).pressure(Site(layer), V, read[tokens]) == pytest.approx(slope, rel=1e-6)
    parts = [at(alpha).pressure(Site(layer), V, kind) for kind in ("prompt", "response", "all")]
    assert parts[0] + parts[1] == pytest.approx(parts[2]) and min(map(abs, parts)) > 1e-4


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_the_gradient_is_the_same_before_and_after_an_addition(name: str) -> None:
    """And it is that of the steered forward."""
    lm = tiny(name)
    rows = some_rows(edits=(Edit(ADD, 1, 2.0, V, "generated"),))
    before, after = gradients(lm, rows, taken="before edits"), gradients(lm, rows)
    assert_same(before, after)
    for row in rows[:2]:
        with Steering(lm, row.edits, prompt_lengths=[row.prompt_length]):
            loss, g = by_hand(lm, 1, row)
        alone = gradients(lm, [row])
        assert alone.loss_sum == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(alone.at(Site(1), "all").gradient, g.double().sum(0), rtol=1e-4, atol=1e-5)
    plain = gradients(lm, some_rows())
    assert not torch.allclose(plain.mean_gradient(Site(1)), after.mean_gradient(Site(1)), rtol=0.01)


def test_a_changed_gradient_is_read_before_and_after_its_change() -> None:
    lm = tiny("llama")
    plain = gradients(lm, some_rows(), directions=directions(lm))
    rows = some_rows(edits=(Edit(registry.get("steerers", "neutralise")(), 1, 1.0, V),))
    arrives = gradients(lm, rows, directions=directions(lm))
    goes_on = gradients(lm, rows, directions=directions(lm), taken="before edits")
    for found in (arrives, goes_on):
        assert found.loss == plain.loss
        for site in plain.sites[2:]:
            assert torch.equal(found.mean_gradient(site), plain.mean_gradient(site))
        assert not torch.allclose(found.mean_gradient(Site(0)), plain.mean_gradient(Site(0)), rtol=1e-3)
    site = Site(1)
    torch.testing.assert_close(arrives.mean_gradient(site), plain.mean_gradient(site))
    assert abs(plain.token_cosine(site, "v")) > 1e-3 > 1e-6 > abs(goes_on.token_cosine(site, "v"))
    g, v = plain.mean_gradient(site), V.double() / V.double().norm()
    torch.testing.assert_close(goes_on.mean_gradient(site), g - (g @ v) * v, rtol=1e-5, atol=1e-8)


def test_rows_together_one_by_one_and_in_shards() -> None:
    lm = tiny("qwen3")
    rows = some_rows(9, edits=(Edit(ADD, 0, 1.5, V),))
    rows = [
        row if number % 2 else GradientRow(row.ids, row.prompt_length, (), row.id) for number, row in enumerate(rows)
    ]
    options: dict[str, Any] = {"directions": directions(lm), "reduction": "row"}
    seen: list[tuple[int, int]] = []
    whole = gradients(lm, rows, **options, on_batch=lambda *done: seen.append(done))
    assert seen[-1][0] == seen[-1][1] == len(seen) < len(rows)
    assert_same(gradients(lm, rows, **options, batch_tokens=1), whole)
    shards = [gradients(lm, part, **options) for part in (rows[:2], rows[2:3], rows[3:])]
    assert_same(shards[0] + shards[1] + shards[2], whole)
    assert_same(gradients(lm, rows[::-1], **options), whole)


def test_padding_on_the_left_by_hand() -> None:
    """Two rows of unequal length, padded on the left under a mask, are the rows alone."""
    lm = tiny("llama")
    rows = some_rows(2)
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row.ids)) + list(row.ids) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows])
    states: list[Tensor] = []

    def keep(module: Any, args: Any, output: Tensor) -> None:
        states.append(output)

    handle = blocks_of(lm.model)[1].register_forward_hook(keep)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = lm.model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).logits
    handle.remove()
    own = mask.bool() & (places >= torch.tensor([[row.prompt_length] for row in rows]))
    loss = torch.nn.functional.cross_entropy(logits[:, :-1][own[:, 1:]], ids[:, 1:][own[:, 1:]], reduction="sum")
    (g,) = torch.autograd.grad(loss, states)
    found = gradients(lm, rows)
    torch.testing.assert_close(found.at(Site(1)).gradient, g[own].double().sum(0), rtol=1e-4, atol=1e-5)
    assert found.loss_sum == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize("options", CHECKPOINTS, ids=str)
def test_gradient_checkpointing(options: dict[str, bool]) -> None:
    edits = (Edit(ADD, 1, 2.0, V, "generated"), Edit(registry.get("steerers", "attenuate")(), 2, 1.0, V))
    sites = [Site(0), Site(1), Site(2), Site(1, "mlp"), Site(2, "q", "in"), Site(3)]
    plain = gradients(build("llama"), some_rows(edits=edits), sites=sites)
    found = gradients(checkpointed(build("llama"), options), some_rows(edits=edits), sites=sites)
    assert_same(found, plain)


def test_sites_inside_blocks_have_the_gradient_of_what_the_module_reads_and_makes() -> None:
    """q.in is the attention's input as far as q reads it; k and v read the same tensor."""
    lm, (row,) = tiny("llama"), some_rows(1)
    names = {
        Site(1, "q"): ("self_attn.q_proj", "out"),
        Site(1, "q", "in"): ("self_attn.q_proj", "in"),
        Site(1, "up"): ("mlp.up_proj", "out"),
        Site(1, "down", "in"): ("mlp.down_proj", "in"),
        Site(1, "mlp"): ("mlp", "out"),
    }
    found = gradients(lm, [row], sites=list(names))
    assert found.sites == tuple(sorted(names))
    for site, (name, side) in names.items():
        leaves: list[Tensor] = []

        def leaf(tensor: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
            leaves.append(tensor.detach().requires_grad_())
            return leaves[0]

        module: Any = lm.blocks[1].get_submodule(name)
        if side == "out":
            handle = module.register_forward_hook(lambda m, args, out, leaf=leaf: leaf(out))
        else:
            handle = module.register_forward_pre_hook(lambda m, args, leaf=leaf: (leaf(args[0]),))
        logits = lm.model(input_ids=torch.tensor([list(row.ids)]), use_cache=False).logits[0]
        handle.remove()
        first = row.prompt_length
        loss = torch.nn.functional.cross_entropy(logits[first - 1 : -1], torch.tensor(row.response), reduction="sum")
        (g,) = torch.autograd.grad(loss, leaves)
        expected = g[0, first:].double().sum(0)
        torch.testing.assert_close(found.at(site).gradient, expected, rtol=1e-4, atol=1e-5, msg=str(site))


def test_a_part_of_a_fused_projection() -> None:
    """GPT-2 makes q, k and v in one product."""
    lm = tiny("gpt2")
    found = gradients(lm, some_rows(3), sites=[Site(1, part) for part in ("q", "k", "v")])
    states: list[Tensor] = []
    expected = torch.zeros(48, dtype=torch.float64)
    for row in some_rows(3):
        states.clear()
        handle = lm.blocks[1].get_submodule("attn.c_attn").register_forward_hook(lambda m, a, out: states.append(out))
        logits = lm.model(input_ids=torch.tensor([list(row.ids)]), use_cache=False).logits[0]
        handle.remove()
        first = row.prompt_length
        loss = torch.nn.functional.cross_entropy(logits[first - 1 : -1], torch.tensor(row.response), reduction="sum")
        expected += torch.autograd.grad(loss, states)[0][0, first:].double().sum(0)
    parts = torch.cat([found.at(site).gradient for site in found.sites])
    torch.testing.assert_close(parts, expected, rtol=1e-4, atol=1e-5)


# --- the model stays as it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", ["all", "some", "none", "adapter"])
def test_the_model_is_left_as_it_was(training: str, fails: bool) -> None:
    """Gradients come to frozen models, too; parameters get none, and an adapter that is turned off comes back."""
    lm = wrap_with_lora() if training == "adapter" else build("llama")
    for number, parameter in enumerate(lm.model.parameters()):
        if training != "adapter":
            parameter.requires_grad_(training == "all" or (training == "some" and number % 3 == 0))
        if parameter.requires_grad and number % 2:
            parameter.grad = torch.ones_like(parameter)

    def state() -> list[Any]:
        own = lm.model.named_parameters()
        return [(name, p.clone(), p.requires_grad, None if p.grad is None else p.grad.clone()) for name, p in own]

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        if fails:
            raise ZeroDivisionError
        return cross_entropy(logits, targets)

    before, rows = state(), some_rows(edits=(Edit(ADD, 1, 2.0, V),))
    base = LanguageModel("base", lm.model, lm.tokenizer) if training == "adapter" else lm
    for own in (lm, base):
        if fails:
            with pytest.raises(ZeroDivisionError):
                gradients(own, rows, token_loss=loss)
        else:
            with torch.no_grad():
                found = gradients(own, rows, token_loss=loss)
            assert all(found.mean_gradient(site).abs().max() > 1e-4 for site in found.sites)
    for (name, value, flag, grad), (_, now, flag_now, grad_now) in zip(before, state(), strict=True):
        assert torch.equal(value, now) and flag == flag_now, name
        assert (grad is None and grad_now is None) or torch.equal(grad, grad_now), name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


def test_an_adapter_that_is_off_and_needed() -> None:
    """PEFT lets an adapter's parameters be trained again when it is turned on."""
    lm = wrap_with_lora()
    expected = gradients(lm, some_rows())
    lm.model.base_model.disable_adapter_layers()
    flags = [parameter.requires_grad for parameter in lm.model.parameters()]
    assert_same(gradients(lm, some_rows()), expected)
    assert [parameter.requires_grad for parameter in lm.model.parameters()] == flags
    assert all(parameter.grad is None for parameter in lm.model.parameters())


def test_with_an_adapter_and_without_it() -> None:
    lm, plain = wrap_with_lora(), build("llama")
    base = LanguageModel("base", lm.model, lm.tokenizer)
    assert_same(gradients(base, some_rows()), gradients(plain, some_rows()))
    adapted = gradients(lm, some_rows())
    assert adapted.loss != pytest.approx(gradients(plain, some_rows()).loss, rel=1e-3)
    np.testing.assert_allclose(
        adapted.mean_gradient(Site(1)), oracle(lm, 1, some_rows())["gradient"], rtol=1e-4, atol=1e-6
    )


def test_memory_that_runs_out_makes_smaller_batches() -> None:
    """A pass that fails on its way back leaves nothing in the sums."""
    lm = build("llama")
    expected = gradients(lm, some_rows(), directions=directions(lm))
    passes: list[int] = []

    def watch(module: Any, args: Any, output: Tensor) -> None:
        passes.append(output.shape[0] * output.shape[1])
        if passes[-1] > 60:
            output.register_hook(fail)

    def fail(grad: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    blocks_of(lm.model)[1].register_forward_hook(watch)
    assert_same(gradients(lm, some_rows(), directions=directions(lm)), expected)
    assert passes[0] > 60 >= passes[-1]


def test_half_precision() -> None:
    lm = build("llama")
    exact = gradients(lm, some_rows())
    lm.model.bfloat16()
    found = gradients(lm, some_rows())
    assert found.loss == pytest.approx(exact.loss, rel=0.02)
    for site in exact.sites:
        assert found.mean_gradient(site).dtype == torch.float64
        assert torch.cosine_similarity(found.mean_gradient(site), exact.mean_gradient(site), dim=0) > 0.99
        moment = found.at(site).moment
        assert moment is not None and float(moment.trace()) == pytest.approx(float(found.at(site).square), rel=1e-5)


# --- two settings -----------------------------------------------------------------------------------------------------


def settings() -> tuple[list[GradientRow], list[GradientRow], list[GradientRow]]:
    """Rows without a defence, steered, and with a longer prompt."""
    plain = some_rows()
    steered = some_rows(edits=(Edit(ADD, 1, 2.0, V),))
    prompted = [GradientRow([9, 30, 4, *row.ids], row.prompt_length + 3, (), row.id) for row in plain]
    return plain, steered, prompted


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "mamba"])
def test_differences_token_by_token(name: str) -> None:
    lm = tiny(name) if name in ARCHITECTURES else breed(name)
    plain, _, prompted = settings()
    found = gradients(lm, prompted, against=plain, directions=directions(lm))
    pairs = []
    for row, other in zip(prompted, plain, strict=True):
        ours, theirs = by_hand(lm, 1, row)[1][row.prompt_length :], by_hand(lm, 1, other)[1][other.prompt_length :]
        pairs.append((ours - theirs).double().numpy())
    g, v = np.concatenate(pairs), V.numpy()
    lengths = np.linalg.norm(g, axis=1)
    own = g[lengths > 0]
    spectrum = np.linalg.eigvalsh(g.T @ g)
    site = Site(1)
    np.testing.assert_allclose(found.mean_gradient(site), g.mean(0), rtol=1e-3, atol=1e-6)
    assert found.token_cosine(site, "v") == pytest.approx(np.mean(-own @ v / lengths[lengths > 0]), rel=1e-3)
    assert found.participation(site) == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum(), rel=1e-3)
    with pytest.raises(SteerkitError, match="tokens: all: there are no gradients of prompt tokens here"):
        found.mean_gradient(site, "all")
    assert_same(gradients(lm, prompted, against=plain, directions=directions(lm), batch_tokens=1), found)


def test_models_that_cannot_be_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one length share a pass; a counterpart of another length has its own."""
    batches: list[list[int]] = []

    def spy(rows: Sequence[GradientRow], reduction: Reduction) -> PaddedRows:
        batches.append([len(row.ids) for row in rows])
        return padded(rows, reduction)

    monkeypatch.setattr("steerkit.extraction.gradient_pass.padded", spy)
    rows = [
        GradientRow([*[7] * (30 - len(row.ids)), *row.ids], 30 - len(row.response), (), row.id) for row in some_rows()
    ]
    gradients(breed("mamba"), [*rows, *some_rows(3)])
    assert len(rows) in map(len, batches) and all(len(set(lengths)) == 1 for lengths in batches)
    batches.clear()
    gradients(breed("mamba"), rows, against=some_rows())
    assert sorted(map(len, batches)) == [1] * 2 * len(rows)


def test_shifts_of_mean_gradients() -> None:
    lm = tiny("llama")
    plain, steered, prompted = (gradients(lm, rows) for rows in settings())
    pps, ip = shift(steered, plain), shift(prompted, plain)
    rows = settings()
    for found, statistics, own in ((pps, steered, rows[1]), (ip, prompted, rows[2])):
        one_by_one = gradients(lm, own, against=rows[0])
        assert found.loss == pytest.approx(statistics.loss - plain.loss) == pytest.approx(one_by_one.loss, rel=1e-4)
        for site in plain.sites:
            delta = statistics.mean_gradient(site) - plain.mean_gradient(site)
            expected = float(-delta @ V.double() / delta.norm() / V.double().norm())
            assert (
                found.cosine(site, 2 * V)
                == pytest.approx(expected)
                == pytest.approx(one_by_one.cosine(site, V), rel=1e-3)
            )
    a, b = pps.gradients[Site(1)], ip.gradients[Site(1)]
    assert pps.alignment(Site(1), ip) == pytest.approx(float(a @ b / a.norm() / b.norm()))
    assert pps.alignment(Site(2), pps) == pytest.approx(1)


def test_shifts_of_other_things_are_refused() -> None:
    lm = tiny("llama")
    plain, steered, _ = settings()
    found = gradients(lm, plain)
    for other, what in (
        (gradients(lm, steered[1:]), "responses"),
        (gradients(lm, some_rows(seed=5)), "responses"),
        (gradients(build("llama", 1), steered), "weights"),
        (gradients(lm, steered, sites=[Site(1)]), "sites"),
        (gradients(lm, steered, reduction="row"), "reductions"),
    ):
        with pytest.raises(SteerkitError, match=f"gradients with a defence and without it are of different {what}"):
            shift(other, found)


# --- participation ----------------------------------------------------------------------------------------------------


def sums(g: Tensor) -> GradientSums:
    g = g.double()
    zero = torch.zeros((), dtype=torch.float64)
    return GradientSums(g.sum(0), g.square().sum(), zero + len(g), g.new_zeros(0), zero, g.T @ g)


def test_participation_of_known_gradients() -> None:
    draw = torch.Generator().manual_seed(0)
    g = torch.randn(9, 20, generator=draw, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(20, 20, generator=draw, dtype=torch.float64))[0]
    assert sums(g[:, :1] * g[:1]).participation() == pytest.approx(1)
    assert sums(rotation[:7]).participation() == pytest.approx(7)
    assert sums(rotation[:7]).participation("centred") == pytest.approx(6)
    assert sums(torch.eye(20)[3:4]).participation("coordinates") == pytest.approx(1)
    assert sums(torch.ones(3, 20)).participation("coordinates") == pytest.approx(20)
    assert sums(g + 5 * g[:1]).participation() < sums(g + 5 * g[:1]).participation("centred")
    for kind in ("spectrum", "centred"):
        once = sums(g).participation(kind)
        assert 1 <= once <= 9
        for other in (1e-6 * g, g @ rotation, -g):
            assert sums(other).participation(kind) == pytest.approx(once)
    with pytest.raises(SteerkitError, match="participation: there is no 'spectra'; did you mean 'spectrum'"):
        sums(g).participation("spectra")


def test_second_moments_that_were_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny("llama")
    found = gradients(lm, some_rows(3), moments=None)
    assert found.participation(Site(1), "coordinates") >= 1
    for tokens in ("response", "all"):
        with pytest.raises(SteerkitError, match="participation spectrum takes the gradients' second moments"):
            found.participation(Site(1), tokens=tokens)
    monkeypatch.setattr("steerkit.extraction.gradient_totals.EXACT", 20)
    found = gradients(lm, some_rows(3), sites=[Site(1), Site(1, "up")])
    assert found.participation(Site(1)) >= 1
    with pytest.raises(SteerkitError, match="up to 4096 wide"):
        found.participation(Site(1, "up"))


# --- file and errors --------------------------------------------------------------------------------------------------


def test_a_file_holds_everything(tmp_path: Path) -> None:
    lm = tiny("llama")
    sites = [Site(1), Site(1, "q", "in"), Site(2, "mlp")]
    found = gradients(lm, some_rows(), sites=sites, directions={"v": dict.fromkeys(sites, V)}, reduction="row")
    path = tmp_path / "gradients.safetensors"
    found.save(path)
    read = GradientStatistics.load(path)
    assert_same(read, found, atol=0, rtol=0)
    assert (read.directions, read.meta, read.loss) == (found.directions, found.meta, found.loss)
    assert_same(read + found, found + found)
    differences = gradients(lm, some_rows(), against=some_rows())
    differences.save(path)
    assert GradientStatistics.load(path).mean_gradient(Site(1)).abs().max() == 0


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_damaged_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "gradients.safetensors"
    gradients(tiny("llama"), some_rows(2)).save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SteerkitError, match="not a file of gradient statistics"):
        GradientStatistics.load(path)


def test_a_file_of_something_else(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    for tensors, head in (
        ({"a": V}, None),
        ({"0.response.gradient": V}, {"gradients": "{}"}),
        ({"0.response.gradient": V}, {"gradients": '{"sites": [{"layer": 1}], "directions": {}}'}),
    ):
        save_file(tensors, path, head)
        with pytest.raises(SteerkitError, match="not a file of gradient statistics"):
            GradientStatistics.load(path)


def test_what_cannot_be_added_or_read() -> None:
    lm = tiny("llama")
    found = gradients(lm, some_rows(2), directions=directions(lm))
    for other, what in (
        (gradients(lm, some_rows(2), directions=directions(lm), sites=[Site(1)]), "sites"),
        (gradients(lm, some_rows(2), directions=directions(lm), reduction="row"), "reductions"),
        (gradients(lm, some_rows(2)), "directions"),
        (gradients(build("llama", 1), some_rows(2), directions=directions(lm)), "weights"),
    ):
        with pytest.raises(SteerkitError, match=f"gradients of different {what} can't be added"):
            found + other
    with pytest.raises(SteerkitError, match=r"block 9 has no gradients here; there are those of block 0, block 1"):
        found.mean_gradient(Site(9))
    with pytest.raises(SteerkitError, match="directions: none is called 'randm'; did you mean 'random'"):
        found.token_cosine(Site(1), "randm")
    with pytest.raises(SteerkitError, match="a direction to project gradients on is zero or not finite"):
        found.pressure(Site(1), 0 * V)


def test_wrong_input_is_told_at_once() -> None:
    lm = tiny("llama")
    good = some_rows(2)
    bad = [GradientRow([5, 6], 0), good[0], GradientRow([5, 6], 2)]
    with pytest.raises(InputError) as caught:
        gradients(lm, bad)
    assert [problem.where for problem in caught.value.problems] == ["rows[0]", "rows[2]"]
    assert "rows[2]: its prompt has 2 of 2 tokens; give it a token of the prompt and one of the response" in str(
        caught.value
    )
    with pytest.raises(InputError, match="rows: there is no row"):
        gradients(lm, [])
    with pytest.raises(InputError, match=r"against\[0\]: its response is not that of the row"):
        gradients(lm, good, against=good[::-1])
    with pytest.raises(InputError, match="against: 1 rows for 2"):
        gradients(lm, good, against=good[:1])
    with pytest.raises(SteerkitError, match="token 99 is not in the model's embedding"):
        gradients(lm, [GradientRow([5, 99], 1)])
    with pytest.raises(SteerkitError, match="block 9: llama has 4 blocks"):
        gradients(lm, good, sites=[Site(9)])
    with pytest.raises(InputError) as caught:
        gradients(lm, good, directions={"a": {Site(1): V}, "b": {Site(layer): 0 * V for layer in range(4)}})
    assert [problem.where for problem in caught.value.problems] == ["directions['a']", "directions['b']"]


def test_gradients_that_are_not_finite() -> None:
    lm = tiny("llama")

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets) * 1e38

    with pytest.raises(SteerkitError, match=r"row 'r\d': the gradient at block \d is not finite; half precision"):
        gradients(lm, some_rows(), token_loss=loss)


def test_a_module_that_two_blocks_share() -> None:
    lm = build("llama")
    lm.blocks[2].mlp = lm.blocks[1].mlp
    with pytest.raises(SteerkitError, match=r"llama: block 1 \(mlp.out\): its module runs more than once in a pass"):
        gradients(lm, some_rows(2), sites=[Site(1, "mlp")])
    assert gradients(lm, some_rows(2)).sites == tuple(Site(layer) for layer in range(4))


def test_a_loss_of_ones_own() -> None:
    lm, rows = tiny("llama"), some_rows()
    half = gradients(lm, rows, token_loss=lambda logits, targets: cross_entropy(logits, targets) / 2)
    torch.testing.assert_close(half.mean_gradient(Site(1)) * 2, gradients(lm, rows).mean_gradient(Site(1)))
    with pytest.raises(SteerkitError, match="token_loss: its losses don't depend on the logits"):
        gradients(lm, rows, token_loss=lambda logits, targets: 0.0 * targets)


def test_logits_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, rows = tiny("llama"), some_rows()
    whole = gradients(lm, rows, reduction="row")
    monkeypatch.setattr("steerkit.extraction.token_losses.ROOM", 3 * VOCABULARY)
    seen: list[int] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        seen.append(len(targets))
        return cross_entropy(logits, targets)

    assert_same(gradients(lm, rows, reduction="row", token_loss=loss), whole)
    assert max(seen) == 3 and sum(seen) == whole.tokens


def test_the_code_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs/gradients.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in text.split("```python\n")[1:]:
        exec(block.split("```")[0], names)
    assert GradientStatistics.load(tmp_path / "gradients.safetensors").loss == names["found"].loss > 0
    assert names["pps"].loss != names["none"].loss
