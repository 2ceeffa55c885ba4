"""HTTP/1.1 connections for urllib3 with a deadline for the whole response and limits on its size.

- Deadline: a socket timeout limits one wait, so a server that sends a byte now and then could keep a call open
  for ever. Here the timeout covers the whole response. One timeout also covers all addresses of a host together
  with the TLS handshake. Only the resolver has a timeout of its own (``/etc/resolv.conf``).
- Speed: http.client parses headers as mail and urllib3 makes a stream of each body; that is two thirds of the
  CPU time of a call. Here httptools parses the response, and the body is read at once.

Proxies, TLS, connection reuse and error classes are those of urllib3. Import this module late: it loads the
HTTP libraries.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import time
from dataclasses import dataclass
from http.client import HTTPException, InvalidURL, RemoteDisconnected
from typing import TYPE_CHECKING, Any

import httptools
from urllib3 import HTTPConnectionPool, HTTPHeaderDict, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError
from urllib3.poolmanager import pool_classes_by_scheme
from urllib3.response import HTTPResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from urllib3 import PoolManager

CONNECT_TIMEOUT = 5.0
"""Seconds to connect; a server that does not accept a connection in this time is down."""
MAX_HEAD = 65_536
"""Bytes of the response head, including interim responses (1xx)."""
MAX_HEADERS = 256
"""Headers of a response, including interim responses."""
_MIN_TIMEOUT = 0.001
_READ_SIZE = 65_536
_FIRST_FINAL_STATUS = 200
_INVALID_IN_PATH = re.compile(r"[\x00-\x20\x7f-\uffff]")
_LINE_BREAK = re.compile(r"[\r\n\x00]")


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """The limit on a response body, in bytes. truncate: cut a longer body instead of raising an error."""

    max_bytes: int
    truncate: bool = False


class OversizedResponseError(HTTPException):
    """The head or the body of a response exceeds its limit. The message says which limit."""


def seconds_left(deadline: float) -> float:
    """Return the seconds until a time of the monotonic clock. Raises TimeoutError if it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    return max(_MIN_TIMEOUT, seconds)


def allow_any_address(address: str, port: int) -> None:
    """Allow a connection to every address."""


def dial(
    address: tuple[str, int],
    seconds: float,
    socket_options: Sequence[tuple[int, int, int | bytes]] | None = None,
    check: Callable[[str, int], None] = allow_any_address,
) -> socket.socket:
    """Connect to the first address of a host that accepts. Raises OSError and the errors of ``check``.

    address: host and port. seconds: for all addresses together; the rest becomes the timeout of the socket.
    check: called with each address and the port before the first connection. The host is resolved once, so that
    connections go only to addresses that were checked.
    """
    deadline, error = time.monotonic() + seconds, OSError("the host has no address")
    resolved = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    for *_, sockaddr in resolved:
        check(str(sockaddr[0]), address[1])
    for family, kind, protocol, _, sockaddr in resolved:
        connection = socket.socket(family, kind, protocol)
        try:
            for option in socket_options or ():
                connection.setsockopt(*option)
            connection.settimeout(seconds_left(deadline))
            connection.connect(sockaddr)
            connection.settimeout(seconds_left(deadline))
        except OSError as failed:
            connection.close()
            error = failed
        else:
            return connection
    raise error


class _TunnelResponse(http.client.HTTPResponse):
    """The response of a proxy to CONNECT; the timeout of the socket applies to the whole response."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        seconds = sock.gettimeout()
        if seconds is not None:
            raw = self.fp.detach()
            self.fp = io.BufferedReader(DeadlineReader(raw, sock, time.monotonic() + seconds))


class DeadlineReader(io.RawIOBase):
    """Reads from a socket until a deadline, and at most a number of bytes.

    deadline: a time of the monotonic clock. max_bytes: more bytes raise OversizedResponseError; None for no
    limit.
    """

    def __init__(
        self, raw: io.RawIOBase, sock: socket.socket, deadline: float, max_bytes: int | None = None
    ) -> None:
        super().__init__()
        self._raw, self._sock, self._deadline, self._left = raw, sock, deadline, max_bytes

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read into the buffer. Raises TimeoutError, OversizedResponseError, OSError."""
        self._sock.settimeout(seconds_left(self._deadline))
        count = self._raw.readinto(buffer)
        if self._left is not None and count:
            self._left -= count
            if self._left < 0:
                raise OversizedResponseError("the response exceeds its limit")
        return count

    def close(self) -> None:
        """Close the raw stream, too."""
        super().close()
        self._raw.close()


class _ResponseParser:
    """Parses one response with httptools, which calls the ``on_…`` methods.

    head_complete: the final head was parsed (1xx does not count). complete: the whole response was parsed.
    keep_alive: whether the connection can be used again. It cannot if bytes follow the response, because these
    bytes belong to no request.
    """

    def __init__(self, limit: BodyLimit) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()
        self.head_complete = self.complete = self.keep_alive = False
        self._limit, self._bytes_read, self._header_count = limit, 0, 0

    def feed(self, data: bytes) -> None:
        """Parse more bytes. Raises OversizedResponseError, HttpParserError."""
        self._bytes_read += len(data)
        self.parser.feed_data(data)
        head_too_long = not self.head_complete and self._bytes_read > MAX_HEAD
        if self._header_count > MAX_HEADERS or head_too_long:
            raise OversizedResponseError(
                f"the response head exceeds {MAX_HEAD >> 10} KiB or {MAX_HEADERS} headers"
            )
        # chunk framing may take as much as the body, plus the size of a head
        framed = not self.complete and self._bytes_read > MAX_HEAD + 2 * len(self.body)
        if framed or len(self.body) > self._limit.max_bytes:
            if not self._limit.truncate:
                raise OversizedResponseError(
                    f"the response exceeds {self._limit.max_bytes >> 20} MiB, or has more framing than body"
                )
            del self.body[self._limit.max_bytes :]
            self.complete, self.keep_alive = True, False

    def on_message_begin(self) -> None:
        if self.complete:
            self.keep_alive = False
        else:
            self.headers, self.head_complete = [], False
            self.body.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_complete:  # a trailer
            return
        self._header_count += 1
        if self._header_count <= MAX_HEADERS:
            self.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if not self.complete:
            self.status = self.parser.get_status_code()
            self.head_complete = self.status >= _FIRST_FINAL_STATUS

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self.body += body

    def on_message_complete(self) -> None:
        if not self.complete:
            self.complete = self.head_complete
            self.keep_alive = self.parser.should_keep_alive()  # not valid after this callback


class _BoundedExchange:
    """The exchange of one request and one response, for a connection class of urllib3.

    check_address: called before a connection to an address, see ``dial``.
    """

    limit: BodyLimit
    check_address: Callable[[str, int], None] = staticmethod(allow_any_address)
    response_class = _TunnelResponse
    sock: Any
    timeout: float | None
    _sent: tuple[str, str]

    def _new_conn(self) -> socket.socket:
        seconds = CONNECT_TIMEOUT if self.timeout is None else self.timeout
        try:
            address = (self._dns_host, self.port)
            return dial(address, seconds, self.socket_options, self.check_address)
        except OSError as error:
            what = f"Failed to establish a new connection: {error}"
            raise NewConnectionError(self, what) from error  # type: ignore[arg-type]  # a mixin of it

    def request(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **_: Any,
    ) -> None:
        """Send a request in one piece.

        Raises InvalidURL or ValueError for text that could start another header or request, OSError.
        """
        if _INVALID_IN_PATH.search(url):
            raise InvalidURL(f"the path contains {_INVALID_IN_PATH.findall(url)[0]!r}")
        given = headers or {}
        given_names = {name.lower() for name in given}
        default = {"Host": self._host_header(), "Accept-Encoding": "identity"}
        if body is not None:
            default["Content-Length"] = str(len(body))
        sent = [(name, value) for name, value in default.items() if name.lower() not in given_names]
        sent += given.items()  # of an HTTPHeaderDict, each value of a name
        lines = [f"{method} {url} HTTP/1.1", *(f"{name}: {value}" for name, value in sent)]
        if any(map(_LINE_BREAK.search, lines)):
            raise ValueError("a header contains a line break")
        if self.sock is None:
            self.connect()
        head = "\r\n".join(lines).encode("latin-1")
        self.sock.sendall(b"%b\r\n\r\n%b" % (head, body or b""))
        self._sent = (method, url)

    def getresponse(self) -> HTTPResponse:
        """Read the whole response within the timeout and the limits. Raises OSError, HTTPException."""
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        parser = _ResponseParser(self.limit)
        try:
            while not parser.complete:
                self.sock.settimeout(None if deadline is None else seconds_left(deadline))
                data = self.sock.recv(_READ_SIZE)
                if not data:
                    self._check_end(parser)
                    break
                parser.feed(data)
        except httptools.HttpParserError as error:
            if not parser.complete:
                raise HTTPException(f"the response is not HTTP ({str(error)[:100]})") from None
            parser.keep_alive = False
        if not parser.keep_alive:
            self.close()
        method, url = self._sent
        return HTTPResponse(
            body=bytes(parser.body), headers=HTTPHeaderDict(parser.headers),
            status=parser.status, version=11, version_string="HTTP/1.1", preload_content=False,
            decode_content=False, request_method=method, request_url=url,
        )  # fmt: skip

    @staticmethod
    def _check_end(parser: _ResponseParser) -> None:
        """Raise RemoteDisconnected unless the end of the connection ends the body (RFC 9112, 6.3)."""
        names = {name.lower() for name, _ in parser.headers}
        if not parser.head_complete or "content-length" in names or "transfer-encoding" in names:
            raise RemoteDisconnected("the server closed the connection before the response ended")

    def _host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == self.default_port else f"{host}:{self.port}"

    if TYPE_CHECKING:
        host: str
        port: int
        default_port: int
        socket_options: Any
        _dns_host: str

        def connect(self) -> None: ...
        def close(self) -> None: ...


class _PlainConnection(_BoundedExchange, HTTPConnection):  # type: ignore[misc]  # implements only what is used
    """A connection without TLS."""


class _TlsConnection(_BoundedExchange, HTTPSConnection):  # type: ignore[misc]  # implements only what is used
    """A connection with TLS."""


def use_bounded_connections(
    pools: PoolManager,
    limit: BodyLimit,
    check_address: Callable[[str, int], None] = allow_any_address,
) -> PoolManager:
    """Make pools that have no connections yet use the connections of this module, and return the pools.

    check_address: see ``dial``. Pools of a SOCKS proxy keep their own classes; urllib3 supports SOCKS only with
    a package that Tiercel does not include.
    """
    options = {"limit": limit, "check_address": staticmethod(check_address)}
    plain = type("PlainConnection", (_PlainConnection,), options)
    tls = type("TlsConnection", (_TlsConnection,), options)
    if pools.pool_classes_by_scheme is pool_classes_by_scheme:
        pools.pool_classes_by_scheme = {
            "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
        }
    return pools
