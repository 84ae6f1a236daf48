"""One SAE while it learns: its optimizer, and which latents are dead."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steerkit.errors import SteerkitError
from steerkit_plugins.rank1_lora.sae.batch_topk import Loss, Pass, Weights, first_weights, forward, loss
from steerkit_plugins.rank1_lora.sae.options import SAEOptions


class Learner:
    """Weights and what changes them.

    Attributes:
        weights: as they are now.
        last: [F] rows that had been seen before the batch in which each latent was last on.
        seen: rows that have been seen.
    """

    def __init__(self, units: int, options: SAEOptions, device: torch.device) -> None:
        self.options, self.device = options, device
        first = first_weights(units, options, torch.Generator().manual_seed(options.seed)).to(device)
        self.weights = Weights(**{name: value.requires_grad_() for name, value in first.tensors().items()})
        self._optimizer = torch.optim.Adam(list(self.weights.tensors().values()), lr=options.learning_rate, fused=True)
        self.last = torch.zeros(options.latents(units), dtype=torch.int64, device=device)
        self.seen, self._steps = 0, 0
        self._fvu = torch.zeros((), dtype=torch.float32, device=device)

    @property
    def dead(self) -> Tensor:
        """Numbers of the latents that have not been on for `dead_after` rows."""
        return (self.seen - self.last > self.options.dead_after).nonzero()[:, 0]

    def step(self, x: Tensor) -> Loss:
        """Learn from prepared rows [B, U].

        The learning rate of the first step is 0 where there is a warm-up, as in the author's code.
        """
        warmup = self.options.warmup_steps
        rate = min(1.0, self._steps / warmup) if warmup else 1.0
        for group in self._optimizer.param_groups:
            group["lr"] = self.options.learning_rate * rate
        seen = forward(self.weights, x, self.options)
        self._mark(seen)
        found = loss(self.weights, seen, self.dead, self.options)
        self._optimizer.zero_grad()
        found.total.backward()
        if self.options.decoder == "unit_norm":
            self._turn_only()
        self._optimizer.step()
        if self.options.decoder == "unit_norm":
            with torch.no_grad():
                self.weights.decoder.div_(self.weights.decoder.norm(dim=1, keepdim=True))
        self._steps += 1
        variance = (x - x.mean(dim=0)).square().mean()
        self._fvu += torch.where(variance > 0, found.squared.detach() / variance, 0.0)  # one row alone has no variance
        return found

    def told(self) -> dict[str, Any]:
        """How it went.

        `batch_fvu` is the figure of the author's code: the mean over training batches, the first ones included, of the
        squared error as a share of the batch's own variance.

        Raises:
            SteerkitError: the weights are not finite.
        """
        if not all(bool(value.isfinite().all()) for value in self.weights.tensors().values()):
            raise SteerkitError("training the SAE gave weights that are not finite; lower its learning_rate")
        return {"steps": self._steps, "batch_fvu": float(self._fvu) / max(self._steps, 1), "dead": len(self.dead)}

    def _mark(self, seen: Pass) -> None:
        """Note which latents are on in a batch."""
        on = seen.on
        self.last[on.latents[on.values != 0]] = self.seen
        self.seen += len(seen.x)

    def _turn_only(self) -> None:
        """Take the part along each direction, which would only make it longer, off its gradient."""
        decoder = self.weights.decoder
        gradient = decoder.grad
        if gradient is not None:
            with torch.no_grad():
                gradient -= (gradient * decoder).sum(dim=1, keepdim=True) * decoder
