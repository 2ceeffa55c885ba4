"""Copy a PostgreSQL journal into a new SQLite file, which appears only when it is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal.sqlite.claims import update_heads
from engine.journal.transfer import sqlite_file
from engine.journal.transfer.postgres_database import locked
from engine.journal.transfer.tables import (
    JSON_TABLES,
    NOT_COPIED,
    ORDER,
    PLAIN_TABLES,
    RUN_COLUMNS,
    Counter,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from engine.journal.postgres.connection import Connection, Server

_BATCH = 500
_REFERENCE = "all_runs.day::text || event::text || event_start"
_RUNS = f"SELECT {', '.join(RUN_COLUMNS)}, {_REFERENCE} AS event FROM all_runs ORDER BY seq"
_EVENTS = (
    f"SELECT DISTINCT {_REFERENCE} AS reference, extract(epoch FROM all_runs.day)::float8 AS received,"
    " substring(bodies FROM event_start FOR event_length) AS body"
    " FROM all_runs JOIN events ON events.day = all_runs.day AND events.id = event"
)


def copy(source: Server, target: Path, started: Callable[[int], Callable[[int], None]]) -> Counter:
    """Copy a journal. Return the number of rows of each table. Arguments and errors: see to_postgres.copy."""
    with locked(source) as connection, sqlite_file.created(target) as file:
        counter = Counter(started(_count(connection)))
        for table, columns in PLAIN_TABLES.items():
            order = ORDER.get(table, columns[0])
            query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {order}"
            _copy(connection, query, file, (table, columns), counter)
        for json_table in JSON_TABLES:
            query = f"SELECT key, value FROM {json_table} WHERE value IS NOT NULL"
            _copy(connection, query, file, (json_table, ("key", "value")), counter)
        marks = ", ".join("?" * len(NOT_COPIED))
        file.execute(f"DELETE FROM offsets WHERE key IN ({marks})", NOT_COPIED)
        _copy_runs(connection, file, counter)
        return counter


def _count(connection: Connection) -> int:
    total = 0
    for table in ("all_runs", *PLAIN_TABLES, *JSON_TABLES):
        row = connection.execute(f"SELECT count(*) AS n FROM {table}").fetchone()
        total += row["n"] if row else 0
    return total


def _copy(
    connection: Connection,
    query: str,
    file: sqlite3.Connection,
    to: tuple[str, Sequence[str]],
    counter: Counter,
) -> None:
    table, columns = to
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
    for rows in _batches(connection, query):
        file.executemany(statement, [tuple(row.values()) for row in rows])
        counter.add(table, len(rows))


def _copy_runs(connection: Connection, file: sqlite3.Connection, counter: Counter) -> None:
    """Copy the events, which get numbers, and then the runs. The next start ends the leases."""
    file.execute(
        "CREATE TEMP TABLE copied_events (reference TEXT PRIMARY KEY, id INTEGER) WITHOUT ROWID"
    )
    for rows in _batches(connection, _EVENTS):
        for row in rows:
            number = file.execute(
                "INSERT INTO events (body, received) VALUES (?, ?)", (row["body"], row["received"])
            ).lastrowid
            file.execute("INSERT INTO copied_events VALUES (?, ?)", (row["reference"], number))
        counter.add("events", len(rows))
    marks = ", ".join("?" * len(RUN_COLUMNS))
    statement = (
        f"INSERT INTO runs ({', '.join(RUN_COLUMNS)}, event) VALUES ({marks},"
        " coalesce((SELECT id FROM copied_events WHERE reference = ?), 0))"
    )
    for rows in _batches(connection, _RUNS):
        file.executemany(statement, map(_run, rows))
        counter.add("runs", len(rows))
    file.execute("DROP TABLE copied_events")
    found = file.execute("SELECT DISTINCT target FROM runs WHERE state IS NOT NULL").fetchall()
    update_heads(file, *(row["target"] for row in found))


def _run(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(int(value) if isinstance(value, bool) else value for value in row.values())


def _batches(connection: Connection, query: str) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows in batches, so that a large table does not have to fit into the memory."""
    with connection.cursor(name="copy", binary=True) as cursor:
        cursor.execute(query)
        while rows := cursor.fetchmany(_BATCH):
            yield rows
