"""What the connections of one listener share, and what bounds them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.server.connection import Connection
    from engine.server.messages import Port


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a listener.

    head, body, idle, write, rest: seconds for a head, a body after it, between two requests, for a reply
    that is not read, for the rest of a refused request. idle is long, because Falco's curl and
    Falcosidekick's client reuse their connections.
    connections: open at once, also those whose handshake is under way. per_peer: of one address. reserved:
    those of ``connections`` that only urgent requests may use (see Port.urgent).
    head_bytes: of a head; Node.js allows 16 KiB. fields: headers of a head (as in Apache), and trailers.
    buffered: bytes of all bodies that are not answered yet, and of what is read ahead of them.
    sweep: seconds between two looks at who is late.
    """

    head: float = 10.0
    body: float = 30.0
    idle: float = 75.0
    write: float = 30.0
    rest: float = 2.0
    connections: int = 2048
    per_peer: int = 512
    reserved: int = 0
    head_bytes: int = 32_768
    fields: int = 100
    buffered: int = 64 << 20
    sweep: float = 1.0


class _Line:
    """Connections that may be closed to make room, in the order in which they began to wait.

    Those that have never had a request answered go before idle ones.
    """

    def __init__(self) -> None:
        self._new: dict[Connection, None] = {}
        self._idle: dict[Connection, None] = {}

    def add(self, connection: Connection) -> None:
        """Append one that waits from now on."""
        (self._idle if connection.served else self._new)[connection] = None

    def discard(self, connection: Connection) -> None:
        """Remove one, if it is there."""
        self._new.pop(connection, None)
        self._idle.pop(connection, None)

    def first(self) -> Connection | None:
        """The one to close first."""
        return next(iter(self._new or self._idle), None)

    def __len__(self) -> int:
        return len(self._new) + len(self._idle)


class _Peer:
    """The connections of one address. open: how many. line: those that may be closed."""

    def __init__(self) -> None:
        self.open = 0
        self.line = _Line()


class ConnectionLimits:
    """What the connections of one listener share. closing: none stays after its reply; left: the last went.

    open: each from its acceptance on, so that what is bounded is sockets. turned_away: connections that were
    too many. evicted: connections that made room for others. late: requests that did not come in time.
    """

    def __init__(self, port: Port, limits: Limits) -> None:
        self.port, self.limits = port, limits
        self.open: set[Connection] = set()
        self.buffered = 0
        self.closing = False
        self.left = asyncio.Event()
        self.turned_away = 0
        self.evicted = 0
        self.late = 0
        self._line = _Line()
        self._peers: dict[str, _Peer] = {}

    def room(self, peer: str) -> bool:
        """Whether a peer may open one more connection; another one is closed for it if need be."""
        known = self._peers.get(peer)
        if known is not None and known.open >= self.limits.per_peer:
            line = known.line
        elif len(self.open) >= self.limits.connections:
            line = self._line
        else:
            return True
        first = line.first()
        if first is None:
            return False
        self.evicted += 1
        first.abort()
        return True

    def scarce(self, peer: str) -> bool:
        """Whether connections with a complete head have taken all that is not reserved."""
        limits = self.limits
        if not limits.reserved:
            return False
        known = self._peers[peer]
        return (
            len(self.open) - len(self._line) > limits.connections - limits.reserved
            or known.open - len(known.line) > limits.per_peer - limits.reserved
        )

    def enter(self, connection: Connection) -> None:
        """Count a new connection."""
        self.open.add(connection)
        self._peers.setdefault(connection.peer, _Peer()).open += 1
        self.wait(connection)

    def leave(self, connection: Connection) -> None:
        """Count a connection no more; one that has left already is ignored."""
        if connection not in self.open:
            return
        self.serve(connection)
        self.open.remove(connection)
        known = self._peers[connection.peer]
        known.open -= 1
        if not known.open:
            del self._peers[connection.peer]
        if not self.open:
            self.left.set()

    def wait(self, connection: Connection) -> None:
        """A connection that was served has no complete head now, so it may be closed to make room."""
        if connection in self.open:
            self._line.add(connection)
            self._peers[connection.peer].line.add(connection)

    def serve(self, connection: Connection) -> None:
        """The connection has a complete head now, so it stays."""
        if connection in self.open:
            self._line.discard(connection)
            self._peers[connection.peer].line.discard(connection)
