"""The base of the HTTP servers that stand in for others: on a free port of loopback, in a thread of its own."""

from __future__ import annotations

import abc
import http
import http.server
import json
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message

    Response = tuple[int, Mapping[str, str], bytes]
    """Status, headers and body."""


class LoopbackServer(abc.ABC):
    """A context manager that serves. A subclass answers in ``respond``. address: HOST:PORT."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    @abc.abstractmethod
    def respond(self, method: str, path: str, headers: Message, body: bytes) -> Response | None:
        """Return the response, or None to close the connection. Threads call it at the same time."""

    def upgrade(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Answer a request that asks for another protocol. The connection is closed when it returns.

        The default refuses the request.
        """
        request.send_error(http.HTTPStatus.NOT_IMPLEMENTED)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def as_json(status: int, value: Any) -> Response:
    """Return a response with a JSON body."""
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _handler(server: LoopbackServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet, or the client waits 40 ms for the second

        def do_GET(self) -> None:
            if self.headers["Upgrade"]:
                self.close_connection = True
                server.upgrade(self)
                return
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            response = server.respond(self.command, self.path, self.headers, body)
            if response is None:
                self.close_connection = True
                return
            status, headers, content = response
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:  # the response to a HEAD has that of a GET
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    return Handler


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True  # those of connections that are kept open

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnected or were killed. The tests do both."""
