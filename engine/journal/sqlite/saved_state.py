"""Small state that survives a restart: windows, offsets, pauses and the last good set of playbooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal import codec

if TYPE_CHECKING:
    import sqlite3

    from engine.journal.statements import WindowTable


def windows(connection: sqlite3.Connection, table: WindowTable) -> dict[str, Any]:
    """Return all windows: key -> JSON value."""
    rows = connection.execute(f"SELECT key, value FROM {table}")  # noqa: S608 - a constant
    return {row["key"]: codec.decode(row["value"]) for row in rows.fetchall()}


def offset(connection: sqlite3.Connection, key: str) -> bytes | None:
    """Return the encoded offset of a source, or None."""
    row = connection.execute("SELECT value FROM offsets WHERE key = ?", (key,)).fetchone()
    return None if row is None else row["value"]


def pauses(connection: sqlite3.Connection) -> list[sqlite3.Row]:
    """Return the rows of the pauses."""
    return connection.execute("SELECT * FROM pauses").fetchall()


def save_set(connection: sqlite3.Connection, digest: str, files: bytes, revision: str) -> None:
    """Store a set of playbook files as the last good set."""
    connection.execute(
        "INSERT INTO playbook_sets (id, digest, files, revision) VALUES (1, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET digest = excluded.digest, files = excluded.files,"
        " revision = excluded.revision",
        (digest, files, revision),
    )


def last_set(connection: sqlite3.Connection) -> sqlite3.Row | None:
    """Return the row of the last good set, or None."""
    found: sqlite3.Row | None = connection.execute(
        "SELECT digest, files, revision FROM playbook_sets"
    ).fetchone()
    return found
