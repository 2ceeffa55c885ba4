"""Copy a SQLite journal into an empty PostgreSQL database, in one transaction: all of it or nothing."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import TYPE_CHECKING, Any, Literal, LiteralString

from engine.journal import codec
from engine.journal.postgres import retention, windows
from engine.journal.postgres.connection import index_key
from engine.journal.postgres.partitions import create_partitions
from engine.journal.postgres.schema import day_of
from engine.journal.records import DroppedRuns
from engine.journal.transfer import sqlite_file
from engine.journal.transfer.postgres_database import locked_empty
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
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engine.journal.postgres.connection import Connection, Server

_DAY_SECONDS = 86_400
_EVENTS = (
    "SELECT used.event, used.day, events.body FROM (SELECT DISTINCT event,"
    f" CAST(received / {_DAY_SECONDS} AS INTEGER) AS day FROM runs) AS used"
    " JOIN events ON events.id = used.event"
)
_EVENT_LENGTH = "(SELECT length(CAST(body AS BLOB)) FROM events WHERE events.id = runs.event)"
_FLAGS = {RUN_COLUMNS.index("leased"), RUN_COLUMNS.index("held")}
_STATE = RUN_COLUMNS.index("state")
_TARGET, _RECEIVED = RUN_COLUMNS.index("target"), RUN_COLUMNS.index("received")
_KEY = PLAIN_TABLES["undo_intents"].index("key")


def copy(source: Path, target: Server, started: Callable[[int], Callable[[int], None]]) -> Counter:
    """Copy a journal. Return the number of rows of each table.

    started: gets the number of rows, and returns a function that is called with the number of copied rows.
    Raises JournalError: then nothing was written.
    """
    with sqlite_file.opened(source) as rows, locked_empty(target) as connection:
        counter = Counter(started(_count(rows)))
        _create_days(rows, connection)
        for table, columns in PLAIN_TABLES.items():
            if table == "drops":
                _copy_drops(rows, connection, columns, counter)
            else:
                _copy_plain(rows, connection, table, columns, counter)
        _copy_json(rows, connection, counter)
        with connection.cursor().copy("COPY events (day, id, bodies) FROM STDIN") as out:
            for event, day, body in rows.execute(_EVENTS):
                out.write_row((_date(day), _event_id(event, day), body))
                counter.add("events")
        _copy_runs(rows, connection, counter)
        return counter


def _count(rows: sqlite3.Connection) -> int:
    tables = ("runs", "runs", "events", *PLAIN_TABLES, *JSON_TABLES)  # runs: their ids, too
    counts = [rows.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
    return sum(counts)


def _create_days(rows: sqlite3.Connection, connection: Connection) -> None:
    """Create the partitions, because a row cannot leave the partition for all other days later."""
    days = rows.execute(f"SELECT DISTINCT CAST(received / {_DAY_SECONDS} AS INTEGER) FROM runs")
    for (day,) in days:
        create_partitions(connection, _date(day), 1)


def _copy_plain(
    rows: sqlite3.Connection,
    connection: Connection,
    table: str,
    columns: tuple[str, ...],
    counter: Counter,
) -> None:
    names = ", ".join(columns)
    query = f"SELECT {names} FROM {table} ORDER BY {ORDER.get(table, columns[0])}"
    with connection.cursor().copy(f"COPY {table} ({names}) FROM STDIN") as out:
        for row in rows.execute(query):
            values = [*row]
            if table == "undo_intents":
                values[_KEY] = index_key(values[_KEY])
            out.write_row(values)
            counter.add(table)


def _copy_drops(
    rows: sqlite3.Connection, connection: Connection, columns: tuple[str, ...], counter: Counter
) -> None:
    """Copy the counters of dropped runs, and add those whose keys are equal in the database."""
    names = [name for name in columns if name != "hour"]  # it follows from `first`
    found = rows.execute(f"SELECT {', '.join(names)} FROM drops")
    drops = [DroppedRuns(**dict(zip(names, row, strict=True))) for row in found]
    retention.save_dropped(connection, (), drops)
    counter.add("drops", len(drops))


def _copy_json(rows: sqlite3.Connection, connection: Connection, counter: Counter) -> None:
    table: Literal["throttle_windows", "budget_windows", "offsets"]
    for table in JSON_TABLES:
        found = {
            row["key"]: row["value"]
            for row in rows.execute(f"SELECT key, value FROM {table}")
            if row["key"] not in NOT_COPIED
        }
        if table == "offsets":
            connection.cursor().executemany(
                "INSERT INTO offsets VALUES (%s, %s) ON CONFLICT DO NOTHING",
                [(index_key(key), value) for key, value in found.items()],
            )
        else:
            decoded = {key: codec.decode(value) for key, value in found.items()}
            windows.write(connection, table, decoded)
        counter.add(table, len(found))


def _copy_runs(rows: sqlite3.Connection, connection: Connection, counter: Counter) -> None:
    """Copy the finished runs to the history, and the others with the undos to the queues."""
    names: LiteralString = "day, event, event_start, event_length, " + ", ".join(RUN_COLUMNS)
    for table, where in (
        ("history", "state IS NULL AND undoes IS NULL"),
        ("runs", "state IS NOT NULL OR undoes IS NOT NULL"),
    ):
        with connection.cursor().copy(f"COPY {table} ({names}) FROM STDIN") as out:
            for row in _runs(rows, where):
                out.write_row(row)
                counter.add("runs")
    with connection.cursor().copy("COPY run_ids (id, day) FROM STDIN") as out:
        for id_, received in rows.execute("SELECT id, received FROM runs WHERE undoes IS NULL"):
            out.write_row((id_, day_of(received)))
            counter.add("run_ids")
    connection.execute(
        "INSERT INTO targets SELECT DISTINCT target FROM runs WHERE state IS NOT NULL OR undoes IS NOT NULL"
    )
    connection.execute(
        "SELECT update_heads(array(SELECT DISTINCT target FROM runs WHERE state = 'queued'))"
    )
    connection.execute(
        "SELECT setval('runs_seq', (SELECT coalesce(max(seq), 0) + 1 FROM all_runs))"
    )


def _runs(rows: sqlite3.Connection, where: str) -> Iterator[tuple[Any, ...]]:
    columns = f"event, {_EVENT_LENGTH}, {', '.join(RUN_COLUMNS)}"
    query = f"SELECT {columns} FROM runs WHERE {where} ORDER BY seq"
    for event, length, *values in rows.execute(query):
        for index in _FLAGS:
            values[index] = bool(values[index])
        values[_TARGET] = index_key(values[_TARGET])
        if values[_STATE] == "head":  # of another queue, if two targets are equal in the database
            values[_STATE] = "queued"
        received = values[_RECEIVED]
        # the content of an old run is deleted before the run, which has event 0 then
        reference = _event_id(event, int(received / _DAY_SECONDS)) if event else None
        yield (day_of(received), reference, event and 1, length, *values)


def _date(day: int) -> dt.date:
    return dt.date(1970, 1, 1) + dt.timedelta(days=day)


def _event_id(event: int, day: int) -> uuid.UUID:
    """Return the id of an event, which begins with its time as those of PostgresJournal do."""
    return uuid.UUID(int=(day * _DAY_SECONDS * 1_000 << 80) | event)
