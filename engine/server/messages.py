"""The request, the reply and the port: the types that connections and request handling share."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import msgspec

from engine.model.safe_text import encode_printable

if TYPE_CHECKING:
    from collections.abc import Callable

Headers = tuple[tuple[bytes, bytes], ...]
JSON = b"application/json"
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class Request(msgspec.Struct, eq=False):
    """An HTTP request.

    target: in origin form (``/path?query``) or ``*``.
    headers: by name in lower case. The values of a name that occurs several times are joined with a comma.
    Trailers are not included. Read-only, because requests with equal heads share it.
    client: address and port of the peer.
    received_at: time of the first byte, by the monotonic clock.
    body: empty until the complete body is received.
    version: ``1.0`` or ``1.1``.
    keep_alive: whether the client wants to keep the connection open.
    body_length: bytes of the body, None if the body is chunked.
    """

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    client: Any = None
    received_at: float = 0.0
    body: bytes = b""
    version: str = "1.1"
    keep_alive: bool = True
    body_length: int | None = 0

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return unquote(self.target.partition(b"?")[0].decode("latin-1"))

    @property
    def query(self) -> str:
        """The query string, still percent-encoded."""
        return self.target.partition(b"?")[2].decode("latin-1")


class Reply(msgspec.Struct, frozen=True, eq=False):
    """An HTTP response. close: whether to close the connection after it."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers = ()
    close: bool = False

    def encode(self, connection: bytes | None, *, head_only: bool) -> bytes:
        """Return the bytes to send. connection: value of the Connection header, None to omit it."""
        extra = b"".join([b"\r\n%b: %b" % header for header in self.headers])
        if connection:
            extra += b"\r\nconnection: " + connection
        return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d%b\r\n\r\n%b" % (
            self.status, _PHRASES[self.status], self.content_type, len(self.body), extra,
            b"" if head_only else self.body,
        )  # fmt: skip


def json_reply(status: int, content: dict[str, Any], *headers: tuple[bytes, bytes]) -> Reply:
    """Return a reply with a JSON body."""
    return Reply(status, encode_printable(content), headers=headers)


def unauthorized(error: str, hint: str) -> Reply:
    """Return a 401 that asks for a token (RFC 9110, section 11.6.1)."""
    return json_reply(401, {"error": error, "hint": hint}, (b"www-authenticate", b"Bearer"))


class Port(Protocol):
    """The request handling of a listener. max_body: largest body in bytes."""

    max_body: int

    def reject(self, request: Request) -> Reply | None:
        """Return a reply if the body must not be read, else None. Must not block."""
        ...

    def is_urgent(self, request: Request) -> bool:
        """Return whether the request may use a reserved connection (see Limits)."""
        ...

    def count_rejected(self, status: int) -> None:
        """Count a request that was answered without ``answer``, or because ``answer`` failed."""
        ...

    def answer(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """Call ``reply`` exactly once, in the thread of the event loop, now or later."""
        ...
