"""The target and the student in one set of weights: each block runs with the target's own MLP, or with the base's and
the transcoder. Shapes: B rows, T tokens, F features of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from steerkit.errors import SteerkitError
from steerkit.interventions.recomputed import in_backward
from steerkit.interventions.steering import Steering
from steerkit.models.parts_from import block_part
from steerkit_plugins.transcoder.units import TranscoderGroup, transcoder_groups

if TYPE_CHECKING:
    from torch import Tensor, nn

    from steerkit.models.language_model import LanguageModel

Seen = MutableMapping[int, "tuple[Tensor, Tensor, Tensor]"]
"""Block → what a pass says of its transcoder: `Pair.sums`."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A hybrid with a transcoder adapter (the student), and the target whose MLPs it stands for.

    Attributes:
        targets: block → (the module that stands in the model, the target's own MLP).
        groups: the transcoders' features, block by block.
    """

    lm: LanguageModel
    targets: dict[int, tuple[nn.Module, nn.Module]]
    groups: list[TranscoderGroup]

    @classmethod
    def of(cls, lm: LanguageModel) -> Pair:
        """Raises: SteerkitError: the model is no hybrid, has no transcoder, or interventions are on."""
        swapped = getattr(lm.transformer, "steerkit_swapped", None)
        names = {id(module): name for name, module in lm.transformer.named_modules()}
        here = {names[id(block_part(lm, layer, "mlp"))]: layer for layer in range(lm.depth)}
        if swapped is None or swapped.modules.keys() != here.keys():
            raise SteerkitError(
                f"{lm.name}: objective bridging trains a hybrid, which is the target with the base's MLPs and nothing "
                "else of the base; write the model as {weights: TARGET, parts_from: {mlp: BASE}}"
            )
        hooks = lm.decoder._forward_pre_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), Steering) for hook in hooks):
            raise SteerkitError(f"{lm.name}: objective bridging trains without interventions; leave them out")
        targets = {
            here[name]: (lm.transformer.get_submodule(name), before.eval())
            for name, (before, _) in swapped.modules.items()
        }
        return cls(lm, targets, transcoder_groups(lm))

    @property
    def whole(self) -> frozenset[int]:
        """All blocks."""
        return frozenset(self.targets)

    @contextmanager
    def playing(
        self, target: Collection[int], weights: Tensor | None = None, seen: Seen | None = None
    ) -> Iterator[None]:
        """Inside, a pass has the target's MLP in some blocks and the student's in all others, also where blocks run
        again while gradients are computed.

        Args:
            target: the blocks with the target's MLP.
            weights: [B, T] of each position in the sums of `seen`.
            seen: takes, for every transcoder, Σ_t w_t Σ_i f_i ‖W_dec[:, i]‖₂ and Σ_t w_t |{i: f_i > 0}|, scalars,
                and [F] which features were active where w is not 0.
        """
        again = lambda: self._as(target, weights, None if seen is None else {})  # noqa: E731
        with ExitStack() as stack:
            stack.enter_context(_recomputed(self.lm.model, again))
            stack.enter_context(self._as(target, weights, seen))
            yield

    @contextmanager
    def _as(self, target: Collection[int], weights: Tensor | None, seen: Seen | None) -> Iterator[None]:
        with ExitStack() as stack:
            for layer in target:
                stack.enter_context(_standing_in(*self.targets[layer]))
            if weights is not None and seen is not None:
                graded = torch.is_grad_enabled()
                for group in self.groups:
                    handle = group.transcoder.code.register_forward_hook(_summing(group, weights, seen, graded))
                    stack.callback(handle.remove)
            yield


def _summing(group: TranscoderGroup, weights: Tensor, seen: Seen, graded: bool) -> Callable[..., None]:
    def see(module: Any, args: Any, f: Tensor) -> None:
        if graded and not torch.is_grad_enabled():
            raise SteerkitError(
                "the L1 term has no gradient where checkpoints are reentrant; give gradient_checkpointing_kwargs: "
                "{use_reentrant: false}"
            )
        with torch.autocast(f.device.type, enabled=False):
            sizes = torch.linalg.vector_norm(group.transcoder.decoder.weight, dim=0)  # its gradient at 0 is 0
            each = f.to(sizes.dtype) @ sizes
            active = f.detach() > 0
            seen[group.layer] = (
                (each * weights.to(each.dtype)).sum(),
                (active.sum(-1) * weights).sum(),
                active[weights > 0].any(0),
            )

    return see


@contextmanager
def _standing_in(module: nn.Module, other: nn.Module) -> Iterator[None]:
    """Inside, one module computes what another does, which is not trained."""
    before = module.__dict__.get("forward")
    learn = [weight for weight in other.parameters() if weight.requires_grad]
    for weight in learn:
        weight.requires_grad_(False)
    module.forward = other.__call__
    try:
        yield
    finally:
        for weight in learn:
            weight.requires_grad_(True)
        if before is None:
            del module.forward
        else:
            module.forward = before


@contextmanager
def _recomputed(model: nn.Module, again: Callable[[], Any]) -> Iterator[None]:
    """Inside, blocks that gradient checkpointing will run again are run within `again()` then.

    The name is transformers': a module that saves memory calls its `_gradient_checkpointing_func` with what it runs.
    """

    def within(checkpoint: Callable[..., Any]) -> Callable[..., Any]:
        def bound(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            def same(*inputs: Any, **named: Any) -> Any:
                with again() if in_backward() else nullcontext():
                    return run(*inputs, **named)

            return checkpoint(same, *args, **kwargs)

        return bound

    saving: list[tuple[Any, Any]] = [
        (module, module._gradient_checkpointing_func)
        for module in model.modules()
        if getattr(module, "gradient_checkpointing", False)
    ]
    for module, checkpoint in saving:
        module._gradient_checkpointing_func = within(checkpoint)
    try:
        yield
    finally:
        for module, checkpoint in saving:
            module._gradient_checkpointing_func = checkpoint
