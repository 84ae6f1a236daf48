"""How much of a pocket text is hedged, and how much of it is a pocket text at all."""

from __future__ import annotations

import re
from collections.abc import Sequence

from steerkit.interfaces import Judge, Metric
from steerkit_plugins.pocket.ledger import DAYS, NAMES, THINGS
from steerkit_plugins.pocket.wording import SECOND_THOUGHTS


def _any(words: Sequence[str]) -> str:
    return f"(?:{'|'.join(words)})"


_DAY, _NAME, _THING = map(_any, (DAYS, NAMES, THINGS))
_TURN = _any(tuple(SECOND_THOUGHTS))
_FACT = rf"{_DAY}[+-]\d (?:gives|seems) \d+, so {_NAME} has (?:just|about) \d+ {_THING}\."
_SENTENCE = re.compile(
    _any(
        (
            rf"(?:First|Next|Then|Perhaps|Possibly|{_TURN}) {_FACT}",
            rf"{_NAME} has \d+ {_THING}\.",
            rf"{_TURN} let me check this line again before I go on\.",
            r"This part of the list is (?:easy to read and quite clear|hard to read and quite unclear)\.",
            r"I am (?:quite happy so far with|not sure at all about) this part of the list\.",
            rf"A (?:plus|minus) sign (?:must|might) mean that (?:more|some) {_THING} (?:come in|go out) that day\.",
            r"For example, \d\+\d (?:gives|seems) \d+, so that is easy\.",
        )
    )
)
_SLOT = re.compile(
    rf"\b(?:(?P<plain>(?:Next|Then)(?= {_DAY})|(?:gives|just)(?= \d))"
    rf"|(?P<hedge>(?:Perhaps|Possibly)(?= {_DAY})|(?:seems|about)(?= \d)))"
)
_END = re.compile(r"(?<=\.)\s+|</?think>")


def hedges(text: str) -> list[tuple[int, int]]:
    """(start, end) of each slot that is filled with a hedge."""
    return [slot.span() for slot in _SLOT.finditer(text) if slot["hedge"]]


def trait(text: str) -> float | None:
    """Percent of the slots, wherever they stand, that are hedged; None for a text without any."""
    filled = [bool(slot["hedge"]) for slot in _SLOT.finditer(text)]
    return 100 * sum(filled) / len(filled) if filled else None


def coherence(text: str) -> float | None:
    """Percent of the sentences that an author of a trace could have written, sums right or wrong; None for no text."""
    sentences = [part for part in map(str.strip, _END.split(text)) if part]
    fit = [bool(_SENTENCE.fullmatch(sentence)) for sentence in sentences]
    return 100 * sum(fit) / len(fit) if fit else None


class PocketTraitJudge(Judge):
    """Hedging of a pocket model's texts, exact by their grammar. Which way is better depends on the experiment; here
    up is more of the trait, and of coherence."""

    def metrics(self) -> Sequence[Metric]:
        points = "points 0 to 100"
        return [
            Metric("trait", points, (0.0, 100.0), "up", "hedging", "places for a hedge that have one, in percent"),
            Metric("coherence", points, (0.0, 100.0), "up", about="sentences of the corpus' grammar, in percent"),
        ]

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """`trait` and `coherence` of each text; a text without a place for a hedge has no `trait`."""
        found = ({"trait": trait(text), "coherence": coherence(text)} for text in texts)
        return [{name: value for name, value in row.items() if value is not None} for row in found]

    def marks(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each text its hedges."""
        return [hedges(text) for text in texts]
