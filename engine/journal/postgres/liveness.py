"""The liveness row of a process, and the clock of the database.

Each process renews its row twice per second. A row that was not renewed for three seconds belongs to a dead
process: another process deletes it, and the claims of the dead process are free. A process that was stopped or
cut off, and comes back, finds no row. It takes a new identity, and must not finish older claims.

All times of the journal are of the database's clock. Each renewal measures it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from engine.journal.postgres import schema
from engine.journal.postgres.connection import (
    CommitsWaitError,
    check_no_commit_waits,
    disconnect,
)
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.journal.postgres.connection import Connection

RENEW_INTERVAL = 0.5
"""Seconds between two renewals, and between two searches for dead processes."""
DEAD_AFTER = 3.0
"""Seconds without a renewal after which a process counts as dead."""
SAFE_FOR = 2.5
"""Seconds after the start of a renewal in which the process may call the cluster. The rest of the time until
DEAD_AFTER is for a call that has begun."""


@dataclass(frozen=True, slots=True)
class Process:
    """This process. name: of the replica. kind: ``engine`` or ``worker``. version: of the engine."""

    name: str
    kind: str
    version: str


class Liveness:
    """The row of this process, renewed by a thread.

    connect: opens a connection. may_wait: the server may not answer yet; the time is that of this machine until
    it does. tasks: called after each renewal with the connection.

    Attributes:
        id: of the row. A process that counted as dead gets another one.
        replicas: the number of live replicas, this one included.

    """

    def __init__(
        self, connect: Callable[[], Connection], process: Process, *, may_wait: bool = False
    ) -> None:
        self._connect, self._process = connect, process
        self._own = (process.name, process.kind, process.version, schema.VERSION)
        self._connection: Connection | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._offset = self._last = 0.0
        self._renewed = float("-inf")
        self._begun: float | None = None
        self._stalled: int | None = None
        self._digest = ""
        self.id, self.replicas = 0, 1
        self.tasks: tuple[Callable[[Connection], None], ...] = ()
        if may_wait:
            self._offset = time.time() - time.monotonic()
        else:
            self.renew()
        self._thread = threading.Thread(target=self._run, name="journal liveness", daemon=True)
        self._thread.start()

    def now(self) -> float:
        """Return the time of the database's clock, in epoch seconds. It never goes back."""
        with self._lock:
            self._last = max(self._last, time.monotonic() + self._offset)
            return self._last

    def is_live(self, id_: int) -> bool:
        """Return whether this process may call the cluster for a claim that it made under this id."""
        return id_ == self.id and time.monotonic() - self._renewed < SAFE_FOR

    def set_digest(self, digest: str) -> None:
        """Set the digest of the playbooks in force, which the next renewal writes."""
        self._digest = digest

    def renew(self) -> None:
        """Renew the row, or take a new identity. Delete the rows of dead processes. Raises psycopg.Error."""
        if self._connection is None:
            self._connection = self._connect()
        connection, began = self._connection, time.monotonic()
        self._begun = began
        try:
            if self._stalled is not None:
                check_no_commit_waits(connection, self._stalled)
                self._stalled = None
            row = connection.execute(
                "UPDATE replicas SET seen = clock_timestamp(), digest = %s WHERE id = %s AND seen >"
                " clock_timestamp() - make_interval(secs => %s)"
                " RETURNING id, extract(epoch FROM clock_timestamp())::float8 AS now",
                (self._digest, self.id, DEAD_AFTER),
            ).fetchone()
            if row is None:
                began = time.monotonic()
                row = connection.execute(
                    "INSERT INTO replicas (name, process, version, tables, digest) VALUES (%s, %s, %s, %s, %s)"
                    " RETURNING id, extract(epoch FROM clock_timestamp())::float8 AS now",
                    (*self._own, self._digest),
                ).fetchone()
            ended = time.monotonic()
            found = connection.execute(
                "WITH dead AS (DELETE FROM replicas WHERE seen < clock_timestamp()"
                " - make_interval(secs => %s) RETURNING id)"
                " SELECT count(DISTINCT name) AS live FROM replicas"
                " WHERE id NOT IN (SELECT id FROM dead) AND process = %s",
                (DEAD_AFTER, self._process.kind),
            ).fetchone()
        finally:
            self._begun = None
        if row is None or found is None:
            raise JournalError("the journal cannot be written: no liveness row")
        with self._lock:
            if self._renewed == float("-inf"):  # the time of this machine is not used any more
                self._last = 0.0
            self._offset = row["now"] - (began + ended) / 2
        # in this order: a claim of the old identity must never pass with the new time
        self.id = row["id"]
        self._renewed = began
        self.replicas = max(1, found["live"])

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

    def _run(self) -> None:
        while not self._stopping.wait(RENEW_INTERVAL):
            try:
                self.renew()
                for task in self.tasks:
                    if self._connection:
                        task(self._connection)
            except CommitsWaitError:
                continue
            except Exception:  # noqa: BLE001 - without this thread, the process would do nothing, and say nothing
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
