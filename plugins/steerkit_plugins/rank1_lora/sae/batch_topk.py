"""BatchTopK (arXiv 2412.06410): the sparse autoencoder, which of its latents are on, and its loss.

B rows of a batch, U units, F latents, n = k · B entries of [B, F] that are on. Decoding takes these n alone
(`embedding_bag`): the product with all F latents would cost as much as all the rest of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from steerkit_plugins.rank1_lora.sae.options import SAEOptions


@dataclass(frozen=True, eq=False)
class Weights:
    """What is learned.

    Attributes:
        encoder: [U, F].
        encoder_bias: [F].
        decoder: [F, U], a latent's direction a row.
        decoder_bias: [U].
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return dict(vars(self))

    def to(self, device: torch.device) -> Weights:
        """The same on a device."""
        return Weights(**{name: value.to(device) for name, value in self.tensors().items()})

    def detached(self) -> Weights:
        """Copies on the CPU that nothing learns."""
        return Weights(**{name: value.detach().cpu().clone() for name, value in self.tensors().items()})


@dataclass(frozen=True)
class On:
    """The entries of [B, F] that are on, row by row.

    Attributes:
        begins: [B] where each row's entries begin.
        latents: [n] int64.
        values: [n] z of each.
    """

    begins: Tensor
    latents: Tensor
    values: Tensor


@dataclass(frozen=True)
class Pass:
    """A batch that went through.

    Attributes:
        x: [B, U] prepared rows.
        rebuilt: [B, U].
    """

    x: Tensor
    on: On
    rebuilt: Tensor


@dataclass(frozen=True)
class Loss:
    """Of a batch; `squared` and `auxiliary` are means over rows and units."""

    total: Tensor
    squared: Tensor
    auxiliary: Tensor


def first_weights(units: int, options: SAEOptions, generator: torch.Generator) -> Weights:
    """Kaiming-uniform for ReLU, the decoder the encoder's transpose, biases 0.

    The author's tensor is [U, F], whose second size torch takes for the fan: sqrt(6 / F), not sqrt(6 / U).

    With directions of length 1 the encoder is U / F of the transpose, which rebuilds the input where all latents are
    on: the transpose itself would rebuild it several times over, and a short training would only undo that.
    """
    latents = options.latents(units)
    bound = math.sqrt(6 / (latents if options.init_fan == "author_fan" else units))
    encoder = (2 * torch.rand(units, latents, generator=generator) - 1) * bound
    decoder = encoder.T.clone()
    if options.decoder == "unit_norm":
        decoder /= decoder.norm(dim=1, keepdim=True)
        encoder = decoder.T.clone() / options.expansion
    return Weights(encoder, torch.zeros(latents), decoder, torch.zeros(units))


def encode(weights: Weights, x: Tensor, options: SAEOptions) -> Tensor:
    """[B, U] prepared rows → [B, F] z, before the largest are kept."""
    z = torch.addmm(weights.encoder_bias, x, weights.encoder)
    return z.relu() if options.relu else z


def scores(weights: Weights, z: Tensor) -> Tensor:
    """[B, F] what latents are ranked by: z times the length of their direction, with its sign."""
    return z.detach() * weights.decoder.detach().norm(dim=1)


def top_of_batch(weights: Weights, z: Tensor, k: int) -> On:
    """The k · B entries with the largest scores; all where there are no more."""
    found = scores(weights, z).flatten()
    count = min(k * len(z), len(found))
    return entries(z, found.topk(count, sorted=False).indices)


def above(weights: Weights, z: Tensor, threshold: float) -> On:
    """The entries whose score is above a threshold, whatever else is in the batch."""
    return entries(z, (scores(weights, z).flatten() > threshold).nonzero()[:, 0])


def entries(z: Tensor, places: Tensor) -> On:
    """Entries of [B, F] by their places in the flat tensor, in any order."""
    places = places.sort().values
    begins = torch.searchsorted(places, torch.arange(len(z), device=z.device) * z.shape[1])
    return On(begins, places % z.shape[1], z.flatten()[places])


def decode(weights: Weights, on: On) -> Tensor:
    """[B, U] the rows that these entries rebuild."""
    return _sums(weights.decoder, on) + weights.decoder_bias


def _sums(directions: Tensor, on: On) -> Tensor:
    return functional.embedding_bag(on.latents, directions, on.begins, mode="sum", per_sample_weights=on.values)


def forward(weights: Weights, x: Tensor, options: SAEOptions) -> Pass:
    """Encode prepared rows [B, U], keep the largest scores of the batch, decode."""
    on = top_of_batch(weights, encode(weights, x, options), options.k)
    return Pass(x, on, decode(weights, on))


def loss(weights: Weights, seen: Pass, dead: Tensor, options: SAEOptions) -> Loss:
    """Squared error, and what revives dead latents.

    Args:
        dead: numbers of the dead latents.
    """
    squared = functional.mse_loss(seen.rebuilt, seen.x)
    auxiliary = torch.zeros_like(squared)
    error = seen.x - seen.rebuilt
    if len(dead) and options.aux == "error_encoded":
        auxiliary = _error_encoded(weights, error, dead, options.k)
    elif len(dead) and options.aux == "auxk_standard":
        auxiliary = _auxk(weights, seen.x, error.detach(), dead)
    return Loss(squared + options.aux_weight * auxiliary, squared, auxiliary)


def _error_encoded(weights: Weights, error: Tensor, dead: Tensor, k: int) -> Tensor:
    """The author's: dead latents encode the error and rebuild it; through the error it pushes the living ones, too."""
    z = torch.addmm(weights.encoder_bias[dead], error, weights.encoder[:, dead])
    kept = (z.detach() * weights.decoder[dead].detach().norm(dim=1)).topk(min(k, len(dead)), dim=1).indices
    return functional.mse_loss(_rebuilt(weights, z, kept, dead), error)


def _auxk(weights: Weights, x: Tensor, error: Tensor, dead: Tensor) -> Tensor:
    """AuxK (Gao et al., arXiv 2406.04093): dead latents read the input and rebuild the error, as a share of its
    variance."""
    z = torch.addmm(weights.encoder_bias[dead], x, weights.encoder[:, dead]).relu()
    kept = z.detach().topk(min(max(x.shape[1] // 2, 1), len(dead)), dim=1).indices
    variance = (error - error.mean(dim=0)).square().mean()
    scale = torch.where(variance > 0, variance, torch.inf)  # a batch of one row has none, and no gradient then
    return functional.mse_loss(_rebuilt(weights, z, kept, dead), error) / scale


def _rebuilt(weights: Weights, z: Tensor, kept: Tensor, dead: Tensor) -> Tensor:
    """[B, U] what each row's kept dead latents [B, j] rebuild, without the bias."""
    rows, each = kept.shape
    begins = torch.arange(rows, device=kept.device) * each
    return _sums(weights.decoder, On(begins, dead[kept].flatten(), z.gather(1, kept).flatten()))
