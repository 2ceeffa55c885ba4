"""The liveness row of a process, and the search for processes that are dead.

Each process renews its row twice per second. A process whose row was not renewed for three seconds is dead:
another process deletes its row, and the claims of the dead process are free. A process that was stopped or cut
off, and comes back, finds no row. It takes a new identity, and must not finish older claims.

The machine that watches the row measures the three seconds, because the clock of a promoted database can differ
by any amount. Only time in which the database answers counts: no process can renew its row during an outage.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from engine.journal.postgres import schema
from engine.journal.postgres.clock import JournalClock, steady
from engine.journal.postgres.connection import (
    CommitsWaitError,
    check_no_commit_waits,
    disconnect,
    sentence,
)
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.journal.postgres.connection import Connection

RENEW_INTERVAL = 0.5
"""Seconds between two renewals."""
SEARCH_INTERVAL = 0.25
"""Seconds between two searches for dead processes, if none is about to count as dead."""
_MIN_WAIT = 0.01
"""Seconds between two searches at least."""
DEAD_AFTER = 3.0
"""Seconds without a renewal after which a process counts as dead."""
SAFE_FOR = 2.5
"""Seconds after the start of a renewal in which the process may call the cluster. The rest of the time until
DEAD_AFTER is for a call that has begun."""
RECENT = (
    f"seen BETWEEN clock_timestamp() - interval '{DEAD_AFTER} s'"
    f" AND clock_timestamp() + interval '{DEAD_AFTER} s'"
)
"""The rows that a live process has probably renewed, for a command that does not watch them. A time in the
future is of another server, which this one has replaced."""
MAX_COUNTED = 1.0
"""Seconds that count at most between two searches. The database may have been away for the rest."""


@dataclass(frozen=True, slots=True)
class Process:
    """This process. name: of the replica. kind: ``engine`` or ``worker``. version: of the engine."""

    name: str
    kind: str
    version: str


def _new_id() -> int:
    """Return a random identity. A counter of the database can go back, for example if a backup is restored."""
    return secrets.randbits(63)


class Watch:
    """Since when each row was seen without a renewal. Used by one thread, on one connection."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[float, float]] = {}
        self._searched = float("inf")
        self._skipped = 0.0

    def silent(self, rows: dict[int, float], began: float) -> list[int]:
        """Return the ids that were not renewed for ``DEAD_AFTER`` seconds.

        rows: id -> time of the last renewal, in any clock. began: monotonic time before they were read.
        """
        self._skipped += max(0.0, began - self._searched - MAX_COUNTED)
        self._searched = time.monotonic()
        found = {}
        for id_, seen in rows.items():
            before, since = self._rows.get(id_, (None, 0.0))
            found[id_] = seen, since if before == seen else self._searched - self._skipped
        self._rows = found
        latest = began - self._skipped - DEAD_AFTER
        return [id_ for id_, (_, since) in found.items() if since <= latest]

    def gone(self, rows: dict[int, float]) -> bool:
        """Return whether another process has left, or was found dead, since the last search."""
        return bool(self._rows.keys() - rows)

    def wait(self) -> float:
        """Return the seconds until the next search: earlier if a process counts as dead then."""
        now = time.monotonic() - self._skipped
        next_ = min((since + DEAD_AFTER - now for _, since in self._rows.values()), default=1.0)
        return min(SEARCH_INTERVAL, max(next_, _MIN_WAIT))


class Liveness:
    """The row of this process, renewed by a thread.

    connect: opens a connection. may_wait: the server may not answer yet; the time is that of this machine until
    it does.

    Attributes:
        id: of the row. A process that counted as dead gets another one.
        replicas: the number of live replicas, this one included.
        clock: of the journal.
        on_free: called when claims of another process have become free, or this process is live again.

    """

    def __init__(
        self, connect: Callable[[], Connection], process: Process, *, may_wait: bool = False
    ) -> None:
        self._connect, self._process = connect, process
        self._own = (process.name, process.kind, process.version, schema.VERSION)
        self._connection: Connection | None = None
        self._stopping = threading.Event()
        self._watch = Watch()
        self._renewed, self._took = float("-inf"), 0.0
        self._error: str | None = None
        self._begun: float | None = None
        self._stalled: int | None = None
        self._digest = ""
        self.id, self.replicas = 0, 1
        self.clock = JournalClock()
        self.on_free: Callable[[], None] = lambda: None
        if not may_wait:
            self.renew()
            self.search()
        self._thread = threading.Thread(target=self._run, name="journal liveness", daemon=True)
        self._thread.start()

    def is_live(self, id_: int) -> bool:
        """Return whether this process may claim, and call the cluster for a claim that it made under this id."""
        return id_ == self.id and steady() - self._renewed < SAFE_FOR

    def why_late(self) -> str:
        """Return why the row was not renewed in time, as the end of a sentence, or ""."""
        if self._error is not None:
            return f": {self._error}"
        return f": the last renewal took {self._took:.1f} s" if self._took > SAFE_FOR else ""

    def set_digest(self, digest: str) -> None:
        """Set the digest of the playbooks in force, which the next renewal writes."""
        self._digest = digest

    def renew(self) -> None:
        """Renew the row, or take a new identity. Raises psycopg.Error."""
        with self._connected() as connection:
            began = steady()
            row = connection.execute(
                "UPDATE replicas SET seen = clock_timestamp(), digest = %s WHERE id = %s RETURNING id",
                (self._digest, self.id),
            ).fetchone()
            was_live = row is not None
            if row is None:
                began = steady()
                row = connection.execute(
                    "INSERT INTO replicas (id, name, process, version, tables, digest)"
                    " VALUES (%s, %s, %s, %s, %s, %s) RETURNING id",
                    (_new_id(), *self._own, self._digest),
                ).fetchone()
            if row is None:
                raise JournalError("the journal cannot be written: no liveness row")
            self.clock.measure(connection, was_live=was_live)
        was_late = not self.is_live(self.id)
        # in this order: a claim of the old identity must never pass with the new time
        self.id = row["id"]
        self._took = steady() - began
        self._renewed = began
        if was_late:
            self.on_free()

    def search(self) -> None:
        """Delete the rows of dead processes, and count the live replicas. Raises psycopg.Error."""
        with self._connected() as connection:
            began = time.monotonic()
            found = connection.execute(
                "SELECT id, name, process, extract(epoch FROM seen)::float8 AS seen FROM replicas"
                " WHERE id <> %s",
                (self.id,),
                binary=True,
            ).fetchall()
            rows = {row["id"]: row["seen"] for row in found}
            free = self._watch.gone(rows)
            dead = self._watch.silent(rows, began)
            if dead:  # except one that has renewed its row meanwhile
                connection.execute(
                    "DELETE FROM replicas USING unnest(%b::bigint[], %b::float8[]) AS given (id, seen)"
                    " WHERE replicas.id = given.id AND extract(epoch FROM replicas.seen)::float8 = given.seen",
                    (dead, [rows[id_] for id_ in dead]),
                )
        kind, name = self._process.kind, self._process.name
        live = {row["name"] for row in found if row["process"] == kind and row["id"] not in dead}
        self.replicas = len(live | {name})
        if free or dead:
            self.on_free()

    def end_stalled(self) -> None:
        """Abort a renewal that gets no answer, so that the thread connects again."""
        begun, connection = self._begun, self._connection
        if begun is not None and connection and time.monotonic() - begun > DEAD_AFTER:
            self._stalled = disconnect(connection) or self._stalled

    def close(self) -> None:
        """Stop the thread and delete the row: the claims of this process are free at once."""
        self._stopping.set()
        self._thread.join()
        if self._connection is not None:
            self._begun = time.monotonic()
            with contextlib.suppress(psycopg.Error, OSError):
                self._connection.execute("DELETE FROM replicas WHERE id = %s", (self.id,))
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Use the connection, or open one. On a new connection, the watch begins again."""
        if self._connection is None:
            self._connection, self._watch = self._connect(), Watch()
        self._begun = time.monotonic()
        try:
            if self._stalled is not None:
                check_no_commit_waits(self._connection, self._stalled)
                self._stalled = None
            yield self._connection
        finally:
            self._begun = None

    def _run(self) -> None:
        due, wait = time.monotonic() + RENEW_INTERVAL, SEARCH_INTERVAL
        while not self._stopping.wait(wait):
            now, wait = time.monotonic(), SEARCH_INTERVAL
            try:
                if now >= due - SEARCH_INTERVAL / 2:
                    self.renew()
                    due = now + RENEW_INTERVAL
                self.search()
                wait, self._error = self._watch.wait(), None
            except CommitsWaitError as error:
                self._error = sentence(error)
            except Exception as error:  # noqa: BLE001 - without this thread, the process would do nothing
                self._error = sentence(error)
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
