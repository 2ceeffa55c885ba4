"""The migrations of the tables and functions, in order, and the transaction that applies them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import errors
from psycopg.rows import tuple_row

from engine.journal.postgres import schema
from engine.journal.postgres.functions import FUNCTIONS_1
from engine.journal.postgres.liveness import RECENT
from engine.journal.postgres.partitions import PARTITION_FUNCTIONS_1
from engine.journal.postgres.rights import check_rights, no_rights
from engine.journal.postgres.schema import SCHEMA_LOCK, TABLES_1
from engine.model.errors import JournalError

if TYPE_CHECKING:
    import psycopg

MIGRATIONS = (TABLES_1 + FUNCTIONS_1 + PARTITION_FUNCTIONS_1,)
"""The statements that migrate each version to the next one, from an empty database."""
LOCK_TIMEOUT = "500ms"
"""How long a migration waits for the transactions of others. Meanwhile, the other replicas wait behind it."""
ATTEMPTS = 120
"""Attempts of a migration that does not get its locks."""
PAUSE = 0.5
"""Seconds between two attempts, in which the other replicas work."""


class Found(NamedTuple):
    """The version of the tables in a database, 0 without tables, and the oldest version that can use them."""

    version: int
    oldest_reader: int


def migrate(connection: psycopg.Connection[Any]) -> bool:
    """Create or migrate the tables if they are older than this engine, while other replicas keep working.

    Returns whether it changed the tables. Raises JournalError, psycopg.Error. A long transaction of another
    session, such as a backup, must not make the replicas wait behind the migration. The migration therefore
    releases its locks and tries again.
    """
    if not _is_older(find_version(connection)):
        check_rights(connection)
        return False
    for _ in range(ATTEMPTS):
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
                found = find_version(connection)
                if not _is_older(found):
                    return False  # another replica has migrated the tables
                _check_owner(connection, found)
                _check_replicas(connection, found)
                _apply(connection, found)
                return True
        except errors.LockNotAvailable:
            threading.Event().wait(PAUSE)
    raise JournalError(
        "the tables cannot be migrated, because another session locks them: end it (SELECT * FROM pg_locks)"
    )


def find_version(connection: psycopg.Connection[Any]) -> Found:
    """Return the version of the tables. Raises JournalError if it cannot be read."""
    role, database, schema_, exists, reads = _row(
        connection,
        # to_regclass alone remembers that the table did not exist, also after the wait for another migration
        "SELECT current_user, current_database(), current_schema(), EXISTS (SELECT FROM pg_class"
        " WHERE relname = 'schema_version' AND relnamespace = current_schema()::regnamespace),"
        " coalesce(has_table_privilege(to_regclass('schema_version'), 'SELECT'), false)",
    )
    if schema_ is None:
        raise JournalError(
            f"the role {role} may not use the schema public of the database {database}: GRANT USAGE ON SCHEMA"
            f" public TO {role} (docs/replicas.md has all rights)"
        )
    if not exists:
        return Found(0, 0)
    if not reads:
        raise no_rights(role)
    try:
        return Found(
            *_row(connection, "SELECT version::int, oldest_reader::int FROM schema_version")
        )
    except (errors.UndefinedColumn, errors.DataError, JournalError):
        raise _other_tables(database) from None


def _is_older(found: Found) -> bool:
    """Return whether the tables need a migration. Raises JournalError if this engine is too old for them."""
    ours = schema.VERSION
    if found.version > ours and found.oldest_reader > ours:
        raise JournalError(
            f"the tables have version {found.version}, which needs an engine of version {found.oldest_reader} of"
            f" the tables or newer; this engine has version {ours}: start the newer engine again"
        )
    return found.version < ours


def _check_owner(connection: psycopg.Connection[Any], found: Found) -> None:
    """Refuse a role that cannot migrate."""
    role, database, creates = _row(
        connection,
        "SELECT current_user, current_database(), current_schema() IS NOT NULL"
        " AND has_schema_privilege(current_schema(), 'CREATE')",
    )
    owns = creates
    if found.version:
        (owns,) = _row(
            connection,
            "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'schema_version'::regclass",
        )
    if owns and creates:
        return
    if found.version:
        raise JournalError(
            f"the tables have version {found.version}, this engine needs version {schema.VERSION}, and the role"
            f" {role} does not own them: run `tiercel journal migrate` with their owner"
        )
    raise JournalError(
        f"the role {role} cannot create tables in the database {database}: ALTER DATABASE {database} OWNER TO"
        f" {role}, or run `tiercel journal migrate` with its owner"
    )


def _check_replicas(connection: psycopg.Connection[Any], found: Found) -> None:
    """Refuse to change what live replicas of an older version use."""
    if not found.version:
        return
    with connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            f"SELECT DISTINCT name FROM replicas WHERE tables < %s AND {RECENT} ORDER BY name",
            (schema.OLDEST_READER,),
        ).fetchall()
    if rows:
        raise JournalError(
            f"version {schema.VERSION} of the tables cannot be used by the running replicas"
            f" {', '.join(name for (name,) in rows)}: stop them first"
        )


def _apply(connection: psycopg.Connection[Any], found: Found) -> None:
    try:
        for statements in MIGRATIONS[found.version : schema.VERSION]:
            connection.execute(statements)
    except (errors.DuplicateTable, errors.DuplicateObject, errors.DuplicateFunction) as error:
        raise _other_tables(connection.info.dbname, error) from error
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version"
        " (version integer NOT NULL, oldest_reader integer NOT NULL)"
    )
    connection.execute("DELETE FROM schema_version")
    connection.execute(
        "INSERT INTO schema_version VALUES (%s, %s)", (schema.VERSION, schema.OLDEST_READER)
    )


def _other_tables(database: str, error: Exception | None = None) -> JournalError:
    why = f" ({str(error).splitlines()[0]})" if error else ""
    return JournalError(
        f"the database {database} has tables of another program{why}: create a database for the journal alone"
    )


def _row(connection: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(query).fetchone()
    if row is None:
        raise JournalError("the server does not answer")
    return row
