"""Read-only queries about runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

from engine.journal import codec
from engine.journal.postgres import partitions
from engine.journal.postgres.functions import EVENT_OF, ROW
from engine.journal.postgres.schema import day_of
from engine.journal.run_filter import UNFINISHED, conditions
from engine.model.calls import ObjectChange
from engine.model.playbook import ALL_PLAYBOOKS

if TYPE_CHECKING:
    from engine.journal.postgres.connection import Connection, Connections, Row
    from engine.journal.records import RunFilter


def _select(table: LiteralString) -> LiteralString:
    return f"SELECT {ROW}, day, {EVENT_OF.format(table)} AS event FROM {table}"


class RunLookups:
    """The queries for the Hydrator (see engine.journal.hydrate.Lookups). Rows contain their event."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def event(self, reference: Any) -> bytes | None:
        """Return the encoded event, which the query of the run has read."""
        found: bytes | None = reference
        return found

    def snapshot(self, digest: str) -> bytes | None:
        """Return the snapshot of the playbook with this digest, or None."""
        row = self._connections.row("SELECT snapshot FROM snapshots WHERE digest = %s", digest)
        return None if row is None else row["snapshot"]

    def undo_changes(self, undo: str) -> tuple[ObjectChange, ...]:
        """Return the changes that an undo reverts, in the order in which they were made."""
        found = self._connections.rows(
            "SELECT change FROM undo_intents WHERE undo = %s ORDER BY place", undo
        )
        return tuple(ObjectChange.of(codec.decode(row["change"])) for row in found)

    def undo_steps(self, run: str) -> dict[int, float | None]:
        """Return the steps of a run that can be undone: position -> epoch seconds, or None (on request)."""
        found = self._connections.rows(
            "SELECT position, due_at FROM runs WHERE undoes = %s ORDER BY position", run
        )
        return {row["position"]: row["due_at"] for row in found}


def find(connection: Connection, run_id: str) -> Row | None:
    """Return the row of a run, or None."""
    return connection.execute(
        f"{_select('all_runs')} WHERE id = %s", (run_id,), binary=True
    ).fetchone()


def find_ids(connection: Connection, prefix: str) -> list[str]:
    """Return the ids of up to three runs that start with the prefix."""
    rows = connection.execute(
        "SELECT id FROM all_runs WHERE id >= %s AND id < %s AND undoes IS NULL LIMIT 3",
        (prefix, prefix + "g"),
    ).fetchall()
    return [row["id"] for row in rows]


def select_runs(connection: Connection, wanted: RunFilter) -> list[Row]:
    """Return the rows that match, newest first: by the day of their receipt, then in the order of the queue.

    History is read day by day, from the newest one, until there are enough rows. One query reads one partition,
    by the index of its order.
    """
    tests, values = conditions(wanted, "%s")

    def rows_of(table: LiteralString, more: LiteralString = "", *also: Any) -> list[Row]:
        query = f"{_select(table)} WHERE {tests}{more} ORDER BY day DESC, seq DESC LIMIT %s"
        given = (*values, *also, wanted.limit)
        # not prepared: a plan for any day locks all partitions
        return connection.execute(query, given, binary=True, prepare=False).fetchall()

    found = []
    if wanted.state is None or wanted.state in UNFINISHED:
        found += rows_of("runs")
    if wanted.state not in UNFINISHED:
        found += rows_of("history_other")
        ended: list[Row] = []
        for day in partitions.days(connection):
            if len(ended) >= wanted.limit or (wanted.since and day < day_of(wanted.since)):
                break
            ended += rows_of("history", " AND day = %s", day)
        found += ended
    # a run that has ended between two of the queries is in both answers
    found = [*{row["id"]: row for row in found}.values()]
    found.sort(key=lambda row: (row["day"], row["seq"]), reverse=True)
    return found[: wanted.limit]


def counts(connection: Connection) -> dict[str, int]:
    """Return the number of unfinished runs per state; undos do not count."""
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE state IS NOT NULL AND state <> 'leased' AND NOT held)"
        " + (SELECT coalesce(sum(many), 0)::bigint FROM arrived) AS waiting,"
        " count(*) FILTER (WHERE state = 'leased') AS running,"
        " count(*) FILTER (WHERE held AND state IS NOT NULL) AS held"
        " FROM runs WHERE undoes IS NULL"
    ).fetchone()
    return dict(row or {})


def arrived(connections: Connections) -> tuple[int, int] | None:
    """Return the first and the last number of the batches that are not in the target queues, or None."""
    row = connections.row("SELECT min(id) AS first, max(id) AS last FROM arrived")
    return None if row is None or row["first"] is None else (row["first"], row["last"])


def next_due(connections: Connections, pool: str) -> float | None:
    """Return the time at which the next run of the pool can be claimed, or None.

    While all playbooks are paused, only undos count.
    """
    row = connections.row(
        "SELECT least("
        " CASE WHEN %s = 'cluster' THEN (SELECT min(due_at) FROM runs WHERE undoes IS NOT NULL"
        " AND state IN ('waiting', 'leased') AND NOT EXISTS (SELECT FROM runs AS other"
        " WHERE other.target = runs.target AND other.state = 'leased' AND other.seq <> runs.seq)) END,"
        " CASE WHEN NOT EXISTS (SELECT FROM pauses WHERE playbook = %s) THEN least("
        " (SELECT min(due_at) FROM runs WHERE state IN ('waiting', 'leased') AND undoes IS NULL AND pool = %s),"
        " (SELECT due_at FROM runs WHERE state = 'head' AND pool = %s ORDER BY seq LIMIT 1)) END) AS due",
        pool,
        ALL_PLAYBOOKS,
        pool,
        pool,
    )
    return row["due"] if row else None
