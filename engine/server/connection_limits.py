"""Limits of a listener, and the open connections that are counted against them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from engine.server.messages import Port


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a listener.

    Timeouts in seconds:
    head: for a head. body: for a body after its head. idle: between two requests; long, because Falco's curl
    and Falcosidekick's client reuse their connections. write: for a client that does not read its reply.
    linger: for the rest of a rejected request.
    sweep: interval between two checks of the timeouts.

    Sizes:
    connections: open connections, including TLS handshakes in progress. per_peer: of one address.
    reserved: connections that only urgent requests may use (see Port.is_urgent).
    head_bytes: of a head; Node.js allows 16 KiB. headers: headers of a head (as in Apache), and trailers.
    buffered_bytes: all unanswered bodies, and the input that is read ahead of them.
    """

    head: float = 10.0
    body: float = 30.0
    idle: float = 75.0
    write: float = 30.0
    linger: float = 2.0
    connections: int = 2048
    per_peer: int = 512
    reserved: int = 0
    head_bytes: int = 32_768
    headers: int = 100
    buffered_bytes: int = 64 << 20
    sweep: float = 1.0


class Member(Protocol):
    """A connection, as far as the limits need it.

    peer: the address of the client. served: whether a request of it was answered.
    """

    peer: str
    served: bool

    def abort(self) -> None:
        """Close the connection now."""
        ...

    def close_if_idle(self) -> None:
        """Close the connection if no request is in progress."""
        ...

    def check_timeout(self, now: float) -> None:
        """Close the connection if its deadline is over. now: by the monotonic clock."""
        ...


class _Evictable:
    """Connections without a request in progress, in the order in which they became evictable."""

    __slots__ = ("served", "unserved")

    def __init__(self) -> None:
        self.unserved: dict[Member, None] = {}
        self.served: dict[Member, None] = {}

    def first(self) -> Member | None:
        """Return the connection to close first: one that was never answered, if there is one."""
        return next(iter(self.unserved or self.served), None)

    def __len__(self) -> int:
        return len(self.unserved) + len(self.served)


class _Peer:
    """The connections of one address. open: their number."""

    __slots__ = ("evictable", "open")

    def __init__(self) -> None:
        self.open = 0
        self.evictable = _Evictable()


class OpenConnections:
    """The open connections of one listener, counted against its limits.

    members: connections from their acceptance on, so that the limits count sockets.
    buffered_bytes: see Limits.
    closing: close each connection after its reply. all_closed: set when no connection is left.
    refused: connections over the limit. evicted: connections closed in favor of new ones.
    timed_out: requests that were not received in time.
    """

    def __init__(self, port: Port, limits: Limits) -> None:
        self.port, self.limits = port, limits
        self.members: dict[Member, _Peer] = {}
        self.buffered_bytes = 0
        self.closing = False
        self.all_closed = asyncio.Event()
        self.refused = self.evicted = self.timed_out = 0
        self._evictable = _Evictable()
        self._peers: dict[str, _Peer] = {}

    @property
    def evictable(self) -> int:
        """The number of connections that may be closed in favor of new ones."""
        return len(self._evictable)

    def make_room(self, peer: str) -> bool:
        """Return whether a peer may open one more connection. Closes an evictable one if necessary."""
        known = self._peers.get(peer)
        if known is not None and known.open >= self.limits.per_peer:
            first = known.evictable.first()
        elif len(self.members) >= self.limits.connections:
            first = self._evictable.first()
        else:
            return True
        if first is None:
            return False
        self.evicted += 1
        first.abort()
        return True

    def only_reserved_left(self, peer: str) -> bool:
        """Return whether requests in progress use all connections that are not reserved."""
        limits = self.limits
        if not limits.reserved:
            return False
        known = self._peers[peer]
        return (
            len(self.members) - len(self._evictable) > limits.connections - limits.reserved
            or known.open - len(known.evictable) > limits.per_peer - limits.reserved
        )

    def add(self, member: Member) -> None:
        """Add a new connection."""
        peer = self.members[member] = self._peers.setdefault(member.peer, _Peer())
        peer.open += 1
        self.allow_eviction(member)

    def remove(self, member: Member) -> None:
        """Remove a connection, if it is still a member."""
        peer = self.members.get(member)
        if peer is None:
            return
        self.forbid_eviction(member)
        del self.members[member]
        peer.open -= 1
        if not peer.open:
            del self._peers[member.peer]
        if not self.members:
            self.all_closed.set()

    def allow_eviction(self, member: Member) -> None:
        """Mark a connection as one without a complete head."""
        peer = self.members.get(member)
        if peer is None:
            return
        if member.served:
            self._evictable.served[member] = peer.evictable.served[member] = None
        else:
            self._evictable.unserved[member] = peer.evictable.unserved[member] = None

    def forbid_eviction(self, member: Member) -> None:
        """Mark a connection as one with a complete head.

        ``served`` must have the value of the last call of ``allow_eviction``.
        """
        peer = self.members.get(member)
        if peer is None:
            return
        if member.served:
            self._evictable.served.pop(member, None)
            peer.evictable.served.pop(member, None)
        else:
            self._evictable.unserved.pop(member, None)
            peer.evictable.unserved.pop(member, None)
