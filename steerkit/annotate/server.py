"""The page's server: this computer only, one visitor, no other site, nothing from the network."""

from __future__ import annotations

import hmac
import json
import secrets
import socketserver
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from steerkit.annotate.exchange import as_jsonl
from steerkit.annotate.session import Session
from steerkit.errors import SteerkitError
from steerkit.store.strict_json import loads

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LONGEST = 65536  # bytes of a request's body
START = "Start `steerkit annotate` again with the same words for a new link; everything labelled is kept."


class Server(ThreadingHTTPServer):
    """Serves a session until it is stopped.

    Attributes:
        url: what opens the page. The token in it is good for one visit, which gets a cookie for it.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, session: Session, port: int = 0) -> None:
        self.session = session
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise SteerkitError(f"--port {port}: can't be used ({error}); leave it out to have a free one") from error
        self.origins = {f"http://{name}:{self.server_port}" for name in (HOST, "localhost")}
        self.cookie = f"steerkit-{self.server_port}"  # cookies are shared between the ports of a host
        self.secret = secrets.token_urlsafe(32)
        self._token: str | None = secrets.token_urlsafe(32)
        self.url = f"http://{HOST}:{self.server_port}/?token={self._token}"
        self._lock = Lock()

    def server_bind(self) -> None:
        """Without the name look-up of `HTTPServer`, which may wait for a network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def spend(self, token: str) -> bool:
        """Whether this is the token, the first time that it is asked."""
        with self._lock:
            good = self._token is not None and hmac.compare_digest(token.encode(), self._token.encode())
            if good:
                self._token = None
            return good

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle is no news."""


class Handler(BaseHTTPRequestHandler):
    """One request. Whoever has no cookie gets nothing but a refusal."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a silent connection may keep a thread

    def do_GET(self) -> None:
        if not self._from_here():
            return None
        try:
            url = urlsplit(self.path)
            token = parse_qs(url.query, max_num_fields=10).get("token")
        except ValueError as error:
            return self._refuse(400, f"The address can't be read ({error}).")
        if token and url.path == "/" and self.server.spend(token[0]):
            kept = f"{self.server.cookie}={self.server.secret}; HttpOnly; SameSite=Lax; Path=/"
            return self._send(303, b"", "text/plain", {"Location": "/", "Set-Cookie": kept})
        if not self._known():
            return self._refuse(403, f"This link was used before, or is not whole. {START}")
        if token:
            return self._send(303, b"", "text/plain", {"Location": "/"})
        if url.path in FILES:
            name, kind = FILES[url.path]
            return self._send(200, (PAGE / name).read_bytes(), f"{kind}; charset=utf-8")
        if url.path == "/state":
            return self._json(200, self.server.session.state())
        if url.path == "/labels.jsonl":
            store = self.server.session.store
            kept = f'attachment; filename="{store.path.stem}.jsonl"'
            rows = as_jsonl(list(store.rows)).encode()
            return self._send(200, rows, "application/x-ndjson", {"Content-Disposition": kept})
        return self._refuse(404, "There is no such page.")

    def do_POST(self) -> None:
        self.close_connection = True  # what is refused unread must not be taken for the next request
        if not self._from_here():
            return None
        if not self._known():
            return self._refuse(403, f"This page is not open any more. {START}")
        size = self.headers.get("Content-Length", "")
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        if self.path not in ("/act", "/stop") or kind != "application/json":
            return self._refuse(404, "There is nothing to post there.")
        if not size.isdecimal() or len(size) > 9 or int(size) > LONGEST:
            return self._refuse(413, "The request's length is missing, or too large.")
        try:
            asked = loads(self.rfile.read(int(size)))
            known = {"action": str, "task": str, "label": str, "version": int}
            if not isinstance(asked, dict) or any(type(v) is not known.get(k) for k, v in asked.items()):
                raise ValueError("not the fields of a request")
        except ValueError as error:
            return self._refuse(400, f"The request can't be read ({error}).")
        if self.path == "/stop":
            self._json(200, self.server.session.state())
            Thread(target=self.server.shutdown, daemon=True).start()
            return None
        try:
            return self._json(200, self.server.session.act(**{"action": "", **asked}))
        except SteerkitError as error:
            return self._refuse(409, f"{error}")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses (other methods, broken requests), as everything else is refused."""
        self._refuse(code, "The request can't be read.")

    def _from_here(self) -> bool:
        """Refuse what another site sends through the visitor's browser, whatever name it gave this computer."""
        origin, host = self.headers.get("Origin"), f"http://{self.headers.get('Host', '')}"
        site = self.headers.get("Sec-Fetch-Site", "none")
        if host not in self.server.origins or (origin is not None and origin != host):
            self._refuse(403, "This page answers only to itself, on this computer.")
        elif site not in ("same-origin", "none") and self.headers.get("Sec-Fetch-Mode") != "navigate":
            self._refuse(403, "This page answers only to itself, not to another site.")
        else:
            return True
        return False

    def _known(self) -> bool:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self.server.secret.encode())

    def _refuse(self, status: int, why: str) -> None:
        self.close_connection = True
        self._send(status, f"{why}\n".encode(), "text/plain; charset=utf-8")

    def _json(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        closing = {"Connection": "close"} if self.close_connection else {}
        sent = {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body)), **closing, **(more or {})}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: the token is in one."""
