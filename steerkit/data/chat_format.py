"""Prompts to ids: through the tokenizer's chat template, ready for the model's turn, or as plain text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from steerkit.data.chat_template import WHERE, ChatTemplate
from steerkit.data.chats import Chat, messages_of
from steerkit.data.template_text import past_tag, repeated_from, shared
from steerkit.data.trace import Prompt, Trace
from steerkit.errors import InputError, Problem, SteerkitError

Mode = Literal["auto", "yes", "no"]
DAY = "2024-07-26"
"""What a template that asks for today's date is told: the day that Llama 3.1's falls back to."""

NOTES = {
    "system_in_user_turn": "System texts put before the first user message, a blank line between them, as the chat "
    "template has no system role",
    "continued": "Chats that end in an assistant message: the model continues it, or it is the trace (`traces.given`)",
    "joined": "Chats read as plain text, as no chat template is used: messages joined by blank lines, without roles",
    "begun_once": "Prompts that began with the token that the tokenizer puts first anyhow, which is there once",
}
"""What `ChatFormat.check` counts, and what it means."""


class ChatFormat:
    """How one tokenizer's prompts become ids.

    A template's text already holds the special tokens, so none are added to it. A text is one user message. A last
    assistant message is continued: it stands behind what opens the model's turn, as if the model had written it.
    A system message goes before the first user message, separated by a blank line, where the template has no system
    role. Without a template, messages are joined by blank lines.

    Args:
        tokenizer: a fast tokenizer.
        mode: `no`: plain text; `yes`: the chat template; `auto`: the template, where the tokenizer has one.
        arguments: what the template is given beside the messages.
        day: YYYY-MM-DD, what a template that asks for the date is told.
        default_system: whether chats without a system message have the one that the template writes by itself, if it
            does (Qwen 2.5's "You are Qwen, ..."). An empty system message is a third thing: a turn without text.

    Raises:
        SteerkitError: the tokenizer has no template and needs one.
        InputError: every argument that the template never reads.
    """

    def __init__(
        self,
        tokenizer: Any,
        mode: Mode = "auto",
        arguments: Mapping[str, Any] | None = None,
        day: str = DAY,
        *,
        default_system: bool = True,
    ) -> None:
        if mode == "yes" and not tokenizer.chat_template:
            raise SteerkitError("chat: yes, but the tokenizer has no chat template; use chat: no or auto")
        self.tokenizer, self._arguments, self._day = tokenizer, dict(arguments or {}), day
        self._default_system = default_system
        used = mode != "no" and bool(tokenizer.chat_template)
        self.template = ChatTemplate(tokenizer, self._arguments, day, default_system=default_system) if used else None
        if self._arguments and not used:
            raise SteerkitError(f"{WHERE}: no chat template is used that could read them; leave them out")

    def ids(self, chat: Chat) -> list[int]:
        """Ids of a prompt.

        Raises:
            SteerkitError: the template refuses it.
        """
        if isinstance(chat, str) and self.template:  # the usual one, without a second look at it
            return self._encode(self.template.render(messages_of(chat), opened=True))
        return self._encode("".join(self.parts(chat)))

    def placed(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text that is formatted already, and the characters [start, end) that each stands for."""
        special = {"add_special_tokens": False} if self.template else {}
        found = self.tokenizer(text, return_offsets_mapping=True, **special)
        begun = self._begun(found["input_ids"])
        return list(found["input_ids"])[begun:], [(a, b) for a, b in found["offset_mapping"]][begun:]

    def ids_before(self, chat: Chat, text: str) -> list[int]:
        """Ids of a prompt that a text follows, without the end that the text itself begins with.

        Raises:
            SteerkitError: the template refuses it, or the text begins with the whole prompt, or as a sequence does.
        """
        before, opening = self.parts(chat)
        first = self.tokenizer.bos_token
        whole = before.strip() if self.template else ""
        if (whole and text.startswith(whole)) or (first and text.startswith(first)):
            raise SteerkitError(f"the trace begins with its own prompt ({text[:40]!r}); leave the prompt out of it")
        return self._encode(before + opening.removesuffix(self.repeated(chat, text)))

    def repeated(self, chat: Chat, text: str) -> str:
        """The end of a prompt that a text begins with again: all that opens the model's turn, or its ``<think>``."""
        opening = self.parts(chat)[1]
        own = len(opening) - len(_continued(chat))  # where a continued message begins
        places = [*(self.template.places(opening[:own]) if self.template else ()), own, own + past_tag(opening[own:])]
        return opening[repeated_from(opening, text, places) :]

    def closes(self, chat: Chat, marker: str) -> bool:
        """Whether the prompt itself ends the reasoning, so that all that is generated is the answer."""
        return bool(marker) and marker in self.parts(chat)[1]

    def parts(self, chat: Chat) -> tuple[str, str]:
        """A formatted prompt in two: the conversation, and what opens the model's turn, a continued message included.

        Raises:
            SteerkitError: the template refuses it.
        """
        messages, continued = messages_of(chat), _continued(chat)
        if continued:
            messages = messages[:-1]
        if self.template is None:
            return "\n\n".join(m.content for m in messages), f"\n\n{continued}" if continued else ""
        fitted = messages if isinstance(chat, str) else self.template.fitted(messages)
        text = self.template.render(fitted, opened=True)
        end = shared(text, self.template.render(fitted, opened=False))
        before, opening = text[:end], text[end:]
        if continued:
            opening = opening[: repeated_from(opening, continued, self.template.places(opening))] + continued
        return before, opening

    def opened_twice(self, traces: Iterable[Trace]) -> dict[str, int]:
        """How many traces begin with what ends their prompt, by that text (`repeated`)."""
        return dict(Counter(text for t in traces if (text := self.repeated(t.prompt, t.text + t.answer_text))))

    def settings(self) -> list[Any]:
        """JSON of all that ids depend on, the tokenizer's vocabulary aside: part of a step's key."""
        if self.template is None:
            return []
        own = [self.template.text, self._arguments, self._day if self.template.dated else ""]
        return own if self._default_system else [*own, "no default system message"]

    def check(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Format every prompt, and count what a user should know of (`NOTES`); empty when there is nothing.

        Raises:
            InputError: every prompt that the template refuses.
        """
        counts: Counter[str] = Counter()
        problems = []
        for prompt in prompts:
            try:
                counts.update(self._noted(prompt.prompt))
            except SteerkitError as error:
                problems.append(Problem(f"prompt {prompt.id!r}", str(error)))
        if problems:
            raise InputError("prompts", problems)
        day = {"template_date": self._day} if self.template and self.template.dated else {}
        return {**{name: counts[name] for name in NOTES if counts[name]}, **day}

    def _noted(self, chat: Chat) -> Iterator[str]:
        """Names of what happens to a prompt."""
        if self._begun(self._plain("".join(self.parts(chat)))):
            yield "begun_once"
        if _continued(chat):
            yield "continued"
        if not isinstance(chat, str) and self.template is None and len(chat) > 1:
            yield "joined"
        if not isinstance(chat, str) and self.template and chat[0].role == "system" and not self.template.has_system:
            yield "system_in_user_turn"

    def _encode(self, text: str) -> list[int]:
        ids = self._plain(text)
        return ids[self._begun(ids) :]

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, **({"add_special_tokens": False} if self.template else {}))["input_ids"])

    def _begun(self, ids: Sequence[int]) -> int:
        """How often the token that begins a sequence stands before another one at the beginning."""
        first, count = self.tokenizer.bos_token_id, 0
        while first is not None and list(ids[count : count + 2]) == [first, first]:
            count += 1
        return count


def format_prompt(tokenizer: Any, chat: Chat, mode: Mode = "auto") -> list[int]:
    """Ids of one prompt; see `ChatFormat`."""
    return ChatFormat(tokenizer, mode).ids(chat)


def in_words(logged: Mapping[str, Any]) -> list[str]:
    """What a run's log says of its prompts (`chats`) and of imported traces (`opened_twice`), a sentence each."""
    notes = logged.get("chats", {})
    lines = [f"{text}: {notes[name]:,}." for name, text in NOTES.items() if name in notes]
    if "template_date" in notes:
        lines.append(f"The chat template asks for today's date; it is told {notes['template_date']} (`chat_date`).")
    for text, n in logged.get("opened_twice", {}).items():
        lines.append(f"Traces that begin with {text!r}, which their prompt ends with and which is read once: {n:,}.")
    return lines


def _continued(chat: Chat) -> str:
    """The assistant message that the model goes on from; empty when there is none."""
    return chat[-1].content if not isinstance(chat, str) and chat[-1].role == "assistant" else ""
