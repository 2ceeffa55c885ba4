"""The write-ahead log's way into the file, beside those who write and not before them.

SQLite does it at the end of whichever commit finds 1,000 pages: some 10 ms in which everybody waits. Here a
thread moves the bulk while others write on, and then what has come meanwhile in a turn of its own, so that
the log begins anew.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

EVERY = 0.2
"""Seconds between two looks whether anything was written."""
LONG = 2_000
"""Pages of the log from which on it is made to begin anew: 8 MB."""


class Checkpoints:
    """The thread. connect: opens a connection that may write. turn: entered to keep others from writing."""

    def __init__(
        self, connect: Callable[[], sqlite3.Connection], turn: AbstractContextManager[None]
    ) -> None:
        self._connect, self._turn = connect, turn
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal checkpoints", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; the last connection to the file moves what is left."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            # a disk that is full keeps the log as it is; those who write say so
            with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connect()) as opened:
                self._look(opened)

    def _look(self, connection: sqlite3.Connection) -> None:
        """Look every now and then; raises sqlite3.Error."""
        seen = None
        while not self._stopping.wait(EVERY):
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version != seen:
                seen = version
                if _move(connection) >= LONG:
                    with self._turn:
                        _move(connection)


def _move(connection: sqlite3.Connection) -> int:
    """Move what nobody reads any more; how many pages the log had."""
    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(pages)
