"""Connections that send a request in one piece and have httptools parse its answer.

http.client parses each answer's headers as mail and urllib3 makes a stream of each body: two thirds of what a
call costs the interpreter. Here a body is read at once, up to a limit. All else (proxies, TLS, which connection
is taken, the names of errors) stays urllib3's. Imported late, with the libraries it is for.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from http.client import HTTPException, InvalidURL, RemoteDisconnected
from typing import TYPE_CHECKING, Any

import httptools
from urllib3 import HTTPHeaderDict
from urllib3.response import HTTPResponse

from engine.outbound.deadlines import Plain, Tls, any_address, left, with_connections

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from urllib3 import PoolManager

HEAD = 65_536
"""Bytes of the head of an answer, interim answers (1xx) included."""
HEADERS = 256
"""Headers of an answer, interim answers included."""
_PIECE = 65_536
_OK = 200
_UNFIT = re.compile(r"[\x00-\x20\x7f-\uffff]")
_BROKEN = re.compile(r"[\r\n\x00]")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of an answer is read. body: bytes. cut: a longer body is cut there; otherwise it is an error."""

    body: int
    cut: bool = False


class TooLongError(HTTPException):
    """The answer is longer than its bound."""


class _Answer:
    """An answer as the parser reports it.

    headed: the head is complete. whole: all of the answer is there; an interim one (1xx) does not count.
    keeps: whether the connection lasts. What follows the answer belongs to no request and ends the connection.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()
        self.headed = self.whole = self.keeps = False
        self._bounds, self._read, self._headers = bounds, 0, 0

    def feed(self, data: bytes) -> None:
        """Parse what came. Raises TooLongError, HttpParserError."""
        self._read += len(data)
        self.parser.feed_data(data)
        if self._headers > HEADERS or (not self.headed and self._read > HEAD):
            limits = f"{HEAD >> 10} KiB or {HEADERS} headers"
            raise TooLongError(f"the head of the answer is longer than {limits}")
        # the framing of chunks may take as much as the body, and the size of a head
        framed = not self.whole and self._read > HEAD + 2 * len(self.body)
        if framed or len(self.body) > self._bounds.body:
            if not self._bounds.cut:
                limit = f"{self._bounds.body >> 20} MiB"
                raise TooLongError(
                    f"the answer is longer than {limit}, or has more framing than body"
                )
            del self.body[self._bounds.body :]
            self.whole, self.keeps = True, False

    def on_message_begin(self) -> None:
        if self.whole:
            self.keeps = False
        else:
            self.headers, self.headed = [], False
            self.body.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.headed:  # a trailer
            return
        self._headers += 1
        if self._headers <= HEADERS:
            self.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if not self.whole:
            self.status = self.parser.get_status_code()
            self.headed = self.status >= _OK

    def on_body(self, body: bytes) -> None:
        if not self.whole:
            self.body += body

    def on_message_complete(self) -> None:
        if not self.whole:
            self.whole = self.headed
            self.keeps = self.parser.should_keep_alive()  # it does not know any more after this


class _Quick:
    """For a connection of urllib3's, before its own class."""

    bounds: Bounds
    sock: Any
    timeout: float | None
    _asked: tuple[str, str]

    def request(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **_: Any,
    ) -> None:
        """Send it. Raises InvalidURL, ValueError for what would be another request, OSError."""
        if _UNFIT.search(url):
            raise InvalidURL(f"a path may hold no {_UNFIT.findall(url)[0]!r}")
        given = headers or {}
        names = {name.lower() for name in given}
        own = {"Host": self._host(), "Accept-Encoding": "identity"}
        told = {name: own[name] for name in own if name.lower() not in names} | dict(given)
        if body is not None:
            told["Content-Length"] = str(len(body))
        lines = [f"{method} {url} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items())]
        if any(map(_BROKEN.search, lines)):
            raise ValueError("a header may hold no line break")
        if self.sock is None:
            self.connect()
        head = "\r\n".join(lines).encode("latin-1")
        self.sock.sendall(b"%b\r\n\r\n%b" % (head, body or b""))
        self._asked = (method, url)

    def getresponse(self) -> HTTPResponse:
        """The answer, whole within the time-out and the bounds. Raises OSError, HTTPException."""
        until = None if self.timeout is None else time.monotonic() + self.timeout
        answer = _Answer(self.bounds)
        try:
            while not answer.whole:
                self.sock.settimeout(None if until is None else left(until))
                data = self.sock.recv(_PIECE)
                if not data:
                    self._cut_off(answer)
                    break
                answer.feed(data)
        except httptools.HttpParserError as error:
            if not answer.whole:
                raise HTTPException(f"that is no HTTP, {str(error)[:100]}") from None
            answer.keeps = False
        if not answer.keeps:
            self.close()
        method, url = self._asked
        return HTTPResponse(
            body=bytes(answer.body), headers=HTTPHeaderDict(answer.headers),
            status=answer.status, version=11, version_string="HTTP/1.1", preload_content=False,
            decode_content=False, request_method=method, request_url=url,
        )  # fmt: skip

    @staticmethod
    def _cut_off(answer: _Answer) -> None:
        """The other side has ended the connection. Raises RemoteDisconnected where that ends no answer."""
        names = {name.lower() for name, _ in answer.headers}
        if not answer.headed or "content-length" in names or "transfer-encoding" in names:
            raise RemoteDisconnected("the connection was closed before the answer was whole")

    def _host(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == self.default_port else f"{host}:{self.port}"

    if TYPE_CHECKING:
        host: str
        port: int
        default_port: int

        def connect(self) -> None: ...
        def close(self) -> None: ...


class _QuickPlain(_Quick, Plain):  # type: ignore[misc]  # takes the part of these that is used
    pass


class _QuickTls(_Quick, Tls):  # type: ignore[misc]  # the same
    pass


def with_fast_connections(
    pools: PoolManager,
    bounds: Bounds,
    check_address: Callable[[str, int], None] = any_address,
) -> PoolManager:
    """The same pools with such connections; they must not have made any yet. check_address: see ``dial``."""
    own = {"bounds": bounds, "check_address": staticmethod(check_address)}
    return with_connections(
        pools, type("Plain", (_QuickPlain,), own), type("Tls", (_QuickTls,), own)
    )
