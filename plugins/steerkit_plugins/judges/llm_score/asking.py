"""Texts to points: by which method, with which requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from steerkit.errors import SteerkitError
from steerkit_plugins.judges.llm_score.calibration import Calibrating, Calibration
from steerkit_plugins.judges.llm_score.config import LLMScoreConfig
from steerkit_plugins.judges.llm_score.methods import METHODS
from steerkit_plugins.judges.llm_score.reading import Reading
from steerkit_plugins.judges.llm_score.rubric import Rubric
from steerkit_plugins.llm.batch import Request
from steerkit_plugins.llm.client import Client, Outcome
from steerkit_plugins.llm.completion import Answer
from steerkit_plugins.llm.failures import Failure


@dataclass(frozen=True)
class Replies:
    """What came back.

    Attributes:
        method: by which points were asked for.
        seen: what the server was found to give; empty where that wasn't looked at.
        readings: (metric, text) → points, or why there are none.
        answers: that these were read from.
    """

    method: str
    seen: str
    readings: dict[tuple[str, str], Reading | Failure]
    answers: list[Answer]


class Asking:
    """Asks each rubric about each text, by the method that was configured or that suits the server."""

    def __init__(self, config: LLMScoreConfig, client: Client, rubrics: Mapping[str, Rubric]) -> None:
        self.config, self.client, self.rubrics = config, client, rubrics
        self._calibrating = Calibrating(config, client) if config.method in ("auto", "expectation") else None

    def unanswered(self, texts: Sequence[str]) -> Iterator[Request]:
        """Requests that have no answer yet; before the server is known those of the method that is tried first."""
        self.client.answers.read()
        known = self._calibrating.known() if self._calibrating else None
        first = self._calibrating.requests.values() if self._calibrating and texts and not known else ()
        method = self._method(known)
        about = (request for text in texts for name in self.rubrics for request in self._requests(name, text, method))
        for request in chain(first, about):
            if self.client.answers.get(self.client.key(request)) is None:
                yield request

    def replies(self, texts: Sequence[str]) -> Replies:
        """Points of texts; everything that was answered is kept.

        Raises:
            SteerkitError: how the server answers can't be found out, or isn't what `method: expectation` needs.
        """
        self.client.answers.read()
        known = self._calibrating.find_out() if self._calibrating and texts else None
        if known and not known.whole and self.config.method == "expectation":
            c = self.config
            raise SteerkitError(
                f"{c.model} at {c.base_url}: no expectation can be taken, as {known.seen}; take method: "
                "number or mean, or auto, which finds out"
            )
        method = self._method(known)
        asked = {
            (name, text, sample): request
            for name in self.rubrics
            for text in texts
            for sample, request in enumerate(self._requests(name, text, method))
        }
        outcomes: dict[tuple[str, str], list[Outcome]] = {}
        for (name, text, _), outcome in self.client.ask(asked, batch=self.config.batch).items():
            outcomes.setdefault((name, text), []).append(outcome)
        return Replies(
            method,
            known.seen if known else "",
            {key: self._reading(own, method) for key, own in outcomes.items()},
            [outcome for own in outcomes.values() for outcome in own if isinstance(outcome, Answer)],
        )

    def _method(self, known: Calibration | None) -> str:
        if self.config.method != "auto":
            return self.config.method
        return "expectation" if known is None or known.whole else "number"

    def _requests(self, name: str, text: str, method: str) -> list[Request]:
        messages = [{"role": "user", "content": self.rubrics[name].prompt(text)}]
        return [self.config.request(messages, **more) for more in METHODS[method].parameters(self.config)]

    def _reading(self, outcomes: Sequence[Outcome], method: str) -> Reading | Failure:
        answers = []
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                return outcome
            answers.append(outcome)
        return METHODS[method].read(answers, self.config)
