"""The tables ``throttle_windows``, ``budget_windows`` and ``offsets``: key -> JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from engine.model import json_codec

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

Table = Literal["throttle_windows", "budget_windows", "offsets"]
Rows = list[tuple[str, bytes | None]]
"""Changes of a table: (key, JSON), or (key, None) to delete the key."""


def encode_rows(changes: Mapping[str, Any]) -> Rows:
    """Encode changes of a table. Call this in the thread of the caller, not in the writer thread."""
    return [
        (key, None if value is None else json_codec.encode_json(value))
        for key, value in changes.items()
    ]


def write_rows(connection: sqlite3.Connection, table: Table, rows: Rows) -> None:
    """Write changes of a table."""
    for key, value in rows:
        if value is None:
            connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))  # noqa: S608 - a constant
        else:
            connection.execute(
                f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",  # noqa: S608 - the same
                (key, value),
            )
