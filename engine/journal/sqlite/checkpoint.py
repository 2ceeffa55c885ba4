"""A thread that checkpoints the write-ahead log while the writers continue.

By default, SQLite checkpoints at the end of the commit that finds 1,000 pages in the log. Every writer then
waits for about 10 ms. This thread moves most of the pages while others write. Then it moves the new pages under
the write lock, so that SQLite can restart the log.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

INTERVAL = 0.2
"""Seconds between two checks."""
RESTART_PAGES = 2_000
"""Pages in the log (8 MB) from which the thread makes SQLite restart the log."""


class Checkpointer:
    """The thread. connect: opens a connection that may write. write_lock: keeps other writers out."""

    def __init__(
        self, connect: Callable[[], sqlite3.Connection], write_lock: AbstractContextManager[None]
    ) -> None:
        self._connect, self._write_lock = connect, write_lock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal checkpoints", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread. SQLite moves the remaining pages when the last connection closes."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            # on a full disk the log stays as it is; the writers report the error
            with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connect()) as opened:
                self._watch(opened)

    def _watch(self, connection: sqlite3.Connection) -> None:
        """Checkpoint after each change of the database. Raises sqlite3.Error."""
        seen = None
        while not self._stopping.wait(INTERVAL):
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version != seen:
                seen = version
                if _checkpoint(connection) >= RESTART_PAGES:
                    with self._write_lock:
                        _checkpoint(connection)


def _checkpoint(connection: sqlite3.Connection) -> int:
    """Move the pages that no reader needs any longer. Return the number of pages in the log."""
    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(pages)
