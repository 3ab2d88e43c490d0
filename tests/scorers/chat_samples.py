"""A chat-completions server over real HTTP, for judges that are asked in words."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], str]
"""Status, headers, body."""

Responder = Callable[[dict[str, Any]], Reply]


def says(text: Any) -> Reply:
    """A chat completion with this content."""
    message = {"role": "assistant", "content": text}
    return 200, {}, json.dumps({"object": "chat.completion", "choices": [{"index": 0, "message": message}]})


def fails(status: int, message: str = "no", **headers: str) -> Reply:
    return status, headers, json.dumps({"error": {"message": message, "type": "some_error"}})


def asked(request: dict[str, Any]) -> str:
    """The words of a request's first message."""
    return " ".join(part["text"] for part in request["messages"][0]["content"] if part["type"] == "text")


class ChatServer(ThreadingHTTPServer):
    """Answers POST /v1/chat/completions by `respond`, and remembers what came."""

    daemon_threads = True
    respond: Responder = staticmethod(lambda request: says("C"))

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def play(self, *replies: Reply) -> None:
        """One after the other; the last one again and again."""
        left = list(replies)
        self.respond = lambda request: left.pop(0) if len(left) > 1 else left[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of some tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append(request)
            server.headers.append(dict(self.headers))
            server.paths.append(self.path)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            status, headers, body = server.respond(request)
        finally:
            with server.lock:
                server.at_once -= 1
        content = body.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Not into the tests' output."""


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    with ChatServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
