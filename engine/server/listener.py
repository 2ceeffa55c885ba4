"""A listening socket: accepts connections, checks their timeouts, and closes them without losing a reply."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.server.connection import Connection
from engine.server.connection_limits import Limits, OpenConnections
from engine.server.messages import json_reply

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterator

    from engine.server.messages import Port
    from engine.server.tls import Certificates
    from engine.telemetry.metrics import Series

_SPARE_FILES = 512
"""File descriptors for the journal, the playbooks and other files."""
_ACCEPTED_AT_ONCE = 64
"""Connections that are accepted before the open ones have their turn."""
_READ_BEFORE_CLOSE = 65_536
"""Bytes to read from a refused client. Closing with unread input would send a reset instead of the reply."""
EVENT_LIMITS = Limits()
"""Limits of the event port."""
ADMIN_LIMITS = Limits(connections=256, per_peer=128, reserved=32, buffered_bytes=8 << 20)
"""Limits of the admin port: it has few clients and small bodies. Probes use the reserved connections."""
_TOO_MANY = json_reply(503, {"error": "too many connections"}, (b"retry-after", b"5"))


class Listener:
    """Serves one socket with a port. Runs in the thread of the event loop.

    certificates: for TLS; they are read again when they change.
    """

    def __init__(
        self,
        port: Port,
        listening: socket.socket,
        certificates: Certificates | None = None,
        limits: Limits = EVENT_LIMITS,
    ) -> None:
        self.shared = OpenConnections(port, limits)
        self._socket, self._certificates, self._limits = listening, certificates, limits
        self._tls: ssl.SSLContext | None = None
        self._handshakes: set[asyncio.Task[None]] = set()
        self._timeouts: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to accept connections."""
        self._socket.setblocking(False)
        self._resume_accepting()
        self._timeouts = asyncio.create_task(self._check_timeouts())

    def series(self) -> Iterator[Series]:
        """Yield the metrics of the connections."""
        shared = self.shared
        yield "connections", {}, len(shared.members)
        yield "connections_refused_total", {"reason": "many"}, shared.refused
        yield "connections_refused_total", {"reason": "evicted"}, shared.evicted
        yield "connections_refused_total", {"reason": "late"}, shared.timed_out

    async def stop(self, grace: float) -> None:
        """Stop accepting. Wait up to ``grace`` seconds for due replies, then close all connections."""
        shared = self.shared
        shared.closing = True
        if self._timeouts:
            self._timeouts.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._timeouts
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        await asyncio.sleep(0)  # a task that has not started could not close its socket
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        for connection in [*shared.members]:
            connection.close_if_idle()
        if shared.members:
            shared.all_closed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(shared.all_closed.wait(), grace)
        for connection in [*shared.members]:
            connection.abort()

    def _resume_accepting(self) -> None:
        """Accept connections with the current certificates. Open connections keep theirs."""
        self._tls = self._certificates.context() if self._certificates else None
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        """Accept waiting connections.

        Not with the server of the event loop, which does not count connections before their TLS handshake.
        """
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, address = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                # no free descriptor or memory: do not spin, try again after the next sweep
                asyncio.get_running_loop().remove_reader(self._socket)
                return
            if not self.shared.make_room(str(address[0])):
                self.shared.refused += 1
                _refuse(client, plain_text=self._tls is None)
                continue
            connection = Connection(self.shared, str(address[0]))
            task = asyncio.create_task(self._connect(client, connection))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _connect(self, client: socket.socket, connection: Connection) -> None:
        """Attach the socket to the connection, after a TLS handshake if TLS is used."""
        if connection not in self.shared.members:  # evicted before the task started
            client.close()
            return
        connection.handshake = asyncio.current_task()
        uses_tls = self._tls is not None
        # includes ssl.SSLError: a failed handshake is not logged
        with contextlib.suppress(OSError):
            try:
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: connection,
                    client,
                    ssl=self._tls,
                    ssl_handshake_timeout=self._limits.head if uses_tls else None,
                    ssl_shutdown_timeout=self._limits.linger if uses_tls else None,
                )
            except BaseException:  # also a cancelled task: the connection must not stay counted
                if connection in self.shared.members:
                    connection.connection_lost(None)
                raise

    async def _check_timeouts(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep)
            now = time.monotonic()
            for connection in [*self.shared.members]:
                connection.check_timeout(now)
            self._resume_accepting()


def _refuse(client: socket.socket, *, plain_text: bool) -> None:
    """Close a connection at once. Without TLS, send 503 first if this does not block."""
    with client, contextlib.suppress(OSError):
        if plain_text:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.recv(_READ_BEFORE_CLOSE)
            client.send(_TOO_MANY.encode(b"close", head_only=False))


def allow_files(*limits: Limits) -> tuple[Limits, ...]:
    """Raise the soft limit of open files to the number that these listeners need.

    The hard limit stays. If it allows too few files, return limits with proportionally fewer connections.
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
    available = min(needed, files - min(_SPARE_FILES, files // 2))
    return tuple(replace(one, connections=one.connections * available // needed) for one in limits)
