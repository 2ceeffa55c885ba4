"""What the connections of one listener share, and what bounds them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.sources.connection import Connection
    from engine.sources.request import Port


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a listener.

    head, body, idle, write, rest: seconds for a head, a body after it, between two requests, for a reply
    that is not read, for the rest of a refused request. connections: at once, also those whose handshake
    is under way. head_bytes: of a head.
    buffered: bytes of all unfinished bodies together. pipelined: requests that may wait on one connection.
    sweep: seconds between two looks at who is late. idle is long, for Falco's curl and Falcosidekick's
    client use theirs again.
    """

    head: float = 10.0
    body: float = 30.0
    idle: float = 75.0
    write: float = 30.0
    rest: float = 2.0
    connections: int = 2048
    head_bytes: int = 65_536
    buffered: int = 64 << 20
    pipelined: int = 64
    sweep: float = 1.0


class House:
    """What the connections of one listener share. closing: none stays after its reply; left: the last went.

    open: each from its acceptance on, so that what is bounded is sockets. turned_away: connections that were
    too many. late: requests that did not come in time.
    """

    def __init__(self, port: Port, limits: Limits) -> None:
        self.port, self.limits = port, limits
        self.open: set[Connection] = set()
        self.buffered = 0
        self.closing = False
        self.left = asyncio.Event()
        self.turned_away = 0
        self.late = 0
