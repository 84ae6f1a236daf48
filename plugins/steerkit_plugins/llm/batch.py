"""The Batch API: submitted once, collected whenever it is done, by this process or a later one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from steerkit.store.files import append_jsonl, read_whole_lines
from steerkit_plugins.llm.completion import read_answer
from steerkit_plugins.llm.failures import Failure, failure_of, words_of

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

    from steerkit_plugins.llm.answers import Answers
    from steerkit_plugins.llm.options import LLMConfig

Request = dict[str, Any]
FILE = "batches.jsonl"
MOST_REQUESTS, MOST_BYTES = 50_000, 190_000_000  # of one batch, at OpenAI (200 MB)
ENDED = ("completed", "failed", "expired", "cancelled")


@dataclass
class Job:
    """A batch under way: its input file, the keys in it, and its id once the server has given one."""

    file: str
    model: str
    keys: list[str]
    batch: str = ""


class Asker(Protocol):
    """What batches need of the client that asks for them."""

    config: LLMConfig
    answers: Answers
    progress: Callable[[int, int], None]
    asked: int


class Batches:
    """Batches of a folder's answers; each step is on disk before the next."""

    def __init__(self, client: Asker, server: AsyncOpenAI, secret: str) -> None:
        self.client, self.server, self.secret = client, server, secret
        self._path = client.answers.folder / FILE
        self._failures: dict[str, Failure] = {}

    async def ask(self, requests: Mapping[str, Request]) -> dict[str, Failure]:
        """Failures by key; the answers are in the cache."""
        try:
            jobs = [job for job in self._open_jobs() if not requests.keys().isdisjoint(job.keys)]
            under_way = {key for job in jobs for key in job.keys}
            for part in _parts({k: r for k, r in requests.items() if k not in under_way}):
                jobs.append(await self._upload(part))
            for job in jobs:
                await self._submit(job)
            total, done = sum(len(job.keys) for job in jobs), 0
            for job in jobs:
                await self._collect(job, requests, done, total)
                done += len(job.keys)
                self.client.progress(done, total)
        except Exception as error:
            failure = failure_of(error, self.secret)
            lost = {key: failure for key in requests if self.client.answers.get(key) is None}
            return lost | self._failures
        return self._failures

    def _open_jobs(self) -> list[Job]:
        jobs: dict[str, Job] = {}
        for row in read_whole_lines(self._path):
            if "keys" in row:
                jobs[row["file"]] = Job(row["file"], row["model"], row["keys"])
            elif "batch" in row:
                jobs[row["file"]].batch = row["batch"]
            else:
                del jobs[row["file"]]
        return list(jobs.values())

    async def _upload(self, requests: Mapping[str, Request]) -> Job:
        content = "".join(map(_line, requests.items())).encode()
        file = await self.server.files.create(file=("requests.jsonl", content), purpose="batch")
        job = Job(file.id, self.client.config.model, list(requests))
        append_jsonl(self._path, [{"file": job.file, "model": job.model, "keys": job.keys}])
        return job

    async def _submit(self, job: Job) -> None:
        if job.batch:
            return
        async for batch in self.server.batches.list():  # submitted just before a kill?
            if batch.input_file_id == job.file:
                job.batch = batch.id
                break
        else:
            batch = await self.server.batches.create(
                input_file_id=job.file, endpoint="/v1/chat/completions", completion_window="24h"
            )
            job.batch = batch.id
        append_jsonl(self._path, [{"file": job.file, "batch": job.batch}])

    async def _collect(self, job: Job, requests: Mapping[str, Request], done: int, total: int) -> None:
        batch = await self.server.batches.retrieve(job.batch)
        while batch.status not in ENDED:
            if batch.request_counts:
                self.client.progress(done + batch.request_counts.completed, total)
            await asyncio.sleep(self.client.config.poll_seconds)
            batch = await self.server.batches.retrieve(job.batch)
        why = _why(batch, self.secret)
        self._failures |= {key: Failure("batch", why) for key in job.keys if self.client.answers.get(key) is None}
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = await self.server.files.content(file)
            for line in content.text.split("\n"):
                if line:
                    self._take(json.loads(line), job, requests)
        append_jsonl(self._path, [{"file": job.file, "done": batch.status}])

    def _take(self, row: dict[str, Any], job: Job, requests: Mapping[str, Request]) -> None:
        key, response = str(row.get("custom_id")), row.get("response") or {}
        if key not in job.keys:
            return
        try:
            if response.get("status_code") != 200:
                raise ValueError(words_of(row.get("error") or response.get("body") or "no answer", self.secret))
            answer = read_answer(json.dumps(response["body"]))
        except ValueError as error:
            self._failures[key] = Failure("batch", words_of(error, self.secret))
            return
        self.client.answers.put(key, job.model, requests.get(key), answer, self.secret)
        self.client.asked += 1
        self._failures.pop(key, None)


def _line(item: tuple[str, Request]) -> str:
    body = {"custom_id": item[0], "method": "POST", "url": "/v1/chat/completions", "body": item[1]}
    return json.dumps(body, ensure_ascii=False) + "\n"


def _parts(requests: Mapping[str, Request]) -> Iterator[dict[str, Request]]:
    """Requests in parts that one batch may hold."""
    part: dict[str, Request] = {}
    size = 0
    for item in requests.items():
        more = len(_line(item).encode())
        if part and (len(part) >= MOST_REQUESTS or size + more > MOST_BYTES):
            yield part
            part, size = {}, 0
        part[item[0]] = item[1]
        size += more
    if part:
        yield part


def _why(batch: Batch, secret: str) -> str:
    errors = batch.errors.data if batch.errors and batch.errors.data else []
    said = "; ".join(words_of(error.message, secret) for error in errors[:3])
    return f"the batch {batch.status}" + (f": {said}" if said else "") if batch.status != "completed" else "no answer"
