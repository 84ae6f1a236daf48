"""Objective `bridging` against whole passes and numpy, and its exact cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from steerkit_plugins.transcoder import bridging_passes
from steerkit_plugins.transcoder.bridging_pair import Pair
from steerkit_plugins.transcoder.bridging_passes import halves_of
from steerkit_plugins.transcoder.objective import Bridging
from steerkit_plugins.transcoder.units import transcoder_groups
from tiny import build
from tiny_training import push
from tiny_transcoder import AtBlock, adapter, batch, hybrid, shaken, whole_pass, with_transcoder
from torch import Tensor, nn
from torch.nn.functional import log_softmax
from zoo import breed

from steerkit.errors import SteerkitError
from steerkit.interventions.steering import Steering
from steerkit.models.language_model import LanguageModel
from steerkit.models.parts_from import put_parts
from steerkit.training.as_before import without_dropout
from steerkit.training.contract import Batch
from steerkit.training.masks import IGNORED

DOUBLE = torch.float64


def trained(lm: LanguageModel) -> dict[str, nn.Parameter]:
    return {name: p for name, p in lm.model.named_parameters() if p.requires_grad}


def gradients(lm: LanguageModel, total: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(total, list(trained(lm).values())))


def counts_of(given: Batch, tokens: str) -> Tensor:
    found = torch.zeros_like(given.mask, dtype=torch.bool)
    found[:, :-1] = (given.mask == 1)[:, 1:] if tokens == "all" else (given.labels != IGNORED)[:, 1:]
    return found


def whole(lm: LanguageModel, given: Batch, k: int) -> Tensor:
    """The paper's loss by four whole passes of the student's and the target's, tokens pooled; L1 weighs 0.1."""
    depth, at = lm.depth, counts_of(given, "all")
    with torch.no_grad():
        reference, states, _ = whole_pass(lm, given, range(depth))
    p = log_softmax(reference, -1)

    def kl(logits: Tensor) -> Tensor:
        return (p.exp() * (p - log_softmax(logits, -1))).sum(-1)[at].mean()

    student, own, features = whole_pass(lm, given, ())
    nmse = sum(((a - b)[at] ** 2).sum() / (b[at] ** 2).sum() for a, b in zip(own, states, strict=True))
    l1 = sum(
        (f[at] @ g.transcoder.decoder.weight.norm(dim=0)).mean()
        for f, g in zip(features, transcoder_groups(lm), strict=True)
    )
    bridge = kl(whole_pass(lm, given, range(k, depth))[0]) + kl(whole_pass(lm, given, range(k))[0])
    return kl(student) + bridge + nmse / depth + 0.1 * l1


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "gpt2", "phi3", "cohere"])
def test_shared_prefixes_are_whole_passes(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients, with padding; also where a model can't begin at a block."""
    lm, given = hybrid(architecture, dtype=DOUBLE), batch()
    for k in range(1, lm.depth + 1):
        found, asked = AtBlock(k, l1=0.1).loss(lm, given).total, whole(lm, given, k)
        torch.testing.assert_close(found, asked, rtol=1e-6, atol=0)
        for a, b in zip(gradients(lm, found), gradients(lm, asked), strict=True):
            assert (a - b).norm() <= 1e-6 * b.norm()
    assert bridging_passes._begins[lm.decoder] == set(range(1, lm.depth))
    monkeypatch.setitem(bridging_passes._begins, lm.decoder, frozenset())
    torch.testing.assert_close(AtBlock(1, l1=0.1).loss(lm, given).total, whole(lm, given, 1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("average", ["tokens", "sequences"])
@pytest.mark.parametrize("tokens", ["all", "response"])
def test_terms_are_those_of_numpy(average: str, tokens: str) -> None:
    lm, given = hybrid("llama", dtype=DOUBLE), batch()
    with torch.no_grad():
        reference, states, _ = whole_pass(lm, given, range(lm.depth))
        logits, own, features = whole_pass(lm, given, ())
        mixed = [whole_pass(lm, given, range(2, lm.depth))[0], whole_pass(lm, given, range(2))[0]]
    at = counts_of(given, tokens).numpy()

    def mean(values: Any) -> float:
        rows = [values[n][at[n]] for n in range(len(at))]
        return float(np.concatenate(rows).mean() if average == "tokens" else np.mean([row.mean() for row in rows]))

    def ratio(error: Any, size: Any) -> float:
        if average == "tokens":
            return float(error[at].sum() / size[at].sum())
        return float(np.mean([error[n][at[n]].sum() / size[n][at[n]].sum() for n in range(len(at))]))

    def probabilities(x: Tensor) -> Any:
        e = np.exp(x.numpy() - x.numpy().max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    p = probabilities(reference)
    kl = [mean((p * np.log(p / probabilities(q))).sum(-1)) for q in (logits, *mixed)]
    errors = [((a - b) ** 2).sum(-1).numpy() for a, b in zip(own, states, strict=True)]
    sizes = [(b**2).sum(-1).numpy() for b in states]
    groups = transcoder_groups(lm)
    norms = [np.sqrt((g.transcoder.decoder.weight.detach().numpy() ** 2).sum(0)) for g in groups]
    asked = {
        "kl": kl[0],
        "student_then_target": kl[1],
        "target_then_student": kl[2],
        "l1": sum(mean(f.numpy() @ n) for f, n in zip(features, norms, strict=True)),
        "l0": np.mean([mean((f.numpy() > 0).sum(-1)) for f in features]),
    }
    by_form = {
        "ratio_of_sums": [ratio(e, s) for e, s in zip(errors, sizes, strict=True)],
        "per_token": [mean(e / s) for e, s in zip(errors, sizes, strict=True)],
    }
    for form, nmse in by_form.items():
        objective = AtBlock(2, average=average, tokens=tokens, nmse_form=form, kl=0.5, bridge=0.25, nmse=2.0, l1=0.1)
        with torch.no_grad():
            found = objective.loss(lm, given)
        parts = {name: float(part) for name, part in found.parts.items()}
        terms = asked | {"nmse": np.mean(nmse)} | {f"nmse.{layer}": value for layer, value in enumerate(nmse)}
        assert parts == pytest.approx(terms, rel=1e-6)
        total = 0.5 * kl[0] + 0.25 * (kl[1] + kl[2]) + 2 * np.mean(nmse) + 0.1 * asked["l1"]
        assert float(found.total) == pytest.approx(total, rel=1e-6)


def test_presets() -> None:
    """In the authors' code a mixed model that is whole counts once more, and embeddings count in the mean."""
    lm, given = hybrid("llama"), batch()
    for k, more in ((0, 1), (lm.depth, 1), (2, None)):
        paper, theirs = AtBlock(k).loss(lm, given), AtBlock(k, preset="author-code").loss(lm, given)
        kl, a, b = (float(paper.parts[n]) for n in ("kl", "student_then_target", "target_then_student"))
        assert float(theirs.parts["nmse"]) == pytest.approx(0.8 * float(paper.parts["nmse"]))
        doubled = kl + 2 * (a + b) + 0.8 * float(paper.parts["nmse"]) + 1e-3 * float(paper.parts["l1"])
        assert float(theirs.total.detach()) == pytest.approx(doubled, rel=1e-5)
        assert more is None or a + b == kl
    assert AtBlock(1, preset="author-code", bridge=0.5).weights["bridge"] == 0.5
    assert {Bridging()._cut(lm, given) for _ in range(60)} == {1, 2, 3, 4}
    assert {Bridging(preset="author-code")._cut(lm, given) for _ in range(80)} == {0, 1, 2, 3, 4}


def test_cuts_of_held_out_rows_are_not_drawn() -> None:
    lm = hybrid("llama")
    torch.manual_seed(3)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    rows = [Batch(*(batch().ids,) * 3, (4,) * 3, (n, n + 1, n + 2), 1) for n in range(0, 15, 3)]
    with torch.no_grad():
        assert [Bridging()._cut(lm, each) for each in rows] == [1, 2, 3, 4, 1]
        Bridging().loss(lm, batch())
    assert torch.equal(torch.rand(2), drawn)


def test_the_first_step_moves_decoders_alone() -> None:
    lm, given = hybrid("llama", on=False), batch()
    with torch.no_grad():
        before = lm.model(input_ids=given.ids, attention_mask=given.mask, use_cache=False).logits
    lm = adapter().attach(lm, seed=0)
    halves = halves_of(lm, given.ids, given.mask)
    with torch.no_grad():
        states = halves.states()
        assert torch.equal(torch.stack([halves.logits(row) for row in states]), before)  # bit for bit the hybrid's
    Bridging(l1=0.1).loss(lm, given).total.backward()
    moving = {name for name, p in trained(lm).items() if p.grad is not None and bool(p.grad.any())}
    assert moving == {name for name in trained(lm) if ".decoder." in name}
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in lm.model.parameters())
    others = [p for p in lm.model.parameters() if not p.requires_grad]
    others += [p for before, _ in lm.transformer.steerkit_swapped.modules.values() for p in before.parameters()]
    assert all(p.grad is None for p in others)


def test_mixed_models_at_both_ends_are_the_pure_ones() -> None:
    """The target is the model as it was before the base's MLPs were put in, bit for bit."""
    lm, given, target = hybrid("llama"), batch(), breed("llama", 1)
    halves, pair, below = halves_of(lm, given.ids, given.mask), Pair.of(lm), dict[int, Any]()
    with torch.no_grad():
        with pair.playing(pair.whole):
            states = halves.states(below)
            again = [halves.states(first=k, below=below) for k in range(1, lm.depth + 1)]
        asked = target.decoder(input_ids=given.ids, attention_mask=given.mask, use_cache=False)[0]
        assert torch.equal(states, asked) and all(torch.equal(states, each) for each in again)
        student = halves.states(below)
        with pair.playing(()):
            again = [halves.states(first=k, below=below) for k in range(1, lm.depth + 1)]
    assert all(torch.equal(student, each) for each in again) and not torch.equal(student, states)
    assert not any("forward" in vars(module) for module in lm.model.modules())


class Planted(nn.Module):
    """An MLP that is another one and a transcoder."""

    def __init__(self, mlp: nn.Module, added: nn.Module) -> None:
        super().__init__()
        self.mlp, self.added = mlp, added

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(x) + self.added(x)
        return out


def test_a_planted_adapter_is_found_at_zero() -> None:
    lm, given = hybrid("llama"), batch()
    groups = transcoder_groups(lm)
    modules = lm.transformer.steerkit_swapped.modules
    for group, (name, (_, base)) in zip(groups, list(modules.items()), strict=True):
        modules[name] = (Planted(base, group.transcoder), base)
    found = AtBlock(2).loss(lm, given).parts
    assert all(float(found[name]) == 0 for name in ("kl", "student_then_target", "target_then_student", "nmse"))
    assert float(found["l0"]) > 0


def test_scale_and_order_of_features_do_not_matter() -> None:
    lm, given = hybrid("llama", dtype=DOUBLE), batch()
    before = {name: float(part) for name, part in AtBlock(2).loss(lm, given).parts.items()}
    for group in transcoder_groups(lm):
        t, order = group.transcoder, torch.randperm(group.count)
        by = torch.rand(group.count, dtype=DOUBLE) + 0.5
        with torch.no_grad():
            t.encoder.weight.copy_((by[:, None] * t.encoder.weight)[order])
            t.encoder.bias.copy_((by * t.encoder.bias)[order])
            t.decoder.weight.copy_((t.decoder.weight / by)[:, order])
    after = {name: float(part) for name, part in AtBlock(2).loss(lm, given).parts.items()}
    assert after == pytest.approx(before, rel=1e-6)


def test_micro_batches_add_up() -> None:
    """KL over learned tokens does for rows of any lengths; all terms but ratios of sums do for rows of one length."""
    lm = hybrid("llama", dtype=DOUBLE)
    for options, padded in (
        ({"bridge": 0.0, "nmse": 0.0, "l1": 0.0, "tokens": "response"}, True),
        ({"nmse_form": "per_token"}, False),
        ({"nmse_form": "per_token", "average": "sequences"}, False),
        ({"average": "sequences"}, False),
    ):
        one = AtBlock(2, **options).loss(lm, batch(padded=padded)).total
        each = [AtBlock(2, **options).loss(lm, batch(padded=padded, rows=slice(n, n + 1))).total for n in range(3)]
        torch.testing.assert_close(torch.stack(each).sum(), one, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_gradient_checkpointing_keeps_roles(architecture: str) -> None:
    lm, given, objective = hybrid(architecture), batch(), AtBlock(1, l1=0.1)
    lm.model.train()
    model = lm.transformer
    with without_dropout(lm.model):
        asked = objective.loss(lm, given).total
        slopes = gradients(lm, asked)
        for reentrant in (False, True):
            saving = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            saving({"use_reentrant": reentrant})
            if reentrant:
                with pytest.raises(SteerkitError, match="use_reentrant: false"):
                    objective.loss(lm, given)
            else:
                total = objective.loss(lm, given).total
                total.backward()
                assert torch.equal(total, asked)
                assert all(torch.equal(p.grad, g) for p, g in zip(trained(lm).values(), slopes, strict=True))


def test_half_precision() -> None:
    """Under autocast, and with bfloat16 weights around a float32 adapter."""
    lm, given, objective = hybrid("llama"), batch(), AtBlock(2)
    asked = float(objective.loss(lm, given).total.detach())
    with torch.autocast("cpu", torch.bfloat16):
        assert float(objective.loss(lm, given).total.detach()) == pytest.approx(asked, rel=2e-2)
    for name, weight in lm.model.named_parameters():
        if "transcoder" not in name:
            weight.data = weight.data.bfloat16()
    for before, _ in lm.transformer.steerkit_swapped.modules.values():
        before.bfloat16()
    total = objective.loss(lm, given).total
    total.backward()
    assert float(total.detach()) == pytest.approx(asked, rel=5e-2) and total.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 and bool(p.grad.isfinite().all()) for p in trained(lm).values())


def test_chunks_do_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from steerkit_plugins.transcoder import bridging_terms

    lm, given, objective = hybrid("gemma2", dtype=DOUBLE), batch(), AtBlock(2)
    asked = objective.loss(lm, given).total
    monkeypatch.setattr(bridging_terms, "CPU_CHUNK", 1)
    monkeypatch.setattr(bridging_terms, "LEAST", 5)
    found = objective.loss(lm, given).total
    torch.testing.assert_close(found, asked, rtol=1e-7, atol=0)
    for a, b in zip(gradients(lm, found), gradients(lm, asked), strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()


def test_dead_features_are_counted_in_rows() -> None:
    lm, given = hybrid("llama"), batch()
    with torch.no_grad():
        transcoder_groups(lm)[1].transcoder.encoder.weight[:2] = 0
        transcoder_groups(lm)[1].transcoder.encoder.bias[:2] = -1
    objective = AtBlock(2)
    found = [float(objective.loss(lm, given).parts["dead.100"]) for _ in range(34)]
    silent = int((objective.state(lm)["idle"] >= 100).sum())
    assert found[:33] == [0] * 33 and found[33] == pytest.approx(silent / 24) and silent >= 2
    other = AtBlock(2)
    other.restore(lm, objective.state(lm))
    assert torch.equal(other.state(lm)["idle"], objective.state(lm)["idle"])


def test_what_it_can_not_train_is_told() -> None:
    given = batch()
    with pytest.raises(SteerkitError, match="trains a hybrid"):
        Bridging().loss(with_transcoder("llama"), given)
    with pytest.raises(SteerkitError, match="no transcoder adapter"):
        Bridging().loss(hybrid("llama", on=False), given)
    lm = build("llama", 1)
    lm.model.steerkit_swapped = put_parts(lm, build("llama", 0), ["mlp", "head"])
    with pytest.raises(SteerkitError, match="and nothing else of the base"):
        Bridging().loss(shaken(adapter().attach(lm, seed=0)), given)
    lm = hybrid("llama")
    with pytest.raises(SteerkitError, match="without interventions"), Steering(lm, [push()[0]] * 3):
        Bridging().loss(lm, given)
    assert math.isfinite(float(Bridging().loss(lm, given).total.detach()))
