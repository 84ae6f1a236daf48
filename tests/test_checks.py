"""Each of `steerkit check`'s invariants can fail; that they hold on every family is tried in `test_families`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from zoo import breed

from steerkit.checks import probe as probes
from steerkit.checks.outcome import Check, Measured, Outcome, Skip
from steerkit.checks.probe import make_probe
from steerkit.checks.suite import CHECKS, run_checks
from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel

ABSENT = {"weights complete", "adapter has an effect"}  # models from memory, without an adapter
SITES = {check.name for check in CHECKS if check.name.startswith("site: ")}
TEXTS = {"greedy = HF generate", "refilled = alone"}
quiet = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21's


def not_passed(outcomes: list[Outcome]) -> set[str]:
    """Names of the checks that were skipped; what failed is shown in full."""
    assert [str(outcome) for outcome in outcomes if outcome.passed is False] == []
    return {outcome.name for outcome in outcomes if outcome.passed is None}


def failed(lm: LanguageModel, layers: tuple[int, ...] = (0, 2, 3)) -> set[str]:
    return {outcome.name for outcome in run_checks(make_probe(lm, layers)) if outcome.passed is False}


def bypass(lm: LanguageModel) -> None:
    """Block 1 is called in a way that runs no hook."""
    block: Any = lm.blocks[1]

    class Bypassed(type(block)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.forward(*args, **kwargs)

    block.__class__ = Bypassed


@quiet
def test_a_block_whose_hook_never_fires() -> None:
    lm = breed("llama")
    bypass(lm)
    assert failed(lm, (2,)) == {"hooks = hidden states", "extract = numpy"}  # HF's own states lack the block, too
    assert failed(lm, (1,)) == {check.name for check in CHECKS} - ABSENT


@quiet
def test_a_layer_list_that_is_off_by_one(monkeypatch) -> None:
    lm = breed("llama")
    shifted = property(lambda self: [self.decoder.layers[max(layer - 1, 0)] for layer in range(4)])
    monkeypatch.setattr(LanguageModel, "blocks", shifted)
    expected = {"hooks = hidden states", "extract = numpy"} | SITES
    assert failed(lm, (1, 2)) == expected
    assert failed(lm, (1, 3)) == expected | {"the edit lands"}


def ignore_mask(lm: LanguageModel) -> None:
    def drop(module: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "attention_mask": None}

    for block in lm.blocks:
        block.self_attn.register_forward_pre_hook(drop, with_kwargs=True)


def mix_cache(lm: LanguageModel) -> None:
    def roll(module: Any, args: Any, output: Any) -> None:
        for layer in output.past_key_values.layers if output.past_key_values else ():
            layer.keys, layer.values = layer.keys.roll(1, 0), layer.values.roll(1, 0)

    lm.decoder.register_forward_hook(roll)


def first_row_differs(lm: LanguageModel) -> None:
    def push(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:1] * 1.5, output[1:]]) if len(output) > 1 else output

    lm.model.lm_head.register_forward_hook(push)


def tremble(lm: LanguageModel) -> None:
    """Not deterministic in the last bits."""
    lm.model.lm_head.register_forward_hook(lambda module, args, output: output * (1 + 1e-6 * torch.rand(1)))


def forget_first(lm: LanguageModel) -> None:
    """`generate` reads the prompts without their first column."""
    generate = lm.model.generate
    lm.model.generate = lambda input_ids, attention_mask, **options: generate(
        input_ids[:, 1:], attention_mask=attention_mask[:, 1:], **options
    )


def coarse(lm: LanguageModel) -> None:
    """The last norm's input loses digits; in float32 there are enough of them."""
    lm.final_norm.register_forward_pre_hook(lambda module, args: ((args[0] + 150) - 150,))


@quiet
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (ignore_mask, {"left-padded = alone"}),
        (mix_cache, {"cache = no cache"}),
        (first_row_differs, {"batch = single", "left-padded = alone", "row order irrelevant"}),
        (tremble, {"strength 0 = unsteered"}),
        (forget_first, {"positions counted"}),
        (coarse, {"half = float32"}),
    ],
)
def test_a_faulty_model_fails_the_right_check(fault: Callable[[LanguageModel], None], expected: set[str]) -> None:
    lm = breed("llama")
    fault(lm)
    found = failed(lm, (0, 2))
    assert found - TEXTS == expected
    if fault in (ignore_mask, mix_cache, forget_first):
        assert found & TEXTS
    if fault in (tremble, coarse):
        assert not found & TEXTS


@quiet
def test_an_edit_without_its_sign(monkeypatch) -> None:
    monkeypatch.setattr(probes.Add, "edit", lambda self, hidden, at: hidden + at.norm.abs() * at.direction)
    assert failed(breed("llama")) == {"+s then -s = unsteered"}


@quiet
def test_an_edit_at_every_second_token(monkeypatch) -> None:
    monkeypatch.setattr(
        probes.Add, "edit", lambda self, hidden, at: hidden + at.norm * at.direction * (at.position % 2)[..., None]
    )
    assert failed(breed("llama")) == {"the edit lands"} | SITES


@quiet
def test_an_adapter_that_is_lost_in_merging(monkeypatch) -> None:
    from peft.tuners.lora import LoraModel

    monkeypatch.setattr(LoraModel, "merge_and_unload", LoraModel.unload)
    assert failed(breed("llama")) == {"wrapped = merged"}


@quiet
def test_a_dispatch_that_loses_a_weight(monkeypatch) -> None:
    import accelerate

    dispatch = accelerate.dispatch_model

    def broken(model: Any, *args: Any, **options: Any) -> Any:
        model.model.layers[0].mlp.down_proj.weight.data.zero_()
        return dispatch(model, *args, **options)

    monkeypatch.setattr(accelerate, "dispatch_model", broken)
    assert failed(breed("llama")) == {"dispatched = whole"}


@quiet
@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe"])
def test_bfloat16_models_pass(architecture: str) -> None:
    lm = breed(architecture)
    lm.model.to(torch.bfloat16)
    experts = {"site: gate", "site: up", "site: down"} if architecture == "qwen3_moe" else set()
    assert not_passed(run_checks(make_probe(lm))) == ABSENT | experts


@quiet
def test_a_peft_model_is_checked_with_its_own_adapter(lora) -> None:
    outcomes = {outcome.name: outcome for outcome in run_checks(make_probe(lora))}
    assert not_passed(list(outcomes.values())) == {"weights complete"}
    assert outcomes["wrapped = merged"].detail.startswith("its own adapter")
    assert lora.model_is_wrapped and lora.model.active_adapters == ["default"]


def test_what_breaks_off_has_failed_and_what_cannot_be_made_is_skipped() -> None:
    def breaks(probe: Any) -> Measured:
        raise ZeroDivisionError("one\ntwo")

    def can_not(probe: Any) -> Measured:
        raise Skip("no time")

    checks = [Check("a", breaks), Check("b", can_not), Check("c", lambda probe: Measured(float("nan"), 1.0))]
    outcomes = run_checks(make_probe(breed("llama")), checks)
    assert [(o.verdict, o.detail) for o in outcomes] == [
        ("FAIL", "broke off: ZeroDivisionError: one"),
        ("skipped", "no time"),
        ("FAIL", ""),
    ]


def test_a_large_or_dispatched_model_is_not_copied(monkeypatch) -> None:
    from steerkit.checks import weights

    copies = [check for check in CHECKS if check.name in ("dispatched = whole", "wrapped = merged", "half = float32")]
    outcomes = run_checks(make_probe(breed("llama"), placed=True), copies)
    assert [outcome.verdict for outcome in outcomes] == ["skipped"] * 3
    assert "already dispatched" in outcomes[0].detail
    monkeypatch.setattr(weights, "LARGEST", 1000)
    outcomes = run_checks(make_probe(breed("llama")), copies)
    assert [outcome.verdict for outcome in outcomes] == ["skipped"] * 3
    assert "models over" in outcomes[0].detail


def test_layers_that_are_not_there() -> None:
    with pytest.raises(SteerkitError, match="--layers: 9 is not a block of llama: it has 4, numbered 0 to 3"):
        make_probe(breed("llama"), [0, 9])
