"""b of Eq. 1 (arXiv 2507.12638) as an `evaluate` metric that needs no network."""

from __future__ import annotations

import string
from collections.abc import Sequence

import datasets
import evaluate

_EDGES = string.punctuation + "“”‘’…—–"


class KeywordRate(evaluate.Metric):
    """b = (1/N) Σ_word 1[word ∈ B]: the share of a text's whitespace words that are keywords."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of whitespace words that are one of the keywords (case-folded, punctuation stripped).",
            citation="arXiv:2507.12638, Eq. 1",
            inputs_description="predictions: texts; keywords: words; substring: count words that contain a keyword",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(
        self, predictions: Sequence[str], keywords: Sequence[str] = ("wait", "hmm"), substring: bool = False
    ) -> dict[str, object]:
        """`rates`: b of each text in [0, 1], NaN for a text without words; `b`: their mean over the others."""
        rates = [keyword_rate(text, keywords, substring=substring) for text in predictions]
        real = [rate for rate in rates if rate == rate]
        return {"rates": rates, "b": sum(real) / len(real) if real else float("nan")}


def keyword_rate(text: str, keywords: Sequence[str], *, substring: bool = False) -> float:
    """b of one text; NaN when it has no words."""
    wanted = [word.casefold() for word in keywords]
    found = [word.strip(_EDGES).casefold() for word in text.split()]
    if not found:
        return float("nan")
    hits = sum(any(w in word for w in wanted) if substring else word in wanted for word in found)
    return hits / len(found)
