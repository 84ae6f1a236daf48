"""The page's server over real HTTP: one visitor, this computer, its own page only; nothing lost when refused."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from annotate_run import served, write_run

from steerkit.annotate.server import HOST, LONGEST, Server
from steerkit.annotate.session import Session
from steerkit.annotate.store import Store, read_log
from steerkit.annotate.tasks import shuffled, trace_tasks
from steerkit.data.trace import Span, read_rows
from steerkit.errors import SteerkitError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def server(run: Path) -> Iterator[Server]:
    with served(run) as server:
        yield server


def ask(server: Server, path: str, body: Any = None, **headers: str) -> tuple[HTTPResponse, str]:
    """One request on a connection of its own; a body is posted as JSON."""
    connection = HTTPConnection(HOST, server.server_port, timeout=10)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        sent = {"Content-Type": "application/json", **sent}
    try:
        text = body if isinstance(body, str | None) else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, text, sent)
        answer = connection.getresponse()
        return answer, answer.read().decode()
    finally:
        connection.close()


def enter(server: Server) -> str:
    """The cookie of the one visit."""
    answer, _ = ask(server, server.url[server.url.index("/?") :])
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite" in cookie
    return cookie.partition(";")[0]


def state(server: Server, cookie: str) -> dict[str, Any]:
    return dict(json.loads(ask(server, "/state", Cookie=cookie)[1]))


def act(server: Server, cookie: str, action: str, **more: Any) -> dict[str, Any]:
    answer, text = ask(server, "/act", {"action": action, **more}, Cookie=cookie)
    assert answer.status == 200, text
    return dict(json.loads(text))


def test_the_link_is_good_for_one_browser(server: Server) -> None:
    link = server.url[server.url.index("/?") :]
    for path in ("/", "/page.js", "/state", "/labels.jsonl", "/?token=wrong", "/?token="):
        answer, text = ask(server, path)
        assert (answer.status, "steerkit annotate" in text) == (403, True), path
    cookie = enter(server)
    assert ask(server, link)[0].status == 403
    assert "used before" in ask(server, link)[1]
    assert ask(server, link, Cookie=cookie)[0].status == 303  # another tab of the same browser
    for path in ("/", "/page.js", "/page.css", "/icon.svg", "/state", "/labels.jsonl"):
        answer, text = ask(server, path, Cookie=cookie)
        assert answer.status == 200 and (text or path == "/labels.jsonl"), path
    assert ask(server, "/state", Cookie=cookie.replace("=", "=x"))[0].status == 403
    assert ask(server, "/state", Cookie=cookie.replace("steerkit-", "other-"))[0].status == 403


def test_pages_come_with_a_policy_that_forbids_everything_foreign(server: Server) -> None:
    cookie = enter(server)
    for path in ("/", "/state", "/gone"):
        headers = ask(server, path, Cookie=cookie)[0].headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in headers
    page = ask(server, "/", Cookie=cookie)[1]
    assert "http" not in page and " style=" not in page and " on" + "click=" not in page


def test_it_listens_on_this_computer_alone(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:PORT"},
        {"Host": "127.0.0.1:1"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:PORT"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"},
    ],
)
def test_other_sites_are_refused(server: Server, headers: dict[str, str], run: Path) -> None:
    cookie = enter(server)
    task = state(server, cookie)["task"]["id"]
    sent = {name: value.replace("PORT", str(server.server_port)) for name, value in headers.items()}
    for path, body in (("/state", None), ("/act", {"action": "label", "task": task, "label": "other"}), ("/stop", {})):
        answer, text = ask(server, path, body, Cookie=cookie, **sent)
        assert answer.status == 403 and ("on this computer" in text or "another site" in text)
    assert not (run / "annotations/ada.jsonl").exists()
    assert state(server, cookie)["labelled"] == 0


def test_its_own_page_is_answered(server: Server) -> None:
    cookie = enter(server)
    for name in (HOST, "localhost"):
        here = f"{name}:{server.server_port}"
        sent = {"Host": here, "Origin": f"http://{here}", "Sec_Fetch_Site": "same-origin"}
        assert ask(server, "/state", Cookie=cookie, **sent)[0].status == 200


def test_labels_are_on_the_disk_when_the_answer_comes(server: Server, run: Path) -> None:
    cookie = enter(server)
    now = state(server, cookie)
    for count, label in enumerate(("backtracking", "other", "deduction"), 1):
        task = now["task"]["id"]
        now = act(server, cookie, "label", task=task, label=label, version=now["version"])
        assert (now["labelled"], now["version"], now["notice"]) == (count, count, "")
        assert now["task"]["id"] != task
        assert [row["label"] for row in read_log(run / "annotations/ada.jsonl")][-1] == label
    now = act(server, cookie, "undo", version=now["version"])
    assert (now["task"]["id"], now["labelled"]) == (task, 2)
    exported = ask(server, "/labels.jsonl", Cookie=cookie)[1]
    (run / "own.jsonl").write_text(exported, encoding="utf-8")
    assert {(s.label, s.judge) for s in read_rows(run / "own.jsonl", Span)} == {
        ("backtracking", "human:ada"),
        ("other", "human:ada"),
    }


def test_a_page_opened_twice(server: Server, run: Path) -> None:
    """The last label of a span counts, a late undo or skip takes nothing away, and the late tab is told."""
    cookie = enter(server)
    one = two = state(server, cookie)
    first = one["task"]["id"]
    one = act(server, cookie, "label", task=first, label="deduction", version=one["version"])
    late = act(server, cookie, "skip", task=first, version=two["version"])
    assert "another tab" in late["notice"] and late["skipped"] == 0
    late = act(server, cookie, "undo", version=two["version"])
    assert "another tab" in late["notice"] and late["labelled"] == 1
    late = act(server, cookie, "label", task=first, label="backtracking", version=two["version"])
    assert "the last label counts" in late["notice"]
    assert (late["labelled"], late["task"]["id"]) == (1, one["task"]["id"])
    spans = ask(server, "/labels.jsonl", Cookie=cookie)[1].splitlines()
    assert [json.loads(line)["label"] for line in spans] == ["backtracking"]


def test_skipped_ones_come_at_the_end(server: Server) -> None:
    cookie = enter(server)
    now = state(server, cookie)
    skipped = [now["task"]["id"]]
    now = act(server, cookie, "skip", task=skipped[0], version=now["version"])
    while now["task"]:
        now = act(server, cookie, "label", task=now["task"]["id"], label="other", version=now["version"])
    assert (now["skipped"], now["labelled"]) == (1, now["total"] - 1)
    now = act(server, cookie, "again", version=now["version"])
    assert (now["task"]["id"], now["skipped"]) == (skipped[0], 0)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/act", "{", {}, 400),
        ("/act", "[]", {}, 400),
        ("/act", {"action": "label", "task": 5}, {}, 400),
        ("/act", {"action": "label", "label": "other", "version": True}, {}, 400),
        ("/act", {"action": "fly"}, {}, 409),
        ("/act", {"action": "label", "task": "nonesuch", "label": "other"}, {}, 409),
        ("/act", {"action": "undo"}, {"Content_Type": "text/plain"}, 404),
        ("/act", "x" * (LONGEST + 1), {}, 413),
        ("/gone", {}, {}, 404),
    ],
)
def test_requests_that_make_no_sense(
    server: Server, path: str, body: Any, headers: dict[str, str], status: int, run: Path
) -> None:
    cookie = enter(server)
    assert ask(server, path, body, Cookie=cookie, **headers)[0].status == status
    assert not (run / "annotations/ada.jsonl").exists()


def test_a_label_outside_the_taxonomy_is_refused(server: Server) -> None:
    cookie = enter(server)
    task = state(server, cookie)["task"]["id"]
    answer, text = ask(server, "/act", {"action": "label", "task": task, "label": "<b>x</b>"}, Cookie=cookie)
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (409, "text/plain")
    assert "is not one of the labels" in text


def test_connections_that_say_nothing_or_break_off_stop_nobody(server: Server) -> None:
    cookie = enter(server)
    silent = [socket.create_connection((HOST, server.server_port)) for _ in range(5)]
    silent[0].sendall(b"POST /act HTTP/1.1\r\nContent-Length: 99\r\n")
    silent[0].close()
    assert state(server, cookie)["labelled"] == 0
    for connection in silent[1:]:
        connection.close()


def test_a_folder_that_can_not_be_written(server: Server, run: Path) -> None:
    """The page is told, the label does not count, and works again when there is room."""
    cookie = enter(server)
    now = state(server, cookie)
    asked = {"action": "label", "task": now["task"]["id"], "label": "other", "version": now["version"]}
    path = run / "annotations/ada.jsonl"
    path.mkdir()
    answer, text = ask(server, "/act", asked, Cookie=cookie)
    assert answer.status == 409 and "can't be written" in text
    assert state(server, cookie)["labelled"] == 0
    path.rmdir()
    assert act(server, cookie, **asked)["labelled"] == 1


def test_ports_that_can_not_be_had(server: Server, run: Path) -> None:
    with Store(run, "bob") as store:
        session = Session(store, shuffled(trace_tasks(run, 1), "bob", 0), {"a": "b"}, "")
        for port in (server.server_port, 99999):
            with pytest.raises(SteerkitError, match=f"--port {port}: can't be used"):
                Server(session, port)


def test_more_labels_than_keys(run: Path) -> None:
    with (
        Store(run, "ada") as store,
        pytest.raises(SteerkitError, match="the taxonomy has 40 labels; a page has keys for"),
    ):
        Session(store, {}, {f"label{i}": "gloss" for i in range(40)}, "")


def raw(server: Server, text: str) -> str:
    """What is answered to a request that no well-behaved client sends."""
    with socket.create_connection((HOST, server.server_port), timeout=10) as connection:
        connection.sendall(text.encode("latin-1"))
        return connection.makefile("rb").read().decode("latin-1")


PATHS = [
    "/../server.py",
    "/page/../../server.py",
    "/%2e%2e/server.py",
    "/..%2fserver.py",
    "//etc/passwd",
    "/page.js/../../x",
    "/page.js%00.html",
    "/./page.js",
    "/PAGE.JS",
    "/annotations/ada.jsonl",
    "/labels.jsonl/",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("path", PATHS)
def test_files_are_four_and_no_path_leads_elsewhere(server: Server, path: str) -> None:
    cookie = enter(server)
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: {HOST}:{server.server_port}\r\nCookie: {cookie}\r\n\r\n")
    assert answer.startswith("HTTP/1.1 404 ") and "There is no such page." in answer


@pytest.mark.parametrize("path", ["http://[/", "/?" + "&".join(["a=b"] * 99)])
def test_addresses_that_are_none(server: Server, path: str) -> None:
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: {HOST}:{server.server_port}\r\n\r\n")
    assert answer.startswith("HTTP/1.1 400 ") and "The address can't be read" in answer
    assert "default-src 'none'" in answer


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "<script>"])
def test_other_methods_are_refused(server: Server, method: str, run: Path) -> None:
    cookie = enter(server)
    answer = raw(server, f"{method} /act HTTP/1.1\r\nHost: {HOST}:{server.server_port}\r\nCookie: {cookie}\r\n\r\n")
    assert answer.startswith("HTTP/1.1 501 ") and "default-src 'none'" in answer
    assert answer.endswith("\r\n\r\nThe request can't be read.\n")
    assert not (run / "annotations/ada.jsonl").exists()


@pytest.mark.parametrize(
    ("length", "body", "status"),
    [
        ("9" * 5000, "{}", 413),
        ("-1", "{}", 413),
        ("1e3", "{}", 413),
        ("40000", "[" * 40000, 400),
        ("11", '{"a":1e999}', 400),
    ],
)
def test_bodies_that_were_made_to_harm(server: Server, length: str, body: str, status: int) -> None:
    cookie = enter(server)
    answer = raw(
        server,
        f"POST /act HTTP/1.1\r\nHost: {HOST}:{server.server_port}\r\nCookie: {cookie}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
    )
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert state(server, cookie)["labelled"] == 0
