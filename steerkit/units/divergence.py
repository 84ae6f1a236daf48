"""KL divergence between two models' predictions, token by token, and the cross-entropy of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

Direction = Literal["full || ablated", "ablated || full"]
"""KL(P ‖ Q) = Σ P (log P − log Q): whose probabilities weigh it stands first."""

Average = Literal["per_sequence", "per_token"]
"""Mean over texts of each one's mean over its tokens; or the mean over all tokens of all texts."""

CPU_CHUNK, GPU_CHUNK = 2**20, 2**26
"""Logits that are worked on at once, in numbers; a CPU's caches take no more."""

CPU_ROOM, GPU_ROOM = 2**26, 2**28
"""Logits that are held at once, in numbers: 256 MiB and 1 GiB in float32."""


@dataclass(frozen=True)
class CountedText:
    """A text, and which of its tokens count.

    Attributes:
        ids: T token ids, as the model reads them.
        counted: [T] whether the prediction of this token counts. The first token is predicted by nothing.
    """

    id: str
    ids: Sequence[int]
    counted: Sequence[bool]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.counted):
            raise SteerkitError(f"text {self.id!r}: {len(self.ids)} tokens, and a mask of {len(self.counted)}")
        if not self.count:
            raise SteerkitError(f"text {self.id!r}: none of its tokens counts, the first one aside; leave it out")

    @property
    def name(self) -> str:
        """For errors."""
        return f"text {self.id!r}"

    @property
    def order(self) -> str:
        """Where it stands among texts of its length."""
        return self.id

    @property
    def cells(self) -> int:
        """Sums that it fills."""
        return 1

    @property
    def count(self) -> int:
        """Predictions that count."""
        return sum(map(bool, self.counted[1:]))


def predicting(texts: Sequence[CountedText]) -> np.ndarray:
    """[B, T] bool of texts padded on the right: position t counts where token t + 1 does. A text's last position
    predicts none of its tokens."""
    found = np.zeros((len(texts), max(len(text.ids) for text in texts)), bool)
    for row, text in enumerate(texts):
        found[row, : len(text.ids) - 1] = text.counted[1:]
    return found


def room_of(lm: LanguageModel) -> int:
    """Logits that are held at once, in numbers."""
    return CPU_ROOM if lm.device.type == "cpu" else GPU_ROOM


def tokens_of_texts(lm: LanguageModel, batch_tokens: int, room: int) -> int:
    """Padded tokens of a batch of texts whose logits at every position are to be held."""
    return max(1, min(batch_tokens, room // int(lm.config.vocab_size)))


def mean(sums: np.ndarray, counts: np.ndarray, average: Average) -> np.ndarray:
    """Means per token over N texts.

    Args:
        sums: [..., N].
        counts: [N] tokens that they are over.
    """
    if average == "per_token":
        return np.asarray(sums.sum(-1) / counts.sum())
    return np.asarray((sums / counts).mean(-1))


def log_probabilities(logits: Tensor) -> Tensor:
    """[N, V] logits → log-probabilities, float32."""
    import torch

    return torch.log_softmax(logits.float(), -1)


def divergences(first: Tensor, second: Tensor) -> Tensor:
    """KL(P ‖ Q) of each position, float64, in nats.

    The sum over Σ P (log P − log Q) − P + Q, whose terms are none below 0. It is the same, as both sum to 1, and a
    rounding of a softmax's normaliser changes it by its square only: KL of weak ablations lies near float32's rounding.

    Args:
        first, second: [N, V] float32 log P and log Q.
    """
    import torch

    p, q = first.exp(), second.exp()
    return (q - p).addcmul_(p, first - second).sum(-1, dtype=torch.float64).clamp(min=0)  # below 0 is rounding


def position_sums(
    logits: Tensor, at: Tensor, reference: Tensor, of: Tensor, targets: Tensor, direction: Direction
) -> tuple[np.ndarray, np.ndarray]:
    """[N] KL and [N] cross-entropy of the text, in nats, float64; in chunks that memory takes well.

    Args:
        logits: [R, V] of the changed model.
        at: [N] rows of `logits` that count.
        reference: [M, V] float32 log-probabilities of the full one.
        of: [N] the row of `reference` that each is held against.
        targets: [N] the tokens that come next.
    """
    import torch

    step = max(1, (CPU_CHUNK if logits.device.type == "cpu" else GPU_CHUNK) // logits.shape[1])
    kl, ce = [], []
    for begin in range(0, len(at), step):
        own = slice(begin, begin + step)
        full, changed = reference[of[own]], log_probabilities(logits[at[own]])
        pair = (full, changed) if direction == "full || ablated" else (changed, full)
        kl.append(divergences(*pair))
        ce.append(-changed.gather(1, targets[own, None]).squeeze(1).double())
    return torch.cat(kl).cpu().numpy(), torch.cat(ce).cpu().numpy()
