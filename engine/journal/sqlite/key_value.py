"""Changes of the memory, as rows: JSON is made in the caller's thread, not in the writer's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.model import json_codec

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping


def kept(memory: Mapping[str, Any]) -> list[tuple[str, bytes | None]]:
    """Changes of the memory as rows: key -> JSON, or None to forget it."""
    return [
        (key, None if value is None else json_codec.encode_json(value))
        for key, value in memory.items()
    ]


def remember(connection: sqlite3.Connection, memory: list[tuple[str, bytes | None]]) -> None:
    """Write changes of the memory."""
    for key, value in memory:
        if value is None:
            connection.execute("DELETE FROM memory WHERE key = ?", (key,))
        else:
            connection.execute(
                "INSERT INTO memory VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                (key, value),
            )
