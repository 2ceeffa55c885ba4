"""Checks of the server at the start: one sentence for each reason to refuse it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.model.errors import JournalError

if TYPE_CHECKING:
    from engine.journal.postgres.connection import Connection, Row

MIN_VERSION = 140_000
"""PostgreSQL 14, as ``server_version_num``."""


def check_server(connection: Connection) -> str | None:
    """Refuse a server that can lose an acknowledged event. Return a warning, or None.

    Raises JournalError, psycopg.Error.
    """
    row = connection.execute(
        "SELECT current_setting('server_version_num')::int AS version,"
        " current_setting('server_version') AS version_text, pg_is_in_recovery() AS standby,"
        " current_setting('default_transaction_read_only') = 'on' AS read_only,"
        " current_setting('server_encoding') AS encoding, current_database() AS database,"
        " current_setting('synchronous_standby_names') AS standbys,"
        " current_setting('synchronous_commit') AS synchronous_commit,"
        " current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes"
    ).fetchone()
    if row is None:
        raise JournalError("the server does not answer")
    why = _refusal(row)
    if why:
        raise JournalError(why)
    if not row["standbys"] or row["synchronous_commit"] == "local":
        return (
            "no synchronous standby: if the primary is lost, its most recent events are lost"
            " (synchronous_standby_names, synchronous_commit)"
        )
    return None


def _refusal(row: Row) -> str | None:
    """Return why the server is refused, or None."""
    database = row["database"]
    if row["version"] < MIN_VERSION:
        return f"the server is PostgreSQL {row['version_text']}, and version 14 or newer is needed"
    if row["standby"]:
        return "the server is a standby: give the address of the primary"
    if row["read_only"]:
        fix = f"ALTER DATABASE {database} RESET default_transaction_read_only"
        return f"the database {database} is read-only: {fix}"
    if row["encoding"] != "UTF8":
        fix = "create it with ENCODING 'UTF8'"
        return f"the database {database} has the encoding {row['encoding']}: {fix}"
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if row[name] == "off":
            return f"the server has {name} = off, which can lose acknowledged events: set it to on"
    return None
