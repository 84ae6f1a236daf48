"""The same weights elsewhere: offloaded, under an adapter, in another dtype. Made on a copy of the model."""

from __future__ import annotations

import copy
import logging
import tempfile
from dataclasses import replace
from typing import Any

from steerkit.checks.forward import distance, logits
from steerkit.checks.outcome import Measured, Skip
from steerkit.checks.probe import Probe
from steerkit.errors import SteerkitError
from steerkit.models.adapter_kinds import refuse_kind
from steerkit.models.adapters import merged_model
from steerkit.models.language_model import LanguageModel

LARGEST = 600_000_000  # parameters of a model that is copied
RANK = 4  # of the LoRA that is put on
REFUSED_BY_PEFT = ("out_proj", "conv1d")  # on models like Mamba


def weights_are_complete(probe: Probe) -> Measured:
    """The model's tensors, against those of a second loading under other random numbers. The unit is tensors.

    Failure: the files lack weights, so that they are random, and others at each loading. Use no result of this model.
    """
    import torch

    if probe.again is None:
        raise Skip("the model was not loaded from files")
    _check_size(probe, "loaded twice")
    log = logging.getLogger("steerkit")
    level = log.level
    log.setLevel(logging.ERROR)  # what was left out has been told
    try:
        with torch.random.fork_rng():
            torch.manual_seed(probe.seed + 1)
            second = probe.again().model.state_dict()
    finally:
        log.setLevel(level)
    first = probe.lm.model.state_dict()
    differ = [key for key, value in first.items() if key not in second or not torch.equal(value, second[key])]
    shown = f"; others: {', '.join(differ[:3])}" if differ else ""
    return Measured(len(differ), 0, f"{len(first)} tensors{shown}")


def dispatched_is_whole(probe: Probe) -> Measured:
    """Steered logits with every second block offloaded to disk by accelerate, against the model as it is.

    Failure: hooks miss offloaded blocks. Do not use `device_map` with this model.
    """
    from accelerate import dispatch_model

    if probe.lm.model_is_wrapped:
        try:
            refuse_kind(probe.lm.name, probe.lm.model.peft_config.values(), offloaded=True)
        except SteerkitError as error:
            raise Skip(str(error)) from error
    _refuse_quantized(probe, "are not moved about")
    model = _copied(probe)
    edits = probe.mixed(len(probe.prompts))
    expected = logits(probe.lm, probe.prompts, edits)
    with tempfile.TemporaryDirectory() as folder:
        main = str(probe.lm.device)
        places = _places(model, {id(block): n for n, block in enumerate(_lm(probe, model).blocks)}, main)
        there = dispatch_model(model, places, main_device=main, offload_dir=folder, force_hooks=True)
        found = logits(_lm(probe, there), probe.prompts, edits)
    return Measured(distance(found, expected), probe.tolerance, f"{len(probe.lm.blocks) // 2} blocks on disk")


def wrapped_is_merged(probe: Probe) -> Measured:
    """Steered logits under a PEFT adapter, against the same adapter merged into the weights; off, against none.

    The model's own adapter where it has one, else a random LoRA on all linear layers that take one.
    Failure: the adapter is not on where it should be, or not off for the base model.
    """
    edits = probe.mixed(len(probe.prompts))
    if probe.lm.model_is_wrapped:
        wrapped, detail = LanguageModel("wrapped", _copied(probe), probe.lm.tokenizer, adapter=True), "its own adapter"
        bare = None
    else:
        wrapped, detail = LanguageModel("wrapped", _with_lora(probe), probe.lm.tokenizer, adapter=True), "a random LoRA"
        bare = logits(probe.lm, probe.prompts, edits)
    on = logits(wrapped, probe.prompts, edits)
    off = logits(replace(wrapped, adapter=False), probe.prompts, edits)
    if probe.lm.quantized:
        error, detail = 0.0, f"{detail}, not merged, as that rounds quantised weights anew"
    else:
        try:
            merged = LanguageModel("merged", merged_model(wrapped.model, "its own adapter"), probe.lm.tokenizer)
        except SteerkitError as reason:
            if bare is not None:
                raise
            raise Skip(str(reason)) from reason
        error = distance(on, logits(merged, probe.prompts, edits))
    if bare is not None:
        error = max(error, distance(off, bare))
    effect = distance(on, off)
    if effect <= probe.tolerance:
        raise SteerkitError(f"the adapter changes the logits by {effect:.2g} only: nothing can be told from it")
    return Measured(error, probe.tolerance, f"{detail}, which changes the logits by {effect:.2g}")


def dtypes_agree(probe: Probe) -> Measured:
    """The steered effect (steered minus unsteered logits) in half precision, against float32, relative to the effect.

    A float32 model is copied to bfloat16, another one to float32. The tolerance is √ε of the half precision.
    Failure: steering in this dtype is mostly rounding. Steer in float32, or with larger strengths.
    """
    import torch

    _refuse_quantized(probe, "have no other number format")
    other = torch.float32 if probe.dtype != torch.float32 else torch.bfloat16
    model = _copied(probe).to(other)
    effects = []
    for lm in (probe.lm, _lm(probe, model)):
        plain = logits(lm, probe.prompts, [None] * len(probe.prompts))
        steered = logits(lm, probe.prompts, [probe.edit(probe.layers[-1])] * len(probe.prompts))
        effects.append(torch.cat([a - b for a, b in zip(steered, plain, strict=True)]))
    exact, rough = effects if probe.dtype == torch.float32 else effects[::-1]
    half = other if probe.dtype == torch.float32 else probe.dtype
    error = float((rough - exact).norm() / exact.norm())
    what = f"{str(half).removeprefix('torch.')} against float32, layer {probe.layers[-1]}"
    return Measured(error, torch.finfo(half).eps ** 0.5, what)


def _refuse_quantized(probe: Probe, why: str) -> None:
    """Raises: Skip when the weights are quantised."""
    if probe.lm.quantized:
        raise Skip(f"weights quantised by {probe.lm.quantized} {why}")


def _copied(probe: Probe) -> Any:
    """A copy that may be changed.

    Raises:
        Skip: accelerate placed the model, or it is too large to be held twice.
    """
    _check_size(probe, "copied")
    return copy.deepcopy(probe.lm.model)


def _check_size(probe: Probe, done: str) -> None:
    """Raises: Skip when accelerate placed the model, or it is too large to be held twice."""
    if probe.placed:
        raise Skip(f"a device map was given: the model is already dispatched, and can't be {done}")
    count = sum(parameter.numel() for parameter in probe.lm.model.parameters())
    if count > LARGEST:
        raise Skip(f"{count / 1e9:.1f} billion parameters: models over {LARGEST / 1e9:.1f} billion are not {done}")


def _lm(probe: Probe, model: Any) -> LanguageModel:
    return LanguageModel(probe.lm.name, model, probe.lm.tokenizer, probe.lm.adapter)


def _places(module: Any, blocks: dict[int, int], main: str, name: str = "") -> dict[str, str]:
    """Device map: odd blocks on the disk, all other modules on `main`."""
    if id(module) in blocks:
        return {name: "disk" if blocks[id(module)] % 2 else main}
    if not any(id(inner) in blocks for inner in module.modules()):
        return {name: main}
    prefix = f"{name}." if name else ""
    found = {f"{prefix}{own}": main for own, _ in module.named_parameters(recurse=False)}
    for own, child in module.named_children():
        found |= _places(child, blocks, main, prefix + own)
    return found


def _unfit(probe: Probe, model: Any) -> list[str]:
    """Names of the linear layers that no LoRA can sit on: that no forward calls, or that don't answer with a tensor.

    Recurrent mixers may use a layer's weight without calling it, and routers answer with more than a tensor.
    """
    from torch import Tensor, nn

    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    fit: set[str] = set()

    def watch(name: str) -> Any:
        return lambda module, args, output: fit.add(name) if isinstance(output, Tensor) else None

    handles = [module.register_forward_hook(watch(name)) for name, module in linear.items()]
    try:
        logits(_lm(probe, model), probe.prompts[:1], [None])
    finally:
        for handle in handles:
            handle.remove()
    refused = REFUSED_BY_PEFT if probe.lm.batches != "padded" else ()
    return [name for name in linear if name not in fit or name.endswith(refused)]


def _with_lora(probe: Probe) -> Any:
    """A copy under a random LoRA that really changes it (B is not zero)."""
    import warnings

    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, on models that it has no presets for
        torch.manual_seed(probe.seed)
        model = _copied(probe)
        config = LoraConfig(
            r=RANK,
            lora_alpha=RANK,
            target_modules="all-linear",
            exclude_modules=_unfit(probe, model) or None,
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, config).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1)
    return model
