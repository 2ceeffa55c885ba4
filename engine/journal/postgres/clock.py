"""The clock of the journal: that of the database, continued when a fail-over moves it.

Leases, retries and undos are due at times of this clock. The clock of a promoted server can differ by any
amount. Without a correction, a faster one would end all leases while their attempts are in progress, and a
slower one would delay every retry. But the processes that were live before know which time it is. The first one
that finds another time writes a correction into the database, and all processes use it. The correction shrinks
slowly, so that the times that operators see become those of the server.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from engine.journal import codec
from engine.model import json_codec

if TYPE_CHECKING:
    from engine.journal.postgres.connection import Connection

CLOCK_KEY = "journal clock"
"""Key of the correction in the table ``offsets``."""
MAX_STEP = 1.0
"""Seconds by which the time of the database may differ from the expected one without a correction."""
SHRINKS_BY = 1 / 1_000
"""Seconds by which a correction shrinks in a second. Leases, with their margin of 10 s, must not end early."""

_HAS_BOOTTIME = hasattr(time, "CLOCK_BOOTTIME")


def steady() -> float:
    """Return seconds that also pass while the machine is suspended, if the system can tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if _HAS_BOOTTIME else time.monotonic()


class Correction(NamedTuple):
    """seconds: to add to the time of the database. since: the time of the database when it was made."""

    seconds: float
    since: float

    def of(self, database_time: float) -> float:
        """Return the time of the journal at a time of the database."""
        shrunk = SHRINKS_BY * max(0.0, database_time - self.since)
        return database_time + math.copysign(max(0.0, abs(self.seconds) - shrunk), self.seconds)


class JournalClock:
    """The time of the journal in epoch seconds, between two measurements. Thread-safe.

    It is the time of this machine until the first measurement.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset = time.time() - steady()
        self._last = 0.0
        self._stored: bytes | None = None
        self._measured = False

    def now(self) -> float:
        """Return the time. It never goes back, except when another process corrects it."""
        with self._lock:
            self._last = max(self._last, steady() + self._offset)
            return self._last

    def measure(self, connection: Connection, *, was_live: bool) -> None:
        """Measure the time of the database. Correct it if it has moved. Raises psycopg.Error.

        was_live: this process was live until now, so that it knows which time it is.
        """
        began = steady()
        row = connection.execute(
            "SELECT extract(epoch FROM clock_timestamp())::float8 AS now,"
            " (SELECT value FROM offsets WHERE key = %s) AS correction",
            (CLOCK_KEY,),
            binary=True,
        ).fetchone()
        ended = steady()
        if row is None:
            return
        stored: bytes | None = row["correction"]
        middle, half = (began + ended) / 2, (ended - began) / 2
        time_ = _correction(stored).of(row["now"])
        with self._lock:
            moved = abs(time_ - middle - self._offset) > MAX_STEP + half
            known = self._measured and stored == self._stored
            expected = middle + self._offset
        if known and moved and was_live:
            self._correct(connection, Correction(expected - row["now"], row["now"]))
        else:
            self._follow(time_ - middle, stored, may_go_back=moved or not known)

    def _follow(self, offset: float, stored: bytes | None, *, may_go_back: bool) -> None:
        with self._lock:
            if may_go_back:
                self._last = 0.0
            self._offset, self._stored, self._measured = offset, stored, True

    def _correct(self, connection: Connection, correction: Correction) -> None:
        """Write a correction. If another process was faster, the next measurement finds its correction."""
        new = json_codec.encode_json(correction)
        written = connection.execute(
            "INSERT INTO offsets AS found VALUES (%s, %s) ON CONFLICT (key)"
            " DO UPDATE SET value = excluded.value WHERE found.value = %s",
            (CLOCK_KEY, new, self._stored),
        )
        if written.rowcount:
            with self._lock:
                self._stored = new


def _correction(stored: bytes | None) -> Correction:
    """Return a stored correction; none if there is none, or if it cannot be read."""
    try:
        seconds, since = codec.decode(stored) if stored else (0.0, 0.0)
        return Correction(float(seconds), float(since))
    except (TypeError, ValueError):
        return Correction(0.0, 0.0)
