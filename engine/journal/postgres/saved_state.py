"""Small state that survives a restart: windows, offsets, pauses and the last good set of playbooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal import codec
from engine.journal.postgres.connection import index_key

if TYPE_CHECKING:
    from engine.journal.postgres.connection import Connection, Row
    from engine.journal.statements import WindowTable


def windows(connection: Connection, table: WindowTable) -> dict[str, Any]:
    """Return all windows: key -> JSON value."""
    rows = connection.execute(
        f"SELECT key, value FROM {table} WHERE value IS NOT NULL", binary=True
    ).fetchall()
    return {row["key"]: codec.decode(row["value"]) for row in rows}


def offset(connection: Connection, key: str) -> bytes | None:
    """Return the encoded offset of a source, or None."""
    row = connection.execute(
        "SELECT value FROM offsets WHERE key = %s", (index_key(key),), binary=True
    ).fetchone()
    return None if row is None else row["value"]


def pauses(connection: Connection) -> list[Row]:
    """Return the rows of the pauses."""
    return connection.execute("SELECT playbook, by, since, until, reason FROM pauses").fetchall()


def save_set(connection: Connection, digest: str, files: bytes, revision: str) -> None:
    """Store a set of playbook files as the last good set."""
    connection.execute(
        "INSERT INTO playbook_sets VALUES (1, %s, %s, %s) ON CONFLICT (id) DO UPDATE"
        " SET digest = excluded.digest, files = excluded.files, revision = excluded.revision",
        (digest, files, revision),
    )


def last_set(connection: Connection) -> Row | None:
    """Return the row of the last good set, or None."""
    return connection.execute(
        "SELECT digest, files, revision FROM playbook_sets", binary=True
    ).fetchone()
