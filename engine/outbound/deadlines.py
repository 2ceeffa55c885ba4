"""Connections whose answers are whole by a deadline, however slowly they come.

The time-out of a socket bounds one wait: a server that sends a byte now and then begins it anew with each.
Here a time-out is that of the whole answer, and one for all addresses of a host and the handshake.
Only the resolver keeps its own time (``/etc/resolv.conf``). Imported late, with the libraries it is for.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError
from urllib3.poolmanager import pool_classes_by_scheme

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from urllib3 import PoolManager

CONNECT = 5.0
"""Seconds to connect at most; a server that does not even accept is down."""
_LEAST = 0.001


def left(until: float) -> float:
    """Seconds until a moment of the monotonic clock. Raises TimeoutError where it is over."""
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    return max(_LEAST, seconds)


def any_address(address: str, port: int) -> None:
    """The check of a connection that may go to every address."""


def dial(
    address: tuple[str, int],
    seconds: float,
    socket_options: Sequence[tuple[int, int, int | bytes]] | None = None,
    check: Callable[[str, int], None] = any_address,
) -> socket.socket:
    """A connection to the first address of a host that accepts one. Raises OSError, and what ``check`` raises.

    seconds: for all addresses; what is left is the connection's time-out. check: called with each address and
    the port before the first connection. The host is resolved once, so that only checked addresses are dialed.
    """
    until, error = time.monotonic() + seconds, OSError("the host has no address")
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    for *_, place in found:
        check(str(place[0]), address[1])
    for family, kind, protocol, _, place in found:
        made = socket.socket(family, kind, protocol)
        try:
            for option in socket_options or ():
                made.setsockopt(*option)
            made.settimeout(left(until))
            made.connect(place)
            made.settimeout(left(until))
        except OSError as failed:
            made.close()
            error = failed
        else:
            return made
    raise error


class Response(http.client.HTTPResponse):
    """The answer of a proxy to CONNECT; it must arrive within the time-out of its socket at the start."""

    def __init__(self, sock: socket.socket, *given: Any, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        seconds = sock.gettimeout()
        if seconds is not None:
            raw = self.fp.detach()
            self.fp = io.BufferedReader(_Until(raw, sock, time.monotonic() + seconds))


class _Until(io.RawIOBase):
    """What a socket says until a moment."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, until: float) -> None:
        super().__init__()
        self._raw, self._sock, self._until = raw, sock, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(left(self._until))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        super().close()
        self._raw.close()


class Plain(HTTPConnection):
    """A connection without TLS. check_address: called before an address is dialed, see ``dial``."""

    response_class = Response
    check_address: Callable[[str, int], None] = staticmethod(any_address)

    def _new_conn(self) -> socket.socket:
        seconds = CONNECT if self.timeout is None else self.timeout
        try:
            place = (self._dns_host, self.port)
            return dial(place, seconds, self.socket_options, self.check_address)
        except OSError as error:
            what = f"Failed to establish a new connection: {error}"
            raise NewConnectionError(self, what) from error


class Tls(HTTPSConnection, Plain):
    """A connection with TLS."""


def with_connections(pools: PoolManager, plain: type[Plain], tls: type[Tls]) -> PoolManager:
    """The same pools, which make connections of these classes; they must not have made any yet.

    Pools through a SOCKS proxy, which urllib3 only makes with a package that we do not bring, stay as they are.
    """
    if pools.pool_classes_by_scheme is pool_classes_by_scheme:
        pools.pool_classes_by_scheme = {
            "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
        }
    return pools
