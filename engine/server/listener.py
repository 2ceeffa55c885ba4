"""A listening socket and its connections: TLS that is renewed, who is late, an end that cuts no reply off."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.server.connection import Connection
from engine.server.connection_limits import ConnectionLimits, Limits
from engine.server.messages import said

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterator

    from engine.server.messages import Port
    from engine.server.tls import Certificates
    from engine.telemetry.metrics import Series

_SPARE_FILES = 512
"""Descriptors for the journal, the playbooks, files that are read again."""
_AT_ONCE = 64
"""Connections that are taken before those that are open have their turn."""
_READ = 65_536
"""Bytes of one who is turned away: a close that leaves some unread would be a reset, and no reply."""
LIMITS = Limits()
ADMIN_LIMITS = Limits(connections=256, per_peer=128, reserved=32, buffered=8 << 20)
"""The admin port has few callers and small bodies; what is reserved is for probes."""
_MANY = said(503, {"error": "too many connections"}, (b"retry-after", b"5"))


class Listener:
    """Answers the requests of one socket with a port. Everything of it happens in the loop's thread."""

    def __init__(
        self,
        port: Port,
        listening: socket.socket,
        certificates: Certificates | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self.house = ConnectionLimits(port, limits)
        self._socket, self._certificates, self._limits = listening, certificates, limits
        self._context: ssl.SSLContext | None = None
        self._arriving: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to take connections."""
        self._socket.setblocking(False)
        self._renew()
        self._sweeping = asyncio.create_task(self._sweep())

    def series(self) -> Iterator[Series]:
        """What a scrape asks of the connections."""
        house = self.house
        yield "connections", {}, len(house.open)
        yield "connections_refused_total", {"reason": "many"}, house.turned_away
        yield "connections_refused_total", {"reason": "evicted"}, house.evicted
        yield "connections_refused_total", {"reason": "late"}, house.late

    async def stop(self, grace: float) -> None:
        """Take no more, and give those that have asked so many seconds for their reply."""
        self.house.closing = True
        if self._sweeping:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        await asyncio.sleep(0)  # a task that has not begun would be cancelled without a trace
        for task in self._arriving:
            task.cancel()
        await asyncio.gather(*self._arriving, return_exceptions=True)
        for connection in [*self.house.open]:
            connection.leave()
        if self.house.open:
            self.house.left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.house.left.wait(), grace)
        for connection in [*self.house.open]:
            connection.abort()

    def _renew(self) -> None:
        """Take connections, with the certificates of now; those that are open keep theirs."""
        self._context = self._certificates.context() if self._certificates else None
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        """Take those who wait. By hand, for the loop's own server counts nobody before his handshake."""
        for _ in range(_AT_ONCE):
            try:
                sender, address = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except (
                OSError
            ):  # no descriptor, no memory: the next sweep tries again, and the loop does not spin
                asyncio.get_running_loop().remove_reader(self._socket)
                return
            if not self.house.room(str(address[0])):
                self.house.turned_away += 1
                _turn_away(sender, in_clear=self._context is None)
                continue
            task = asyncio.create_task(
                self._arrive(sender, Connection(self.house, str(address[0])))
            )
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _arrive(self, sender: socket.socket, connection: Connection) -> None:
        """Make the handshake, if there is TLS."""
        if connection not in self.house.open:  # it made room for another one
            sender.close()
            return
        connection.arriving = asyncio.current_task()
        tls = self._context is not None
        with contextlib.suppress(
            OSError
        ):  # ssl.SSLError is one: a bad handshake is its sender's business
            try:
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: connection,
                    sender,
                    ssl=self._context,
                    ssl_handshake_timeout=self._limits.head if tls else None,
                    ssl_shutdown_timeout=self._limits.rest if tls else None,
                )
            except BaseException:
                if connection in self.house.open:
                    connection.connection_lost(None)
                raise

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep)
            now = time.monotonic()
            for connection in [*self.house.open]:
                connection.sweep(now)
            self._renew()


def _turn_away(sender: socket.socket, *, in_clear: bool) -> None:
    """Close it at once; in the clear with a word, if that can be said without waiting."""
    with sender, contextlib.suppress(OSError):
        if in_clear:
            sender.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sender.recv(_READ)
            sender.send(_MANY.encoded(b"close", head_only=False))


def allow_files(*limits: Limits) -> tuple[Limits, ...]:
    """Raise the soft limit of open files to what these listeners need, as far as the hard one lets.

    Returns the limits, with fewer connections in proportion where the engine itself would have too few files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = sum(one.connections for one in limits)
    wanted = needed + _SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = soft if soft != resource.RLIM_INFINITY else wanted
    room = min(needed, files - min(_SPARE_FILES, files // 2))
    return tuple(replace(one, connections=one.connections * room // needed) for one in limits)
