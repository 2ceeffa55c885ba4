"""The tables ``throttle_windows`` and ``budget_windows``: key -> JSON, with a lock for each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal import codec
from engine.journal.postgres.connection import index_key
from engine.model import json_codec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from engine.journal.postgres.connection import Connection
    from engine.journal.statements import WindowTable

MAX_DELETED_WINDOWS = 10_000
"""Windows that one transaction deletes because they are over."""


def lock(connection: Connection, table: WindowTable, keys: Collection[str]) -> dict[str, Any]:
    """Lock windows in the order of their keys, and return those that exist."""
    stored = {key: index_key(key) for key in keys}
    rows = connection.execute(
        f"INSERT INTO {table} (key) SELECT unnest(%s::text[]) ON CONFLICT (key)"
        f" DO UPDATE SET until = {table}.until RETURNING key, value",
        (sorted({*stored.values()}),),
        binary=True,
    ).fetchall()
    found = {row["key"]: row["value"] for row in rows if row["value"] is not None}
    return {key: codec.decode(found[name]) for key, name in stored.items() if name in found}


def write(connection: Connection, table: WindowTable, changes: Mapping[str, Any]) -> None:
    """Write changes. A window of None is deleted."""
    gone = [index_key(key) for key, window in changes.items() if window is None]
    kept = {index_key(key): window for key, window in changes.items() if window is not None}
    if gone:
        connection.execute(f"DELETE FROM {table} WHERE key = ANY(%s)", (sorted(gone),))
    if kept:
        keys = sorted(kept)
        until = [_until(kept[key]) for key in keys]
        values = [json_codec.encode_json(kept[key]) for key in keys]
        connection.execute(
            f"INSERT INTO {table} (key, value, until)"
            " SELECT * FROM unnest(%b::text[], %b::bytea[], %b::float8[]) ON CONFLICT (key)"
            " DO UPDATE SET value = excluded.value, until = excluded.until",
            (keys, values, until),
        )


def _until(window: Any) -> float:
    return float(window.get("until", 0.0)) if isinstance(window, dict) else 0.0


def delete_over(connection: Connection, table: WindowTable, now: float) -> int:
    """Delete windows that have no effect any longer, and those that a lock created and nothing used.

    Returns their number.
    """
    return connection.execute(
        f"DELETE FROM {table} WHERE key IN (SELECT key FROM {table} WHERE until < %s LIMIT %s"
        " FOR UPDATE SKIP LOCKED)",
        (now, MAX_DELETED_WINDOWS),
    ).rowcount
