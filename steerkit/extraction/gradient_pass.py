"""One forward and backward pass of a batch: the gradients of its loss at any number of sites, and nothing else.

No parameter requires a gradient meanwhile: none is computed, and what only they would need isn't kept from the
forward pass. The graph begins at the token embeddings instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from steerkit.data.gradient_statistics import Reduction
from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.extraction.gradient_rows import GradientRow, PaddedRows, padded
from steerkit.extraction.token_losses import TokenLoss, backward, cross_entropy
from steerkit.interventions.steering import Steering
from steerkit.interventions.uncompiled import hooks_run
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.block_output import hidden_of, with_hidden
from steerkit.models.sites import Place, input_of

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

Taken = Literal["after edits", "before edits"]
"""Gradients by what the edits at a site have made, or by what they are given (after their `backward`)."""


@dataclass(frozen=True)
class Pass:
    """What a batch's pass gave.

    Attributes:
        rows: the batch as it was run.
        loss: Σ w · loss over its response tokens.
        gradients: site → [B, T, D] gradient of that sum, in the activations' dtype.
    """

    rows: PaddedRows
    loss: float
    gradients: dict[Site, Tensor]


def differentiate(
    lm: LanguageModel,
    rows: Sequence[GradientRow],
    places: Sequence[Place],
    *,
    reduction: Reduction = "token",
    taken: Taken = "after edits",
    token_loss: TokenLoss = cross_entropy,
) -> Pass:
    """Run a batch and its backward pass, with each row's edits active in both.

    Raises:
        SteerkitError: a site got no gradient, or the edits did nothing.
    """
    import torch

    batch = padded(rows, reduction)
    caught = _Caught(lm.name, places, len(rows))
    steering = Steering(lm, [row.edits for row in rows], [row.prompt_length for row in rows])
    inside = any(not place.site.is_block_output for place in places)
    contexts: list[Steering | _Caught] = [steering, caught] if taken == "after edits" else [caught, steering]
    with torch.enable_grad(), _begins_at_embeddings(lm), hooks_run(lm, inside=inside), ExitStack() as stack:
        for context in contexts:  # hooks of one module run in the order in which they were put on
            stack.enter_context(context)
        logits = lm.model(input_ids=batch.ids.to(lm.device), use_cache=False).logits
        loss = backward(logits, batch, token_loss)
    caught.check()
    return Pass(batch, loss, caught.gradients)


@contextmanager
def _begins_at_embeddings(lm: LanguageModel) -> Iterator[None]:
    """Inside, gradients go back to the token embeddings and to no parameter; afterwards flags are as they were."""
    flags = [(parameter, parameter.requires_grad) for parameter in lm.model.parameters()]

    def begin(module: Any, args: Any, embedded: Tensor) -> None:
        embedded.requires_grad_()

    hook = lm.model.get_input_embeddings().register_forward_hook(begin)
    try:
        with adapter_state(lm):  # PEFT sets the flags itself when an adapter is turned on or off
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
    finally:
        hook.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


class _Caught:
    """Context manager under which the gradients at some places are kept as they pass."""

    def __init__(self, name: str, places: Sequence[Place], rows: int) -> None:
        self.name, self.places, self.rows = name, places, rows
        self.gradients: dict[Site, Tensor] = {}
        self._hooks = ExitStack()

    def __enter__(self) -> None:
        for place in self.places:
            if place.side == "out":
                handle = place.module.register_forward_hook(self._output(place))
            else:
                handle = place.module.register_forward_pre_hook(self._input(place), with_kwargs=True)
            self._hooks.callback(handle.remove)

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    def check(self) -> None:
        """Raises: SteerkitError when a site got no gradient."""
        if missing := [str(place.site) for place in self.places if place.site not in self.gradients]:
            raise SteerkitError(
                f"{self.name}: no gradient came to {', '.join(missing)}: its module did not run, or the loss does not "
                "depend on it; leave the site out"
            )

    def _output(self, place: Place) -> Callable[..., Any]:
        return lambda module, args, output: self._watched(place, output)

    def _input(self, place: Place) -> Callable[..., Any]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given, name = input_of(module, args, kwargs)
            own = self._watched(place, given)
            return ((own, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: own})

        return hook

    def _watched(self, place: Place, value: Any) -> Any:
        """The same values as a node of their own: what else reads the tensor has its gradient, and edits change theirs.

        Where a reentrant checkpoint runs a module without gradients, it runs it again with them.
        """
        tensor = hidden_of(value)
        if not tensor.requires_grad:
            return value
        own = tensor.view_as(tensor)
        own.register_hook(lambda grad: self._keep(place, grad))
        return with_hidden(value, own)

    def _keep(self, place: Place, grad: Tensor) -> None:
        if place.site in self.gradients:
            raise SteerkitError(
                f"{self.name}: {place.site}: its module runs more than once in a pass, so its gradients are several "
                "blocks'; leave the site out"
            )
        self.gradients[place.site] = place.read(grad, self.rows)
