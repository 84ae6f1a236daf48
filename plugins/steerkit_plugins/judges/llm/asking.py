"""Texts to sections: which form is asked for, and which answers can be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit_plugins.judges.llm.prompt import JSON_BEGINS, Form, Structured, Tagged
from steerkit_plugins.llm.batch import Request
from steerkit_plugins.llm.client import Client
from steerkit_plugins.llm.completion import Answer
from steerkit_plugins.llm.failures import UNUSABLE, Failure, unusable

if TYPE_CHECKING:
    from steerkit_plugins.judges.llm.config import LLMJudgeConfig

STRUCTURED, TAGGED = Structured(), Tagged()

NO_STRUCTURE = frozenset({"bad request", "server error", "no completion", "not the form"})
"""How a first try ends at a server that has no structured output."""


@dataclass(frozen=True)
class Reply:
    """An answer that can be used, and its (label, text) sections."""

    answer: Answer
    sections: list[tuple[str, str]]


Replies = dict[str, Reply | Failure]


class Asking:
    """Asks in the form that was configured, or in the one that the server is found to know."""

    def __init__(self, config: LLMJudgeConfig, client: Client, labels: Mapping[str, str]) -> None:
        self.config, self.client, self.labels = config, client, labels
        self._structured: bool | None = {"structured": True, "tagged": False}.get(config.format)

    def unanswered(self, texts: Iterable[str]) -> Iterator[Request]:
        """Requests for the texts that have no answer yet, in the form that is tried first."""
        form = TAGGED if self._structured is False else STRUCTURED
        self.client.answers.read()
        for text in texts:
            if self._known(text) is None:
                yield self._request(text, form)

    def replies(self, texts: Sequence[str]) -> Replies:
        """Text → reply or failure; everything that was answered is kept."""
        self.client.answers.read()
        known = {text: form for text in texts if (form := self._known(text))}
        found: Replies = {}
        for form in (STRUCTURED, TAGGED):
            found |= self._ask([text for text in texts if known.get(text) is form], form)
        rest = [text for text in texts if text not in known]
        if rest and self._structured is None:
            found |= self._try(rest[0])
            rest = [text for text in rest if text not in found]
        found |= self._ask(rest, TAGGED if self._structured is False else STRUCTURED)
        if self.config.format == "auto":
            again = [t for t in rest if isinstance(r := found[t], Failure) and r.kind == "not the form"]
            found |= self._ask(again, TAGGED)
        return found

    def _try(self, text: str) -> Replies:
        """Whether the server knows structured output, found out with one text, and that text's reply if it does."""
        found = self._ask([text], STRUCTURED, batch=False)
        reply = found[text]
        if isinstance(reply, Failure) and reply.kind in NO_STRUCTURE:
            self._structured = False
            return {}
        if isinstance(reply, Reply) or reply.kind in UNUSABLE:
            self._structured = True
        return found

    def _known(self, text: str) -> Form | None:
        """The form in which a text has been answered already."""
        answers, client = self.client.answers, self.client
        if not len(answers):
            return None
        if self.config.format != "tagged":
            answer = answers.get(client.key(self._request(text, STRUCTURED)))
            if answer and (
                self.config.format == "structured" or not _is_formless(self._read(text, answer, STRUCTURED))
            ):
                return STRUCTURED
        if self.config.format != "structured" and answers.get(client.key(self._request(text, TAGGED))):
            return TAGGED
        return None

    def _request(self, text: str, form: Form) -> Request:
        return self.config.request(form.messages(text, self.labels), **form.parameters(self.labels))

    def _ask(self, texts: Sequence[str], form: Form, *, batch: bool | None = None) -> Replies:
        requests = {text: self._request(text, form) for text in texts}
        outcomes = self.client.ask(requests, batch=self.config.batch if batch is None else batch)
        return {
            text: outcome if isinstance(outcome, Failure) else self._read(text, outcome, form)
            for text, outcome in outcomes.items()
        }

    def _read(self, text: str, answer: Answer, form: Form) -> Reply | Failure:
        if failure := unusable(answer):
            return failure
        try:
            sections = form.sections(text, answer.said)
        except ValueError:
            # A server that ignores the form may also write on to its limit: JSON would have begun with a brace.
            cut = answer.finish == "length" and (form is TAGGED or JSON_BEGINS.match(answer.said))
            return Failure("cut off" if cut else "not the form", answer.said[:80], answer)
        return Failure("cut off", answer=answer) if answer.finish == "length" else Reply(answer, sections)


def _is_formless(reply: Reply | Failure) -> bool:
    return isinstance(reply, Failure) and reply.kind == "not the form"
