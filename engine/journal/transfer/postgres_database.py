"""The PostgreSQL side of a copy: a database without engines, which is read or filled in one transaction."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from engine.journal.postgres import schema
from engine.journal.postgres.connection import connect, sentence
from engine.journal.postgres.liveness import RECENT
from engine.journal.postgres.migrations import find_version, migrate
from engine.journal.postgres.start_checks import check_server
from engine.journal.transfer.tables import JSON_TABLES, NOT_COPIED, PLAIN_TABLES
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.journal.postgres.connection import Connection, Server

_COUNTED = ("all_runs", "arrived", "run_ids", "events", *PLAIN_TABLES, *JSON_TABLES)


@contextlib.contextmanager
def locked_empty(server: Server) -> Iterator[Connection]:
    """Create the tables, and begin a transaction that fills them. An engine that starts meanwhile waits.

    The transaction is committed at the end of the block. Raises JournalError if the database cannot be used or
    is not empty.
    """
    with _transaction(server, _prepare) as connection:
        _lock(connection, server)
        for table in _COUNTED:
            but = " WHERE key <> ALL(%s)" if table == "offsets" else ""
            row = connection.execute(
                f"SELECT count(*) AS n FROM {table}{but}",
                ([*NOT_COPIED],) if but else (),
            ).fetchone()
            if row and row["n"]:
                raise JournalError(
                    f"the journal {server.name} is not empty ({row['n']:,} rows in {table}): create another"
                    " database, and copy to it"
                )
        yield connection


@contextlib.contextmanager
def locked(server: Server) -> Iterator[Connection]:
    """Begin a transaction that reads the tables as they are now. An engine that starts meanwhile waits.

    Raises JournalError if the database cannot be used, has other tables, or an engine uses it.
    """
    with _transaction(server, partial(_require_tables, server)) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        _lock(
            connection, server
        )  # first: an engine that starts before the first query would not be seen
        while _moves_more(connection):
            pass
        yield connection


def _prepare(connection: Connection) -> None:
    check_server(connection)
    migrate(connection)


def _require_tables(server: Server, connection: Connection) -> None:
    if not find_version(connection).version:
        raise JournalError(
            f"the database {server.name} has no journal: give the database that the engines use"
        )


def _moves_more(connection: Connection) -> bool:
    """Move accepted runs to the target queues, as an engine does at a claim. Return whether more wait."""
    row = connection.execute("SELECT move_arrived_runs(true) AS more").fetchone()
    return bool(row and row["more"])


@contextlib.contextmanager
def _transaction(server: Server, prepare: Callable[[Connection], None]) -> Iterator[Connection]:
    """Begin a transaction. prepare: called before it with the connection."""
    try:
        with contextlib.closing(connect(server)) as connection:
            prepare(connection)
            # reading or syncing a large file takes longer than the engine's transactions may be idle
            connection.execute("SET idle_in_transaction_session_timeout = 0")
            with connection.transaction():
                yield connection
    except (psycopg.Error, OSError) as error:
        raise JournalError(f"cannot use the journal {server.name}: {sentence(error)}") from error


def _lock(connection: Connection, server: Server) -> None:
    """Check the version of the tables, and that no engine uses them. Let none start until the end."""
    connection.execute("LOCK TABLE replicas IN EXCLUSIVE MODE")
    found = connection.execute("SELECT version FROM schema_version").fetchone()
    if found is None or found["version"] != schema.VERSION:
        version = found["version"] if found else 0
        raise JournalError(
            f"the journal {server.name} has version {version}, and this command copies version"
            f" {schema.VERSION}: use the command of the version that the engines have"
        )
    live = connection.execute(
        f"SELECT DISTINCT name FROM replicas WHERE {RECENT} ORDER BY name"
    ).fetchall()
    if live:
        names = ", ".join(row["name"] for row in live)
        raise JournalError(
            f"engines use the journal {server.name} ({names}): stop them, and copy again after three seconds"
        )
