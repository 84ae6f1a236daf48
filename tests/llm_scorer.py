"""A model that gives points, for the server of `llm_server`: a distribution over numbers for each text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from llm_server import Json, State, completion, serving

Spread = dict[str, float]
"""First token, or word, → probability."""

TOLD = re.compile(r"Answer with the number (\d+) and nothing else\.")


def even(prompt: str) -> Spread:
    """Points by the length of the text, and some beside them."""
    points = len(text_of(prompt)) % 90
    return {str(points): 0.6, f" {points + 1}": 0.3, "The": 0.1}


def text_of(prompt: str) -> str:
    """What a rubric puts between its last <text> and </text>, or all of the prompt."""
    _, found, rest = prompt.rpartition("<text>")
    return rest.partition("</text>")[0].strip() if found else prompt


@dataclass
class Scorer:
    """What the server says to a request.

    Attributes:
        state: of the server.
        spread: prompt → what the model could say first, the likeliest first.
        whole: whether its tokenizer keeps numbers whole, or splits them into digits.
        says: text → the answer in words, in place of the likeliest number; (words, reason for the end) too.
    """

    state: State
    spread: Callable[[str], Spread] = even
    whole: bool = True
    says: dict[str, str | tuple[str, str]] = field(default_factory=dict)

    def __call__(self, body: Json) -> Json:
        prompt = body["messages"][-1]["content"]
        told = TOLD.fullmatch(prompt)
        spread = {told[1]: 0.98, "Sure": 0.02} if told else self.spread(prompt)
        tokens = spread if self.whole else self.first_characters(spread)
        words = list(spread)[body.get("seed", 0) % len(spread) if body.get("temperature") else 0]
        finish = "stop"
        if (said := self.says.get(text_of(prompt))) is not None:
            words, finish = said if isinstance(said, tuple) else (said, "stop")
        if body.get("max_tokens") == 1:
            words, finish = next(iter(tokens)), "length"
        answer = completion(words, usage=self.state.usage, finish=finish)
        if body.get("logprobs") and self.state.logprobs is True:
            rows = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in tokens.items()]
            first = {**rows[0], "top_logprobs": rows[: body["top_logprobs"]]}
            answer["choices"][0]["logprobs"] = {"content": [first], "refusal": None}
        return answer

    @staticmethod
    def first_characters(spread: Spread) -> Spread:
        found: Spread = {}
        for word, p in spread.items():
            found[word.strip()[0]] = found.get(word.strip()[0], 0.0) + p
        return found


@contextmanager
def scoring() -> Iterator[tuple[str, State, Scorer]]:
    """(base_url, state, model) of a server that runs meanwhile."""
    with serving() as (url, state):
        scorer = Scorer(state)
        state.reply = scorer
        state.text_of = lambda body: text_of(body["messages"][-1]["content"])
        yield url, state, scorer
