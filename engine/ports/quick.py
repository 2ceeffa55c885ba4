"""Connections that send a request in one piece and have httptools parse its answer.

http.client makes a mail of each answer's headers and urllib3 a stream of each body: two thirds of what a call
costs the interpreter. Here a body is small and wanted whole. All else (proxies, TLS, which connection is taken,
what its faults are called) stays urllib3's. Imported late, with the libraries it is for.
"""

from __future__ import annotations

import re
import time
from http.client import HTTPException, InvalidURL, RemoteDisconnected
from typing import TYPE_CHECKING, Any

import httptools
from urllib3 import HTTPConnectionPool, HTTPHeaderDict, HTTPSConnectionPool, PoolManager
from urllib3.response import HTTPResponse

from engine.ports.deadline import Plain, Tls, left, with_pools

if TYPE_CHECKING:
    from collections.abc import Mapping

_PIECE = 65_536
_OK = 200
_UNFIT = re.compile(r"[\x00-\x20\x7f-\uffff]")
_BROKEN = re.compile(r"[\r\n\x00]")


class _Answer:
    """What the parser calls. whole: all of the answer is there; an interim one (1xx) is none.

    headed: its head is. keeps: whether the connection lasts; what follows the answer is nobody's, and ends it.
    """

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.parts: list[bytes] = []
        self.headed = self.whole = self.keeps = False

    def on_message_begin(self) -> None:
        if self.whole:
            self.keeps = False
        else:
            self.headers, self.parts, self.headed = [], [], False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.whole:
            self.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if not self.whole:
            self.status = self.parser.get_status_code()
            self.headed = self.status >= _OK

    def on_body(self, body: bytes) -> None:
        if not self.whole:
            self.parts.append(body)

    def on_message_complete(self) -> None:
        if not self.whole:
            self.whole = self.headed
            self.keeps = self.parser.should_keep_alive()  # it does not know any more after this


class _Quick:
    """For a connection of urllib3's, before its own class."""

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
        told = {"Host": self._host(), "Accept-Encoding": "identity", **(headers or {})}
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
        """The answer, whole within the time-out. Raises OSError, HTTPException."""
        until = None if self.timeout is None else time.monotonic() + self.timeout
        answer = _Answer()
        try:
            while not answer.whole:
                self.sock.settimeout(None if until is None else left(until))
                data = self.sock.recv(_PIECE)
                if not data:
                    self._cut_off(answer)
                    break
                answer.parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not answer.whole:
                raise HTTPException(f"that is no HTTP, {str(error)[:100]}") from None
            answer.keeps = False
        if not answer.keeps:
            self.close()
        method, url = self._asked
        return HTTPResponse(
            body=b"".join(answer.parts), headers=HTTPHeaderDict(answer.headers),
            status=answer.status, version=11, version_string="HTTP/1.1",
            preload_content=False, request_method=method, request_url=url,
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


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _QuickPlain  # type: ignore[assignment]  # the same


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _QuickTls  # type: ignore[assignment]  # the same


def quick(pools: PoolManager) -> PoolManager:
    """The same, with such connections, whose answers are whole by a deadline; it must not have made any yet."""
    return with_pools(pools, _PlainPool, _TlsPool)
