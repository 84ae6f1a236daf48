"""Whether a server's answers can be read as an expectation: does it give log-probabilities, are numbers one token?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steerkit_plugins.judges.llm_score.config import LLMScoreConfig
from steerkit_plugins.judges.llm_score.methods import METHODS
from steerkit_plugins.llm.batch import Request
from steerkit_plugins.llm.client import Client
from steerkit_plugins.llm.completion import Answer
from steerkit_plugins.llm.failures import Failure, lost

NUMBERS = (85, 42, 100)
"""Numbers that the model is told to say, to see whether its first token is all of one."""

NO_LOGPROBS = frozenset({"bad request", "key refused", "server error", "no completion", "not asked"})
"""How a request for log-probabilities ends where there are none; a key is refused also for what it may not ask."""


@dataclass(frozen=True)
class Calibration:
    """Whether the expectation can be taken, and what was seen."""

    whole: bool
    seen: str


REFUSED = Calibration(False, "the server refuses log-probabilities")


class Calibrating:
    """Asks for numbers that are known, with and, where that fails, without log-probabilities.

    Its answers are kept like all others, so that a later process knows without asking.
    """

    def __init__(self, config: LLMScoreConfig, client: Client) -> None:
        self.config, self.client = config, client
        self.requests = {number: self._request(number, "expectation") for number in NUMBERS}
        self._plain = self._request(NUMBERS[0], "number")

    def known(self) -> Calibration | None:
        """What was found out before; None when nothing was."""
        answers = {number: self._kept(request) for number, request in self.requests.items()}
        found = {number: answer for number, answer in answers.items() if answer}
        if len(found) == len(NUMBERS):
            return _seen(found)
        return REFUSED if self._kept(self._plain) else None

    def find_out(self) -> Calibration:
        """What is known, or is found out now.

        Raises:
            SteerkitError: the server doesn't answer without log-probabilities either, or is out of reach.
        """
        if found := self.known():
            return found
        answers, failures = self._ask(self.requests)
        if len(failures) == len(NUMBERS) and {failure.kind for failure in failures} <= NO_LOGPROBS:
            plain, failures = self._ask({NUMBERS[0]: self._plain})
            if plain:
                return REFUSED
        if failures:
            raise lost(self.config, "can't find out whether it gives log-probabilities", failures)
        return _seen(answers)

    def _ask(self, requests: Mapping[int, Request]) -> tuple[dict[int, Answer], list[Failure]]:
        outcomes = self.client.ask(requests)
        answers = {number: outcome for number, outcome in outcomes.items() if isinstance(outcome, Answer)}
        return answers, [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]

    def _kept(self, request: Request) -> Answer | None:
        return self.client.answers.get(self.client.key(request))

    def _request(self, number: int, method: str) -> Request:
        told = f"Answer with the number {number} and nothing else."
        (more,) = METHODS[method].parameters(self.config)
        return self.config.request([{"role": "user", "content": told}], **more)


def _seen(answers: Mapping[int, Answer]) -> Calibration:
    for number, answer in answers.items():
        if not answer.top_logprobs:
            return Calibration(False, "the server gives no log-probabilities")
        first = answer.top_logprobs[0][0]
        if first.strip() != str(number):
            return Calibration(False, f"asked for {number}, its first token is {first!r}, which is not all of it")
    return Calibration(True, "numbers are one token each")
