"""Read-only queries about runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal import codec
from engine.journal.postgres.functions import ROW
from engine.model.calls import ObjectChange
from engine.model.playbook import ALL_PLAYBOOKS

if TYPE_CHECKING:
    from engine.journal.postgres.connection import Connections, Row
    from engine.journal.records import RunFilter

_STATES = {
    "waiting": "state IN ('new', 'head', 'queued', 'waiting') AND NOT held",
    "running": "state = 'leased'",
    "held": "held AND state IS NOT NULL",
}
_RECORD = (
    f"SELECT {ROW}, (SELECT body FROM events WHERE events.day = all_runs.day"
    " AND events.id = all_runs.event) AS event FROM all_runs"
)


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


def find(connections: Connections, run_id: str) -> Row | None:
    """Return the row of a run, or None."""
    return connections.row(f"{_RECORD} WHERE id = %s", run_id)


def select_runs(connections: Connections, wanted: RunFilter) -> list[Row]:
    """Return the rows that match, newest first."""
    tests = ["undoes IS NULL"]
    values: list[Any] = []
    for column, value in (("playbook", wanted.playbook), ("namespace", wanted.namespace)):
        if value is not None:
            tests.append(f"{column} = %s")
            values.append(value)
    if wanted.since is not None:
        tests.append("received >= %s")
        values.append(wanted.since)
    if wanted.state in _STATES:
        tests.append(_STATES[wanted.state])
    elif wanted.state is not None:
        tests.append("outcome = %s")
        values.append(wanted.state)
    query = f"{_RECORD} WHERE {' AND '.join(tests)} ORDER BY seq DESC LIMIT %s"
    return connections.rows(query, *values, wanted.limit)


def counts(connections: Connections) -> dict[str, int]:
    """Return the number of runs per state: ``waiting``, ``running``, ``held``, ``over``. Undos do not count."""
    row = connections.row(
        "SELECT count(*) FILTER (WHERE state IS NOT NULL AND state <> 'leased' AND NOT held) AS waiting,"
        " count(*) FILTER (WHERE state = 'leased') AS running,"
        " count(*) FILTER (WHERE held AND state IS NOT NULL) AS held,"
        " (SELECT count(*) FROM history) AS over FROM runs WHERE undoes IS NULL"
    )
    return dict(row or {})


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
        " (SELECT min(due_at) FROM runs WHERE state IN ('new', 'head') AND pool = %s)) END) AS due",
        pool,
        ALL_PLAYBOOKS,
        pool,
        pool,
    )
    return row["due"] if row else None
