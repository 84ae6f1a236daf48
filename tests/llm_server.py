"""An OpenAI-compatible server on loopback, and that fails when it is told to. Its model splits texts at sentences."""

from __future__ import annotations

import email
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-steerkit-test-0123456789"
SNAPSHOT = "gpt-4o-2024-08-06"

Json = dict[str, Any]


class State:
    """What the server does next, and what it has done.

    Attributes:
        structured: whether `response_format` is honoured (True), ignored (False) or refused ("refuse").
        logprobs: whether the field is honoured (True), ignored (False), or refused with a status (400, 403).
        faults: text → faults of its next requests, one each; "*" is for every text.
        text_of: the text that a request is about, by which it is counted; its last message when left alone.
        asked: text → requests. paid: text → answers that went out whole.
    """

    def __init__(self) -> None:
        self.structured: bool | str = True
        self.logprobs: bool | int = True
        self.faults: dict[str, list[str]] = {}
        self.asked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.times: list[float] = []
        self.keys: set[str] = set()
        self.bodies: list[Json] = []
        self.files: dict[str, str] = {}
        self.batches: dict[str, Json] = {}
        self.usage = 100  # tokens each way that an answer is charged
        self.polls = 1  # looks at a batch before it is done
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.answer = sections_of
        self.text_of: Callable[[Json], str] = lambda body: body["messages"][-1]["content"]
        self.reply: Callable[[Json], Json] = lambda body: reply(self, body)

    def fault(self, text: str) -> str:
        with self.lock:
            queue = self.faults.get(text) or self.faults.get("*") or []
            return queue.pop(0) if queue else ""


def sections_of(text: str) -> list[tuple[str, str]]:
    """A section a sentence; those with "Wait" are backtracking."""
    parts = [part for part in re.split(r"(?<=[.!?])\s+", text) if part.strip()]
    return [("backtracking" if part.startswith("Wait") else "deduction", part) for part in parts]


def completion(content: str, *, refusal: str | None = None, finish: str = "stop", usage: int = 100) -> Json:
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": SNAPSHOT,
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": usage, "completion_tokens": usage, "total_tokens": 2 * usage},
    }


def reply(state: State, body: Json) -> Json:
    """What the model says to a request."""
    text = body["messages"][-1]["content"]
    sections = state.answer(text)
    if "response_format" in body and state.structured is True:
        content = json.dumps({"sections": [{"label": label, "text": part} for label, part in sections]})
    else:
        content = " ".join(f'["{label}"] {part} ["end-section"]' for label, part in sections)
    return completion(content, usage=state.usage)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *_: object) -> None:
        pass

    def send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        kind = "text/html" if isinstance(value, str) else "application/json"
        for name, item in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, item)
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.state.keys.add(self.headers.get("Authorization", ""))
        if self.path == "/v1/files":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            parts = email.message_from_bytes(head + data).get_payload()
            name = f"file-{len(self.state.files)}"
            self.state.files[name] = max((p.get_payload(decode=True).decode() for p in parts), key=len)  # type: ignore[union-attr]
            return self.send(
                200,
                {
                    "id": name,
                    "object": "file",
                    "bytes": 1,
                    "created_at": 1,
                    "filename": "f",
                    "purpose": "batch",
                    "status": "processed",
                },
            )
        body = json.loads(data)
        return self.create_batch(body) if self.path == "/v1/batches" else self.chat(body)

    def chat(self, body: Json) -> None:
        state, text = self.state, self.state.text_of(body)
        with state.lock:
            state.asked[text] += 1
            state.times.append(time.monotonic())
            state.bodies.append(body)
            state.under_way += 1
            state.most_under_way = max(state.under_way, state.most_under_way)
        try:
            if "response_format" in body and state.structured == "refuse":
                return self.send(400, {"error": {"message": "unknown parameter response_format", "type": "invalid"}})
            if "logprobs" in body and not isinstance(state.logprobs, bool):
                return self.send(state.logprobs, {"error": {"message": "logprobs are not for this model"}})
            return self.fail(state.fault(text), body, text)
        finally:
            with state.lock:
                state.under_way -= 1

    def fail(self, fault: str, body: Json, text: str) -> None:
        state = self.state
        kind, _, detail = fault.partition(":")
        match kind:
            case "":
                pass
            case "slow":
                time.sleep(float(detail))
            case "status":
                code, _, retry = detail.partition(":")
                said = {"error": {"message": f"no luck for {self.headers['Authorization']}", "code": retry or None}}
                return self.send(int(code), said, {"retry-after": retry} if retry and retry[0].isdigit() else None)
            case "date":
                later = email.utils.formatdate(time.time() + float(detail), usegmt=True)
                return self.send(429, {"error": {"message": "slow down"}}, {"retry-after": later})
            case "hang":
                time.sleep(float(detail))
                self.close_connection = True
                return None
            case "close":
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "5000")
                self.end_headers()
                self.wfile.write(b'{"id": "chatcmpl-1", "choi')
                self.close_connection = True
                return None
            case "html":
                return self.send(200, "<html>Welcome to the login page</html>")
            case "shape":
                return self.send(200, {"hello": "world"})
            case "schema":
                return self.pay(text, completion('{"parts": []}'))
            case "prose":
                return self.pay(text, completion("Sure! Here is what I think about it."))
            case "refusal":
                return self.pay(text, completion("", refusal="I can't help with that."))
            case "length":
                return self.pay(text, completion('{"sections": [{"label": "deduc', finish="length"))
            case "echo":
                answer = state.reply(body)
                answer["choices"][0]["message"]["content"] += f" {self.headers['Authorization']}"
                return self.pay(text, answer)
        return self.pay(text, state.reply(body))

    def pay(self, text: str, answer: Json) -> None:
        # Counted before it goes out: who has the answer may look at the count at once.
        with self.state.lock:
            self.state.paid[text] += 1
        try:
            self.send(200, answer)
        except OSError:
            with self.state.lock:
                self.state.paid[text] -= 1
            raise

    def create_batch(self, body: Json) -> None:
        name = f"batch-{len(self.state.batches)}"
        self.state.batches[name] = {"file": body["input_file_id"], "looks": 0, "status": "in_progress"}
        self.send(200, self.batch(name))

    def batch(self, name: str) -> Json:
        own = self.state.batches[name]
        done = own["status"] == "completed"
        return {
            "id": name,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": own["file"],
            "completion_window": "24h",
            "status": own["status"],
            "created_at": 1,
            "request_counts": {"total": 9, "completed": own["looks"] if not done else 9, "failed": 0},
            "output_file_id": f"out-{name}" if done else None,
            "error_file_id": None,
            **(
                {"errors": {"object": "list", "data": [{"message": "the file is odd"}]}}
                if own["status"] == "failed"
                else {}
            ),
        }

    def do_GET(self) -> None:
        state, path = self.state, self.path.partition("?")[0].removeprefix("/v1/")
        if path == "batches":
            return self.send(200, {"object": "list", "data": [self.batch(b) for b in state.batches], "has_more": False})
        if path.startswith("batches/"):
            own = state.batches[path.removeprefix("batches/")]
            own["looks"] += 1
            if own["looks"] >= state.polls and own["status"] == "in_progress":
                self.complete_batch(path.removeprefix("batches/"))
            return self.send(200, self.batch(path.removeprefix("batches/")))
        name = path.removeprefix("files/").removesuffix("/content")
        return self.send(200, state.files[name])

    def complete_batch(self, name: str) -> None:
        state, rows = self.state, []
        fault = state.fault("batch")
        state.batches[name]["status"] = fault or "completed"
        for line in state.files[state.batches[name]["file"]].splitlines() if not fault else ():
            row = json.loads(line)
            text = state.text_of(row["body"])
            state.asked[text] += 1
            if code := state.fault(text):
                response: Json = {"status_code": int(code), "body": {"error": {"message": "no luck"}}}
            else:
                response = {"status_code": 200, "body": state.reply(row["body"])}
                state.paid[text] += 1
            rows.append({"id": "r", "custom_id": row["custom_id"], "response": response, "error": None})
        state.files[f"out-{name}"] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@contextmanager
def serving(port: int = 0) -> Iterator[tuple[str, State]]:
    """(base_url, state) of a server that runs meanwhile."""
    state = State()
    handler = type("Bound", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
