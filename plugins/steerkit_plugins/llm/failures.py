"""What went wrong with requests, by kind, each kind with its way out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError
from steerkit_plugins.llm.completion import Answer

if TYPE_CHECKING:
    from steerkit_plugins.llm.options import LLMConfig

WAYS_OUT = {
    "key refused": "check the key in the variable that api_key_env names, and that it may use this model",
    "not found": "check model and base_url (up to and with /v1)",
    "no credit": "the account has no credit left; top it up",
    "rate limit": "lower max_concurrency, raise max_retries, or wait",
    "bad request": "the server does not take such a request: see its words; temperature: null, seed: null, "
    "format: tagged (llm) or method: number (llm-score) leave out what it may not know",
    "server error": "the server's own trouble; wait, or raise max_retries",
    "timeout": "raise timeout, or lower max_concurrency",
    "connection": "check base_url, and that the server runs and is not overloaded",
    "no completion": "base_url must be an OpenAI-compatible server, up to and with /v1",
    "batch": "see the server's words; batch: false asks one by one",
    "not asked": "left alone when it was clear that asking on is no use",
    "max_cost": "raise max_cost to go on",
    "refused": "another model, or `unusable: leave-out`, which counts such texts and goes on without them",
    "cut off": "raise max_tokens (they are then asked anew), or `unusable: leave-out`",
    "not the form": "format: structured where the server can do it, another model or seed, or `unusable: leave-out`",
    "no number": "a rubric that asks for the number alone, another model, or `unusable: leave-out`",
    "no logprobs": "the server leaves log-probabilities out at times; method: number, or `unusable: leave-out`",
}

UNUSABLE = ("refused", "cut off", "not the form", "no number", "no logprobs")
"""What is wrong with an answer that was paid for and can't be used."""

FATAL = frozenset({"key refused", "not found", "no credit"})


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer that can be used; the answer, when it was paid for all the same."""

    kind: str
    message: str = ""
    answer: Answer | None = None


def refused(answer: Answer) -> Failure | None:
    """The refusal that an answer is by its server's own word; None when it is none."""
    if answer.refusal or answer.finish == "content_filter":
        return Failure("refused", answer.refusal[:200], answer)
    return None


def unusable(answer: Answer) -> Failure | None:
    """Why an answer that was paid for has nothing to read; None when it has."""
    if failure := refused(answer):
        return failure
    if answer.said:
        return None
    drafted = "a draft and no answer" if answer.content.strip() or answer.reasoning.strip() else "no text"
    if answer.finish == "length":
        return Failure("cut off", drafted, answer)
    return Failure("not the form", f"no text, but {answer.besides[:80]}" if answer.besides else drafted, answer)


def failure_of(error: Exception, secret: str) -> Failure:
    """An exception of the client, in words; the key is in none of them."""
    import openai

    match error:
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return Failure("key refused", f"HTTP {error.status_code}")  # such a body may show parts of the key
        case openai.NotFoundError():
            kind = "not found"
        case openai.RateLimitError():
            kind = "no credit" if error.code == "insufficient_quota" else "rate limit"
        case openai.InternalServerError():
            kind = "server error"
        case openai.APIStatusError():
            kind = "bad request"
        case openai.APITimeoutError() | TimeoutError():
            return Failure("timeout")
        case openai.APIConnectionError():
            return Failure("connection", words_of(error.__cause__ or error, secret))
        case ValueError() | openai.OpenAIError():
            return Failure("no completion", words_of(error, secret))
        case _:
            raise error
    return Failure(kind, f"HTTP {error.status_code}: {words_of(error.body or error, secret)}")


def words_of(said: Any, secret: str) -> str:
    """What a server said, short and without the key."""
    while isinstance(said, dict) and (inner := said.get("error") or said.get("message")):
        said = inner
    text = " ".join(str(said).split())
    text = text.replace(secret, "[key]") if secret else text  # before the cut: half a key is one, too
    return text if len(text) <= 200 else text[:197] + "..."


def lost(config: LLMConfig, what: str, failures: Sequence[Failure]) -> SteerkitError:
    """The error that ends a call; `what` says how many of what have no answer."""
    return SteerkitError(
        f"{config.model} at {config.base_url}: {what}; what was answered is kept and not paid for again: mend this and "
        f"give the same command again\n{_described(failures)}"
    )


def _described(failures: Iterable[Failure]) -> str:
    """A line a kind: how many, what was said first, the way out."""
    by_kind: dict[str, list[Failure]] = {}
    for failure in failures:
        by_kind.setdefault(failure.kind, []).append(failure)
    lines = []
    for kind, own in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        said = Counter(f.message for f in own if f.message).most_common(1)
        lines.append(f"  {len(own)} × {kind}" + (f" ({said[0][0]})" if said else "") + f": {WAYS_OUT[kind]}")
    return "\n".join(lines)
