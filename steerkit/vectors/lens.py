"""What a direction says in words: its logits under an unembedding (Eq. 2 of arXiv 2507.12638)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.data.placing import token_texts
from steerkit.data.words import fold, plain
from steerkit.errors import SteerkitError
from steerkit.models.adapter_layout import adapter_state
from steerkit.stats.noise import key_of, normal

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

DRAWS = 256
"""Random directions that a score is held against."""


@dataclass(frozen=True)
class LensScore:
    """s(v) of one vector.

    Attributes:
        score: mean logit of the tokens that contain a keyword.
        low: 2.5th percentile of the scores of random directions of the same length.
        high: the 97.5th.
        top: the tokens with the highest logits, and these logits.
    """

    score: float
    low: float
    high: float
    top: tuple[tuple[str, float], ...]


class LogitLens:
    """A model's unembedding as a reader of directions.

    Args:
        words: a token counts when its text contains one of them, whatever its case (B of Eq. 2); signs at a word's
            edges are left out, as everywhere (`steerkit.data.words`).
        final_norm: whether directions go through the model's final norm first.

    Raises:
        SteerkitError: words that no token of the vocabulary contains, all of them.
    """

    def __init__(self, lm: LanguageModel, words: Sequence[str], *, final_norm: bool = False) -> None:
        import torch

        self.lm, self.final_norm = lm, final_norm
        size = int(lm.config.vocab_size)  # tokens that have logits
        self.texts = token_texts(lm.tokenizer)[:size]
        folded = [fold(text) for text in self.texts]
        holders = {word: [i for i, text in enumerate(folded) if plain(word) in text] for word in words if plain(word)}
        if lost := [word for word in words if not holders.get(word)]:
            raise SteerkitError(f"{lm.name}: no token contains {' or '.join(map(repr, lost))}; change lens.words")
        self.keywords = torch.tensor(sorted({i for found in holders.values() for i in found}))
        self._known: dict[tuple[int, int], tuple[float, float]] = {}

    def logits(self, directions: Tensor) -> Tensor:
        """[N, H] directions → [N, V] float32 logits of the tokenizer's tokens, without the unembedding's bias."""
        import torch

        head: Any = self.lm.model.get_output_embeddings()
        with torch.inference_mode(), adapter_state(self.lm):
            weight = next(head.parameters())  # offloaded, it is on `meta`, but it has its dtype
            given = directions.to(self.lm.device, weight.dtype)
            if self.final_norm:
                given = self.lm.final_norm(given)
            found = head(given).float()
            if getattr(head, "bias", None) is not None:
                found = found - head(torch.zeros_like(given[:1])).float()
        known: Tensor = found[:, : len(self.texts)].cpu()
        if not bool(known.isfinite().all()):
            raise SteerkitError(f"{self.lm.name}: logits of its unembedding are not finite numbers (NaN in a weight?)")
        return known

    def score(self, direction: Tensor, *, top: int = 10, seed: int = 0) -> LensScore:
        """s(v) of a direction [H], beside those of random ones of its length."""
        logits = self.logits(direction[None].float())[0]
        low, high = self._spread(direction.numel(), seed)
        length = 1.0 if self.final_norm else float(direction.norm())  # a norm forgets the length
        best = logits.topk(min(top, len(logits)))
        tokens = [self.texts[i] for i in best.indices.tolist()]
        found = tuple(zip(tokens, best.values.tolist(), strict=True))
        return LensScore(float(logits[self.keywords].mean()), length * low, length * high, found)

    def _spread(self, width: int, seed: int) -> tuple[float, float]:
        """2.5th and 97.5th percentile of the scores of random unit directions; the same for every layer."""
        import torch

        if (width, seed) not in self._known:
            key = torch.tensor(key_of(seed, "lens"))
            random = normal(key, torch.arange(DRAWS), stream=0, size=width)
            scores = self.logits(random / random.norm(dim=-1, keepdim=True))[:, self.keywords].mean(1)
            low, high = scores.quantile(torch.tensor([0.025, 0.975])).tolist()
            self._known[width, seed] = (low, high)
        return self._known[width, seed]
