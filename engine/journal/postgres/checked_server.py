"""A database that is checked and migrated before its first use, which can be after the start of the engine."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors

from engine.journal.postgres import partitions
from engine.journal.postgres.connection import connect
from engine.journal.postgres.migrations import migrate
from engine.journal.postgres.start_checks import check_server
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from engine.journal.postgres.connection import Connection, Server


class CheckedServer:
    """Opens the connections to a database. Thread-safe.

    Attributes:
        is_ready: whether the server has answered, and can be used.
        warning: a sentence about a setting of the server, or None.

    """

    def __init__(self, server: Server) -> None:
        self._server, self._lock = server, threading.Lock()
        self.is_ready = False
        self.warning: str | None = None

    def check(self) -> None:
        """Check the server and migrate the tables. Raises JournalError, psycopg.Error, OSError."""
        with contextlib.closing(connect(self._server)) as connection:
            self._prepare(connection)

    def connect(self) -> Connection:
        """Open a connection, the first one of all to a server that is checked. Raises psycopg.Error, OSError."""
        connection = connect(self._server)
        try:
            with self._lock:
                if not self.is_ready:
                    self._prepare(connection)
        except JournalError as error:
            connection.close()
            raise psycopg.OperationalError(str(error)) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: Connection) -> None:
        self.warning = check_server(connection)
        migrate(connection)
        create_partitions(connection)
        self.is_ready = True


def create_partitions(connection: Connection) -> None:
    """Create the partitions of today and the next days, or later if others use the tables now."""
    with contextlib.suppress(errors.LockNotAvailable):
        partitions.create_partitions(connection)
