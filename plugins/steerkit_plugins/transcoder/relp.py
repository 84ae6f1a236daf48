"""RelP's rules on a transformers model: every value stays, and gradients are those of a linearised model.

Constants are the scale of each norm (a LayerNorm's centring is linear and stays), each attention pattern, and the ratio
act(g) / g of each activation (the sigmoid of SiLU). Gradients of gate × up are shared half and half. What is left is
linear in embeddings, features and biases taken together (Jafari et al. 2025, "RelP"; arXiv 2602.20904, section 6).

Imports torch; it is imported when a graph is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.models.block_output import hidden_of
from steerkit.models.language_model import LanguageModel
from steerkit.models.sites import Place, resolve

FAMILIES = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
)
"""Values of `model_type` whose forwards have no other nonlinearity."""

ACTIVATIONS = ("act_fn", "act", "activation_fn")
"""Names of an MLP's activation."""


def check_family(lm: LanguageModel) -> None:
    """Raises: SteerkitError when the model may hold a nonlinearity that the rules don't know."""
    kind = str(getattr(lm.config, "model_type", ""))
    if kind not in FAMILIES:
        raise SteerkitError(
            f"{lm.name}: attribution graphs are made for {', '.join(FAMILIES)}; {kind or 'its family'} may have parts "
            "that are not linear once norms, attention patterns and gates are held constant"
        )


@contextmanager
def linearised(lm: LanguageModel, ones: Tensor | None = None) -> Iterator[None]:
    """Inside, forwards give the same values, and gradients are those of the linearised model.

    Args:
        ones: [B, 1, 1] of ones that every bias, position embedding and LayerNorm's offset is multiplied by: its
            gradient is the sum of what they contribute, row by row.

    Raises:
        SteerkitError: the family is not among `FAMILIES`, or has a norm or an activation of an unknown form.
    """
    check_family(lm)
    with ExitStack() as stack:
        for module in _inside(lm):
            if _is_norm(module):
                stack.callback(module.register_forward_hook(_norm_rule(lm, module, ones)).remove)
            elif ones is not None and isinstance(constant := getattr(module, "bias", None), Tensor):
                stack.callback(module.register_forward_hook(_counted(constant, ones)).remove)
        for module in lm.decoder.children():
            places = isinstance(module, nn.Embedding) and module is not lm.model.get_input_embeddings()
            if places and ones is not None:
                stack.callback(module.register_forward_hook(_counted(None, ones)).remove)
        for layer in range(lm.depth):
            for part in ("q", "k"):
                place = resolve(lm, Site(layer, part, "out"))
                stack.callback(place.module.register_forward_hook(_constant(place)).remove)
            for handle in _mlp_rules(lm, layer):
                stack.callback(handle.remove)
        yield


def _inside(lm: LanguageModel) -> Iterator[nn.Module]:
    """The modules of the blocks, adapters left out, and the final norm."""
    for block in lm.blocks:
        yield from (module for name, module in block.named_modules() if "transcoder_parts" not in name)
    yield lm.final_norm


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not list(module.children())


def _counted(constant: Tensor | None, ones: Tensor) -> Callable[..., Tensor]:
    """Have the gradient of `ones` count a constant; None: all that the module puts out."""

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        added = output if constant is None else constant
        return output + (ones - ones.detach()) * added.detach().to(output.dtype)

    return hook


def _constant(place: Place) -> Callable[..., Any]:
    """No gradient through queries and keys: the attention pattern is a constant."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        rows = hidden_of(output).shape[0]
        return place.write(output, place.read(output, rows).detach())

    return hook


def _norm_rule(lm: LanguageModel, norm: nn.Module, ones: Tensor | None) -> Callable[..., Tensor]:
    """gain · (x − mean) · scale + offset with a constant scale; in float32 at least, as the norms themselves."""
    centred = isinstance(norm, nn.LayerNorm)
    eps = float(getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", None) or 0.0)
    gain, offset = _gain(lm, norm, eps), getattr(norm, "bias", None)

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        x = args[0].to(torch.promote_types(args[0].dtype, torch.float32))
        x = x - x.mean(-1, keepdim=True) if centred else x
        found = gain.to(x.dtype) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps).detach())
        if offset is not None:
            found = found + (1.0 if ones is None else ones) * offset.detach().to(x.dtype)
        return found.to(output.dtype)

    return hook


@torch.no_grad()
def _gain(lm: LanguageModel, norm: nn.Module, eps: float) -> Tensor:
    """[D]: what a norm multiplies by; some keep it as a difference from 1."""
    weight: Any = getattr(norm, "weight", None)
    if isinstance(norm, nn.LayerNorm) and weight is not None:
        return weight.detach()
    if weight is not None:
        wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        found = norm(torch.ones_like(weight)) * (1 + eps) ** 0.5
        for gain in (wide, 1 + wide):
            if torch.allclose(found.to(wide.dtype), gain, rtol=1e-2, atol=1e-2):
                return gain
    raise SteerkitError(
        f"{lm.name}: {type(norm).__name__} is no norm of a known form: its scale can't be held constant"
    )


def _mlp_rules(lm: LanguageModel, layer: int) -> Iterator[Any]:
    """act(g) as (act(g) / g) · g with a constant ratio; half the gradient where the MLP multiplies by `up`."""
    down = resolve(lm, Site(layer, "down", "in"))
    mlp = lm.blocks[layer].get_submodule(down.name.rpartition(".")[0])
    found = [module for name in ACTIVATIONS if isinstance(module := getattr(mlp, name, None), nn.Module)]
    if len(found) != 1:
        raise SteerkitError(f"{lm.name}: block {layer}: {type(mlp).__name__} has no activation that is a module")
    yield found[0].register_forward_hook(_activation_rule)
    if _gated(lm, layer):
        yield down.module.register_forward_pre_hook(_half_rule)


def _gated(lm: LanguageModel, layer: int) -> bool:
    try:
        resolve(lm, Site(layer, "gate", "out"))
    except SteerkitError:
        return False
    return True


def _activation_rule(module: Any, args: Any, output: Tensor) -> Tensor:
    g = args[0]
    small = torch.finfo(g.dtype).eps
    safe = torch.where(g.abs() < small, torch.full_like(g, small), g).detach()
    ratio: Tensor = module.forward(safe) / safe
    return ratio.detach() * g


def _half_rule(module: nn.Module, args: Any) -> Any:
    half = 0.5 * args[0]
    return (half + half.detach(), *args[1:])
