"""Limit the size of the journal: drop whole days of history, and keep bounded tables.

Deleted rows would have to be vacuumed. A partition is dropped at once.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.journal.dropped import (
    MAX_DEAD_LETTERS,
    MAX_DELETED_RUNS,
    MAX_DROP_COUNTERS,
    counter_rows,
)
from engine.journal.postgres import partitions, windows
from engine.journal.postgres.connection import index_key
from engine.journal.postgres.schema import day_of
from engine.journal.records import DeadLetter, DroppedRuns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.journal.postgres.connection import Connection, Row
    from engine.journal.records import RunFilter

MAX_DELETED_TARGETS = 10_000
"""Rows of targets that one transaction deletes."""
_DAY = dt.timedelta(days=1)


def save_dropped(
    connection: Connection,
    dead_letters: Sequence[DeadLetter],
    dropped_runs: Sequence[DroppedRuns],
) -> None:
    """Write dead letters, add to the counters, and delete the oldest rows of both."""
    if dead_letters:
        columns = zip(*((d.received, d.source, d.error, d.body) for d in dead_letters), strict=True)
        connection.execute(
            "INSERT INTO dead_letters (received, source, error, body)"
            " SELECT received, source, error, body FROM unnest(%b::float8[], %b::text[], %b::text[],"
            " %b::bytea[]) WITH ORDINALITY AS given (received, source, error, body, place) ORDER BY place",
            [[*column] for column in columns],
        )
        connection.execute(
            "DELETE FROM dead_letters WHERE id <= (SELECT id FROM dead_letters ORDER BY id DESC"
            " LIMIT 1 OFFSET %s)",
            (MAX_DEAD_LETTERS,),
        )
    counters = counter_rows([replace(one, key=index_key(one.key)) for one in dropped_runs])
    if counters:
        connection.execute(  # in one order, so that two replicas never deadlock
            "INSERT INTO drops SELECT * FROM unnest(%b::text[], %b::text[], %b::text[], %b::bigint[],"
            " %b::bigint[], %b::float8[], %b::float8[]) ON CONFLICT (playbook, reason, key, hour)"
            " DO UPDATE SET count = drops.count + excluded.count, last = greatest(drops.last, excluded.last)",
            [[*column] for column in zip(*counters, strict=True)],
        )
        connection.execute(
            "DELETE FROM drops WHERE last <= (SELECT last FROM drops ORDER BY last DESC LIMIT 1 OFFSET %s)",
            (MAX_DROP_COUNTERS,),
        )


def drop_days(connection: Connection, before: float) -> int:
    """Drop the partitions of days whose runs all ended before this time. Return the number of days.

    A run is in the partition of its receipt. It can end a day later. A day to whose events an unfinished run or
    an undo refers stays.
    """
    return partitions.drop_days(connection, day_of(before) - 2 * _DAY)


def delete_runs(connection: Connection, before: float, *, exact: bool) -> int:
    """Delete up to ``MAX_DELETED_RUNS`` runs that ended before this time. Return their number.

    exact: delete rows of every partition, not only of the one for days without a partition.
    """
    table = "history" if exact else "history_other"
    rows = connection.execute(
        f"DELETE FROM {table} WHERE (day, id) IN (SELECT day, id FROM {table} WHERE settled < %s"
        " LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING id, day, event",
        (before, MAX_DELETED_RUNS),
    ).fetchall()
    ids = [row["id"] for row in rows]
    # undos on request end with the retention of their run
    undos = connection.execute(
        "DELETE FROM runs WHERE undoes IS NOT NULL AND state IS NULL AND settled < %s RETURNING id",
        (before,),
    ).fetchall()
    connection.execute(
        "DELETE FROM undo_intents WHERE undo = ANY(%s)", ([row["id"] for row in undos],)
    )
    if ids:
        connection.execute("DELETE FROM run_ids WHERE id = ANY(%s::uuid[])", (ids,))
    _delete_unused_events(connection, rows)
    return len(rows)


def delete_old_records(connection: Connection, before: float) -> None:
    """Delete counters and dead letters that are too old."""
    connection.execute("DELETE FROM drops WHERE last < %s", (before,))
    connection.execute("DELETE FROM dead_letters WHERE received < %s", (before,))


def delete_unused_rows(connection: Connection, over: float) -> int:
    """Delete some of the rows of targets without a run, and of windows that were over at a time.

    Returns the number of rows.
    """
    return _delete_unused_targets(connection) + sum(
        windows.delete_over(connection, table, over)
        for table in ("throttle_windows", "budget_windows")
    )


def _delete_unused_targets(connection: Connection) -> int:
    """Delete the rows of targets without a run. Return their number.

    A statement sees what was committed before it began. The rows are therefore locked in one statement, and the
    runs are read again in the next one. In one statement, a run that arrives meanwhile would lose the row of its
    target, and could not be claimed.
    """
    locked = connection.execute(
        "SELECT target FROM targets WHERE NOT EXISTS (SELECT FROM runs WHERE runs.target = targets.target)"
        " LIMIT %s FOR UPDATE SKIP LOCKED",
        (MAX_DELETED_TARGETS,),
    ).fetchall()
    if not locked:
        return 0
    return connection.execute(
        "DELETE FROM targets WHERE target = ANY(%s)"
        " AND NOT EXISTS (SELECT FROM runs WHERE runs.target = targets.target)",
        ([row["target"] for row in locked],),
    ).rowcount


def strip_runs(connection: Connection, before: float) -> int:
    """Delete the data of up to ``MAX_DELETED_RUNS`` runs that ended before this time. Keep their ids.

    Returns the number of runs.
    """
    rows = connection.execute(
        "SELECT day, id, event FROM history WHERE settled < %s AND event IS NOT NULL LIMIT %s"
        " FOR UPDATE SKIP LOCKED",
        (before, MAX_DELETED_RUNS),
    ).fetchall()
    connection.execute(
        "UPDATE history SET event = NULL, results = '[]', facts = '{}' FROM unnest(%s::date[], %s::text[])"
        " AS given (day, id) WHERE history.day = given.day AND history.id = given.id",
        ([row["day"] for row in rows], [row["id"] for row in rows]),
    )
    _delete_unused_events(connection, rows)
    return len(rows)


def _delete_unused_events(connection: Connection, runs: Sequence[Row]) -> None:
    """Delete the events of some runs to which no run refers any longer.

    runs: rows with ``day`` and ``event``.
    """
    events = [(row["day"], row["event"]) for row in runs if row["event"]]
    if events:
        days, ids = zip(*events, strict=True)
        connection.execute(
            "DELETE FROM events USING (SELECT DISTINCT * FROM unnest(%s::date[], %s::uuid[])) AS given (day, id)"
            " WHERE events.day = given.day AND events.id = given.id AND NOT EXISTS"
            " (SELECT FROM all_runs WHERE all_runs.event = events.id)",
            ([*days], [*ids]),
        )


def dead_letters(connection: Connection, limit: int) -> list[DeadLetter]:
    """Return the dead letters, newest first."""
    rows = connection.execute(
        "SELECT received, source, error, body FROM dead_letters ORDER BY id DESC LIMIT %s",
        (limit,),
        binary=True,
    ).fetchall()
    return [DeadLetter(**row) for row in rows]


def dropped_runs(connection: Connection, wanted: RunFilter) -> list[DroppedRuns]:
    """Return the counters that match the playbook and the time, last changed first."""
    playbook, since = wanted.playbook, wanted.since
    rows = connection.execute(
        "SELECT playbook, reason, key, count, first, last FROM drops"
        " WHERE (%s::text IS NULL OR playbook = %s) AND (%s::float8 IS NULL OR last >= %s)"
        " ORDER BY last DESC LIMIT %s",
        (playbook, playbook, since, since, wanted.limit),
    ).fetchall()
    return [DroppedRuns(**row) for row in rows]
