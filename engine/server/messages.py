"""A request as it came, the reply to it, and what answers: the words between connections and ports."""

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
    """One request.

    target: in origin form (``/path?query``) or ``*``. headers: by name in lower case; the values of a name
    that occurs several times are joined with a comma. Trailers are not among them.
    client: the caller's address and port. began: when its first byte came, by the monotonic clock. body:
    empty until all of it is there.
    """

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    client: Any = None
    began: float = 0.0
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path, its escapes taken back."""
        return unquote(self.target.partition(b"?")[0].decode("latin-1"))

    @property
    def query(self) -> str:
        """What stands after the question mark."""
        return self.target.partition(b"?")[2].decode("latin-1")


class Reply(msgspec.Struct, frozen=True, eq=False):
    """The reply to a request. close: whether the connection ends with it."""

    status: int
    body: bytes
    kind: bytes = JSON
    headers: Headers = ()
    close: bool = False

    def encoded(self, connection: bytes | None, *, head_only: bool) -> bytes:
        """As it goes out, in one piece. connection: what to say of it."""
        also = b"".join(b"\r\n%b: %b" % header for header in self.headers)
        if connection:
            also += b"\r\nconnection: " + connection
        return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d%b\r\n\r\n%b" % (
            self.status, _PHRASES[self.status], self.kind, len(self.body), also,
            b"" if head_only else self.body,
        )  # fmt: skip


def said(status: int, what: dict[str, Any], *headers: tuple[bytes, bytes]) -> Reply:
    """A reply of JSON."""
    return Reply(status, encode_printable(what), headers=headers)


class Port(Protocol):
    """What answers the requests of a listener. most: bytes that a body may have."""

    most: int

    def refuse(self, request: Request) -> Reply | None:
        """The reply to a request whose body is not worth reading; None to go on. Must not block."""
        ...

    def urgent(self, request: Request) -> bool:
        """Whether the request may use a connection that is reserved (see Limits)."""
        ...

    def refused(self, status: int) -> None:
        """A request was answered so without being given to ``answer``, or by what went wrong there."""
        ...

    def answer(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """See to it that ``reply`` is called once, in the loop's thread, now or later."""
        ...
