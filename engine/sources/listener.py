"""A listening socket and its connections: TLS that is renewed, who is late, an end that cuts no reply off."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from functools import partial
from typing import TYPE_CHECKING

from engine.sources.connection import Connection, House, Limits

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterator

    from engine.metrics import Series
    from engine.sources.request import Port
    from engine.sources.tls import Certificates

_BACKLOG = 2048
_SPARE_FILES = 512
"""Descriptors for the journal, the API server, files that are read again."""
LIMITS = Limits()


class Listener:
    """Answers the requests of one socket with a port. Everything of it happens in the loop's thread."""

    def __init__(
        self,
        port: Port,
        listening: socket.socket,
        certificates: Certificates | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self.house = House(port, limits)
        self._socket, self._certificates, self._limits = listening, certificates, limits
        self._context: ssl.SSLContext | None = None
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to take connections."""
        await self._open()
        self._sweeping = asyncio.create_task(self._sweep())

    def series(self) -> Iterator[Series]:
        """What a scrape asks of the connections."""
        house = self.house
        yield "connections", {}, len(house.open)
        yield "connections_refused_total", {"reason": "many"}, house.turned_away
        yield "connections_refused_total", {"reason": "late"}, house.late

    async def stop(self, grace: float) -> None:
        """Take no more, and give those that have asked so many seconds for their reply."""
        self.house.closing = True
        if self._server:
            self._server.close()
        for connection in [*self.house.open]:
            connection.leave()
        if self.house.open:
            self.house.left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.house.left.wait(), grace)
        if self._sweeping:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
        for connection in [*self.house.open]:
            connection.abort()

    async def _open(self) -> None:
        """Take connections with the certificates of now; those that are open keep theirs.

        On a copy of the socket, so that what waits in its backlog is lost by no change.
        """
        self._context = self._certificates.context() if self._certificates else None
        # with TLS a handshake that takes too long is nobody's connection yet
        patience = self._limits.head if self._context else None
        before, self._server = (
            self._server,
            await asyncio.get_running_loop().create_server(
                partial(Connection, self.house),
                sock=self._socket.dup(),
                backlog=_BACKLOG,
                ssl=self._context,
                ssl_handshake_timeout=patience,
            ),
        )
        if before:
            before.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep)
            now = time.monotonic()
            for connection in [*self.house.open]:
                connection.sweep(now)
            if self._certificates and self._certificates.context() is not self._context:
                await self._open()


def allow_files(connections: int) -> None:
    """Raise the soft limit of open files to what so many connections need, as far as the hard one lets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
