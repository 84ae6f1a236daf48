"""Asks many requests at once, each one once: what was answered before is read back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from steerkit.errors import SteerkitError
from steerkit_plugins.llm.answers import Answers, key_of
from steerkit_plugins.llm.batch import Batches, Request
from steerkit_plugins.llm.completion import Answer, read_answer
from steerkit_plugins.llm.cost import expected_tokens
from steerkit_plugins.llm.failures import FATAL, Failure, failure_of
from steerkit_plugins.llm.options import LLMConfig

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Outcome = Answer | Failure
Name = TypeVar("Name", bound=Hashable)

GIVE_UP = 20  # failures in a row, beside those under way, after which nothing more is asked
LONGEST_WAIT = 120.0  # seconds that the client lets a server tell it to wait


class Client:
    """A server, a model, and the answers that were paid for.

    Args:
        config: which server and model, and how hard to try.
        answers: where answers are kept.
        progress: takes (done, total).
    """

    def __init__(self, config: LLMConfig, answers: Answers, progress: Callable[[int, int], None]) -> None:
        self.config, self.answers, self.progress = config, answers, progress
        self.asked = 0  # requests that were sent and answered

    @classmethod
    def at(cls, config: LLMConfig, folder: Path, progress: Callable[[int, int], None]) -> Client:
        """A client that keeps its answers in a folder, or where `cache` says."""
        return cls(config, Answers(Path(config.cache).expanduser() if config.cache else folder), progress)

    def key(self, request: Request) -> str:
        """What a request is kept under."""
        return key_of(self.config.host(), request)

    def ask(self, requests: Mapping[Name, Request], *, batch: bool = False) -> dict[Name, Outcome]:
        """The outcome of each request, by its name; every answer is on disk when this returns or raises.

        Raises:
            SteerkitError: no key is set; it would cost more than `max_cost`; the answers can't be written.
        """
        with self.answers.held():
            missing = {self.key(r): r for r in requests.values() if self.answers.get(self.key(r)) is None}
            failures = self._send(missing, batch) if missing else {}
        found: dict[Name, Outcome] = {}
        for name, request in requests.items():
            key = self.key(request)
            found[name] = self.answers.get(key) or failures.get(key, Failure("not asked"))
        return found

    def estimate(self, requests: Iterable[Request]) -> dict[str, float]:
        """Calls, tokens and dollars (where prices are known) that requests will take, about."""
        calls, sums = 0, [0.0, 0.0]
        for request in requests:
            calls += 1
            sums = [total + more for total, more in zip(sums, expected_tokens(request), strict=True)]
        prices = self.config.prices()
        dollars = {"dollars": round(prices.dollars(*sums), 4)} if prices else {}
        return {"calls": calls, "input tokens": round(sums[0]), "output tokens": round(sums[1]), **dollars}

    def expected(self, request: Request) -> float:
        """Dollars that a request will take, about; 0 where no price is known."""
        prices = self.config.prices()
        return prices.dollars(*expected_tokens(request)) if prices else 0.0

    def spent(self) -> float:
        """Dollars that all answers of this model in the cache have cost, where a price is known."""
        return sum(map(self.cost, self.answers.of_model(self.config.model)))

    def cost(self, answer: Answer) -> float:
        """Dollars that an answer has cost, as far as the server said what was charged."""
        prices = self.config.prices()
        return prices.dollars(answer.input_tokens or 0, answer.output_tokens or 0) if prices else 0.0

    def _send(self, requests: Mapping[str, Request], batch: bool) -> dict[str, Failure]:
        secret, limit, spent = self._secret(), self.config.max_cost, self.spent()
        expected = sum(map(self.expected, requests.values()))
        if limit is not None and spent + expected > limit:
            raise SteerkitError(
                f"{len(requests):,} requests to {self.config.model} would cost about ${expected:,.2f}, with "
                f"${spent:,.2f} spent before; max_cost is ${limit:,.2f}: raise it, or ask for less. Nothing was sent"
            )
        return run(self._send_all(requests, batch, secret))

    def _secret(self) -> str:
        name = self.config.api_key_env
        if name is None:
            return ""
        if not (secret := os.environ.get(name, "").strip()):
            raise SteerkitError(
                f"no key for {self.config.base_url}: the environment variable {name} is not set; set it, name another "
                "one (api_key_env), or api_key_env: null for a server that asks for none"
            )
        if not secret.isascii() or not secret.isprintable() or " " in secret:
            raise SteerkitError(f"the environment variable {name} holds more than a key (a space, a line break, ...)")
        return secret

    async def _send_all(self, requests: Mapping[str, Request], batch: bool, secret: str) -> dict[str, Failure]:
        from openai import AsyncOpenAI

        c = self.config
        async with AsyncOpenAI(
            api_key=secret or "none", base_url=c.base_url, timeout=c.timeout, max_retries=c.max_retries
        ) as server:
            if batch:
                return await Batches(self, server, secret).ask(requests)
            return await Sending(self, server, secret).ask(requests)


class Sending:
    """Requests on their way, so many at once, until all are answered or it is no use to go on."""

    def __init__(self, client: Client, server: AsyncOpenAI, secret: str) -> None:
        self.client, self.server, self.secret = client, server, secret
        self.failures: dict[str, Failure] = {}
        self._in_a_row = 0
        self._spent, self._under_way = client.spent(), 0.0
        self._dearest = 0.0  # dollars of the dearest answer: the estimate may be too low
        self._stop = ""

    async def ask(self, requests: Mapping[str, Request]) -> dict[str, Failure]:
        """Failures by key; the answers are in the cache."""
        queue, total, done = list(requests.items())[::-1], len(requests), 0

        async def work() -> None:
            nonlocal done
            while queue and not self._stop and self._affordable(queue[-1][1]):
                key, request = queue.pop()
                await self._one(key, request)
                done += 1
                self.client.progress(done, total)

        await asyncio.gather(*(work() for _ in range(min(self.client.config.max_concurrency, total))))
        return self.failures | {key: Failure(self._stop or "not asked") for key, _ in queue}

    def _affordable(self, request: Request) -> bool:
        limit = self.client.config.max_cost
        if limit is not None and self._spent + self._under_way + self._likely(request) > limit:
            self._stop = "max_cost"
        return not self._stop

    def _likely(self, request: Request) -> float:
        return max(self.client.expected(request), self._dearest)

    async def _one(self, key: str, request: Request) -> None:
        client, likely = self.client, self._likely(request)
        rest = {name: value for name, value in request.items() if name not in ("model", "messages")}
        patience = (client.config.timeout + LONGEST_WAIT) * (client.config.max_retries + 1)
        self._under_way += likely
        try:
            async with asyncio.timeout(patience):  # a server may send a byte now and then, for ever
                reply = await self.server.chat.completions.with_raw_response.create(
                    model=request["model"], messages=request["messages"], extra_body=rest
                )
            answer = read_answer(reply.text)
        except Exception as error:
            failure = self.failures[key] = failure_of(error, self.secret)
            self._in_a_row += 1
            if failure.kind in FATAL or self._in_a_row >= GIVE_UP:
                self._stop = "not asked"
            return
        finally:
            self._under_way -= likely
        client.answers.put(key, request["model"], request, answer, self.secret)
        client.asked += 1
        self._in_a_row = 0
        cost = client.cost(answer) or likely
        self._spent, self._dearest = self._spent + cost, max(self._dearest, cost)


def run(work: Coroutine[Any, Any, dict[str, Failure]]) -> dict[str, Failure]:
    """Run a coroutine to its end, also from a notebook, where a loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
