"""b of Eq. 1 (arXiv 2507.12638) as an `evaluate` metric that needs no network."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from steerkit_plugins.judges.keywords import Keywords


class KeywordRate(evaluate.Metric):
    """b = (1/N) Σ_word 1[word ∈ B]: the share of a text's words that are keywords; a phrase counts once.

    What a word is says `steerkit.data.words` (in English, what stands between whitespace); how keywords are matched
    says `Keywords`. N counts every word, those of signs alone too.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Keywords in a text over its words (case-folded, signs at their edges stripped).",
            citation="arXiv:2507.12638, Eq. 1",
            inputs_description="predictions: texts; keywords: words, phrases; substring: count words that contain one",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(
        self, predictions: Sequence[str], keywords: Sequence[str] = ("wait", "hmm"), substring: bool = False
    ) -> dict[str, object]:
        """`rates`: b of each text in [0, 1], NaN for a text without words; `b`: their mean over the others."""
        wanted = Keywords(keywords, substring=substring)
        rates = [wanted.rate(text) for text in predictions]
        real = [rate for rate in rates if rate == rate]
        return {"rates": rates, "b": sum(real) / len(real) if real else float("nan")}


def keyword_rate(text: str, keywords: Sequence[str], *, substring: bool = False) -> float:
    """b of one text; NaN when it has no words."""
    return Keywords(keywords, substring=substring).rate(text)
