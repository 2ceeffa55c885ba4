"""The connections that read the journal."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from engine.model.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class ReadPool:
    """Read-only connections, one for each thread that reads at the same time. They see committed data.

    connect: opens a read-only connection.

    One connection is always open. As long as it is, SQLite keeps the write-ahead log and its index. On a full
    disk, the writer could not create them again.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        first = connect()
        first.execute("SELECT 1 FROM runs").fetchone()
        self._idle = [first]
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Borrow a connection. Raises JournalError if the pool is closed or the file cannot be read."""
        with self._lock:
            if self._closed:
                raise JournalError("the journal is closed")
            connection = self._idle.pop() if self._idle else None
        try:
            connection = connection or self._connect()
            yield connection
        except sqlite3.Error as error:
            raise JournalError(f"the journal cannot be read: {error}") from error
        finally:
            if connection is not None:
                self._return(connection)

    def row(self, query: str, *parameters: Any) -> sqlite3.Row | None:
        """Return the first row of a query, or None."""
        with self.connection() as connection:
            found: sqlite3.Row | None = connection.execute(query, parameters).fetchone()
        return found

    def close(self) -> None:
        """Close the idle connections now, and each other one when it is returned."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _return(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()
