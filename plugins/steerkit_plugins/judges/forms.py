"""Judges that have a language model fill in a form: a JSON object with a few fields."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field

from steerkit_plugins.llm.batch import Request
from steerkit_plugins.llm.client import Outcome
from steerkit_plugins.llm.completion import Answer, writable
from steerkit_plugins.llm.failures import Failure, unusable
from steerkit_plugins.llm.judging import AskingJudge, JudgingConfig, written
from steerkit_plugins.llm.notes import notes_of

AGAIN = "That can't be used: {why}. Answer again, with the JSON object and nothing else."
T = TypeVar("T")

_JSON = json.JSONDecoder(strict=False)  # line breaks within texts are let through


class NotTheForm(ValueError):
    """What is wrong with the fields, in words that the model is shown."""


@dataclass(frozen=True)
class Form(Generic[T]):
    """What is asked of each text.

    Attributes:
        name: of the JSON schema.
        task: the system's message.
        properties: JSON schema of each field; all are wanted.
        read: the fields → a value. Raises: NotTheForm.
    """

    name: str
    task: str
    properties: dict[str, Any]
    read: Callable[[dict[str, Any]], T]


class FormConfig(JudgingConfig):
    model: str = Field(default="gpt-5-mini", min_length=1)
    """Name of the model, as its server knows it; the papers' when left out."""
    temperature: float | None = Field(default=None, ge=0)
    """Of the sampling; null, as when left out, sends none: some models accept no other than their own."""
    format: Literal["structured", "plain"] = "structured"
    """How the JSON is asked for: by the server's structured output, or in words alone."""
    attempts: int = Field(default=3, ge=1)
    """Times that a feature is asked about: an answer that can't be used is shown to the model with what is wrong."""
    unusable: Literal["error", "leave-out"] = "error"
    """What becomes of a feature without a usable answer (refused, cut off, not the form): `error` counts them by kind
    in the end, `leave-out` goes on without them."""


class FormJudge(AskingJudge):
    """A judge that has forms filled in."""

    Config = FormConfig

    def fill(self, form: Form[T], texts: Sequence[str]) -> list[T | None]:
        """The form of each text; None for an empty one, and where there is none to be used (`unusable`).

        Raises:
            SteerkitError: answers that can't be used, counted by kind; what was answered is kept.
        """
        asked_before, own = self._client.asked, written(texts)
        self._client.answers.read()
        found: dict[str, T | Failure] = {}
        answers: list[Answer] = []
        left = {text: _messages(form, text) for text in own}
        for _ in range(self.config.attempts):
            requests = {text: self._request(form, messages) for text, messages in left.items()}
            outcomes = self._client.ask(requests, batch=self.config.batch)
            answers += [outcome for outcome in outcomes.values() if isinstance(outcome, Answer)]
            for text, outcome in outcomes.items():
                read = _read(form, outcome)
                found[text] = read
            left = {text: again for text, messages in left.items() if (again := _corrected(messages, found[text]))}
            if not left:
                break
        failures = [each for each in found.values() if isinstance(each, Failure)]
        self._notes = {
            "unusable_answers": dict(Counter(failure.kind for failure in failures)),
            **notes_of(self._client, answers, self._client.asked - asked_before),
        }
        self._check(failures, len(own), "features")
        usable = {text: each for text, each in found.items() if not isinstance(each, Failure)}
        return [usable.get(text) for text in texts]

    def _open(self, form: Form[Any], texts: Sequence[str]) -> Iterator[Request]:
        """What is still to be asked to have a form of these texts."""
        self._client.answers.read()
        for request in (self._request(form, _messages(form, text)) for text in texts):
            if self._client.answers.get(self._client.key(request)) is None:
                yield request

    def _request(self, form: Form[Any], messages: list[dict[str, str]]) -> Request:
        more: dict[str, Any] = {}
        if self.config.format == "structured":
            schema = {"type": "object", "properties": form.properties, "required": list(form.properties)}
            named = {"name": form.name, "strict": True, "schema": {**schema, "additionalProperties": False}}
            more = {"response_format": {"type": "json_schema", "json_schema": named}}
        request: Request = self.config.request(messages, **more)
        return request


def said(values: dict[str, Any], name: str, most: int) -> str:
    """A field of words, at most so many. Raises: NotTheForm."""
    text = values.get(name)
    if not isinstance(text, str) or not text.strip():
        raise NotTheForm(f"it has no {name}")
    text = writable(" ".join(text.split()))
    if (count := len(text.split())) > most:
        raise NotTheForm(f"the {name} has {count} words, more than {most}")
    return text


def one_of(values: dict[str, Any], name: str, known: Sequence[str]) -> str:
    """A field that is one of some words. Raises: NotTheForm."""
    if (found := values.get(name)) not in known:
        raise NotTheForm(f"the {name} is {found!r:.40}, not one of {', '.join(word or 'none' for word in known)}")
    return str(found)


def _read(form: Form[T], outcome: Outcome) -> T | Failure:
    """What an answer says, or in words why it can't be used."""
    if isinstance(outcome, Failure):
        return outcome
    if failure := unusable(outcome):
        return failure
    values = list(_objects(outcome.said))
    if not values:
        cut = outcome.finish == "length"
        return Failure("cut off" if cut else "not the form", "there is no JSON object in it", outcome)
    try:
        return form.read(values[-1])
    except NotTheForm as error:
        return Failure("not the form", str(error), outcome)


def _messages(form: Form[Any], text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": form.task}, {"role": "user", "content": writable(text)}]


def _corrected(messages: list[dict[str, str]], found: Any) -> list[dict[str, str]]:
    """What is asked after an answer that can't be used; nothing after any other."""
    if not isinstance(found, Failure) or found.kind != "not the form" or found.answer is None:
        return []
    told = AGAIN.format(why=found.message)
    return [*messages, {"role": "assistant", "content": found.answer.said}, {"role": "user", "content": told}]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, also in a fence or in prose."""
    at = 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = _JSON.raw_decode(text, at)
            yield value
        except (ValueError, RecursionError):
            at += 1
