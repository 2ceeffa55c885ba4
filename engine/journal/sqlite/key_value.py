"""The table ``memory``: throttle windows, budget windows, file offsets and the marker of a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal import codec
from engine.model import json_codec

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

DRY_RUN_KEY = "dry-run"
"""Key of the last run that was accepted before a dry run. ``load`` leaves it out."""

KeyValueRows = list[tuple[str, bytes | None]]
"""Changes of the table: (key, JSON), or (key, None) to delete the key."""


def encode_rows(key_values: Mapping[str, Any]) -> KeyValueRows:
    """Encode changes of the table. Call this in the thread of the caller, not in the writer thread."""
    return [
        (key, None if value is None else json_codec.encode_json(value))
        for key, value in key_values.items()
    ]


def write_rows(connection: sqlite3.Connection, rows: KeyValueRows) -> None:
    """Write changes of the table."""
    for key, value in rows:
        if value is None:
            connection.execute("DELETE FROM memory WHERE key = ?", (key,))
        else:
            connection.execute(
                "INSERT INTO memory VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                (key, value),
            )


def load(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return all keys and values, without the marker of a dry run."""
    rows = connection.execute("SELECT key, value FROM memory WHERE key != ?", (DRY_RUN_KEY,))
    return {row["key"]: codec.decode(row["value"]) for row in rows.fetchall()}
