"""The inbox: accepted runs that are not in the target queues yet.

A row of ``runs`` is in four indexes, at positions that depend on digests. Each of them is a page to write before
the sender gets its answer. An accept therefore only appends rows to the inbox. The runs enter the target queues
when a claim finds too few runs, or when a reader looks for a run. In a flood of events, this halves the bytes
written before the answer.
"""

from __future__ import annotations

from array import array
from collections import deque
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.journal.sqlite import retention
from engine.journal.sqlite.bloom_filter import short_id
from engine.journal.sqlite.claims import in_slices, placeholders, update_heads
from engine.journal.sqlite.inbox_rows import decode_entries
from engine.model.run import run_outcome

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    from engine.journal.sqlite.inbox_rows import InboxBatch, InboxEntry
    from engine.journal.sqlite.quota import Quota

MAX_ENTERING_RUNS = 200
"""Runs that enter the target queues at once, plus the rest of their last row (about 6 ms)."""
_WRITES_PER_CHECK = 16
"""Writes between two checks of the length of the inbox."""
MAX_WAITING_EVENTS = 300_000
"""Events in the inbox beyond which accepts move runs to the queues. A restart reads the whole inbox."""
_INSERT_RUNS = (
    "INSERT INTO runs (id, playbook, digest, blob, event, target, namespace, received, position,"
    " pool, timeout, due_at, outcome, results, settled, state, revision) VALUES "
)
_WAITING_EVENTS = (
    "SELECT (SELECT event FROM arrived ORDER BY id DESC LIMIT 1)"
    " - (SELECT event FROM arrived ORDER BY id LIMIT 1)"
)

_NONE_REJECTED: Mapping[str, str] = MappingProxyType({})
_BodyIds = tuple[int, "array[int]"]
"""The number of the first event of a body, and the short ids of its runs. Plain values, which the garbage
collector does not traverse."""


class Inbox:
    """Writes the inbox, moves runs to the target queues and knows the ids of the runs that wait.

    ids: the short ids of the waiting runs. The writer thread changes the set, after a commit. Any thread can
    read it. An id stays in the set for a while after its run has entered, in this process or another.

    quota: refuses a batch that does not fit.
    """

    def __init__(self, quota: Quota) -> None:
        self.ids: set[int] = set()
        self._quota = quota
        self._bodies: deque[_BodyIds] = deque()
        self._uncommitted: list[_BodyIds] = []
        self._first_event = 0
        self._writes = 0
        self._snapshots: set[str] = set()
        self._new_snapshots: set[str] = set()

    def load(self, connection: sqlite3.Connection) -> None:
        """Read the ids and the digests that an earlier process wrote."""
        rows = connection.execute("SELECT digest FROM snapshots")
        self._snapshots = {row["digest"] for row in rows}
        for row in connection.execute("SELECT event, runs FROM arrived ORDER BY id"):
            ids = (short_id(entry.id) for entry in decode_entries(row["runs"]))
            self._uncommitted.append((row["event"], array("Q", ids)))
        self.transaction_ended(True)

    def transaction_ended(self, committed: bool) -> None:  # noqa: FBT001 - a callback of the writer
        """Add the ids of the transaction, or drop them if it was rolled back."""
        self._quota.transaction_ended(committed)
        bodies, self._uncommitted = self._uncommitted, []
        snapshots, self._new_snapshots = self._new_snapshots, set()
        if not committed:
            return
        self._snapshots |= snapshots
        self._bodies += bodies
        for _, ids in bodies:
            self.ids.update(ids)
        while self._bodies and self._bodies[0][0] < self._first_event:
            self.ids.difference_update(self._bodies.popleft()[1])

    def write(
        self, connection: sqlite3.Connection, batches: Sequence[InboxBatch]
    ) -> list[Mapping[str, str]]:
        """Append batches, with as few statements as possible.

        At each statement, the interpreter lock is released and must be acquired again. Returns the runs that
        are not accepted: none. Raises JournalError if the batches do not fit.
        """
        expected_bytes = sum(batch.expected_bytes for batch in batches)
        self._quota.reserve(expected_bytes)
        try:
            snapshots = self._insert_new_snapshots(connection, batches)
            rows: list[tuple[int, bytes, int, int]] = []
            bodies: list[_BodyIds] = []
            for event, batch in zip(insert_events(connection, batches), batches, strict=True):
                rows += [(event, *row) for row in batch.rows]
                bodies.append((event, batch.ids))
            insert_rows(connection, "INSERT INTO arrived (event, runs, many, slow) VALUES ", rows)
        except BaseException:  # the caller rolls back and writes each batch alone
            self._quota.reserve(-expected_bytes)
            raise
        self._uncommitted += bodies
        self._new_snapshots |= snapshots
        self._writes += 1
        if self._writes % _WRITES_PER_CHECK == 0:
            self.update_first_event(connection)
            new_runs = sum(len(batch.ids) for batch in batches)
            self._limit_length(connection, 2 * _WRITES_PER_CHECK * new_runs)
        return [_NONE_REJECTED] * len(batches)

    def _insert_new_snapshots(
        self, connection: sqlite3.Connection, batches: Sequence[InboxBatch]
    ) -> set[str]:
        """Write the playbooks that are not in the file yet. Return their digests."""
        new = {
            digest: snapshot
            for batch in batches
            for digest, snapshot in batch.snapshots.items()
            if digest not in self._snapshots
        }
        insert_snapshots(connection, new)
        return set(new)

    def update_first_event(self, connection: sqlite3.Connection) -> None:
        """Look which runs have entered the queues, in this process or another."""
        self._first_event = _first_event(connection) or _next_event(connection)

    def _limit_length(self, connection: sqlite3.Connection, runs: int) -> None:
        """Move about this many runs to the queues if the inbox is too long."""
        (waiting,) = connection.execute(_WAITING_EVENTS).fetchone()
        if waiting is not None and waiting > MAX_WAITING_EVENTS:
            self.move_to_queues(connection, runs)

    def move_to_queues(self, connection: sqlite3.Connection, runs: int = MAX_ENTERING_RUNS) -> bool:
        """Move about this many runs to the target queues, oldest first. Return whether more may wait."""
        moved, count, last = [], 0, 0
        for row in connection.execute("SELECT id, event, runs, many FROM arrived ORDER BY id"):
            moved.append((row["event"], row["runs"]))
            count, last = count + row["many"], row["id"]
            if count >= runs:
                break
        if moved:
            insert_runs(connection, moved)
            connection.execute("DELETE FROM arrived WHERE id <= ?", (last,))
        return count >= runs


def _first_event(connection: sqlite3.Connection) -> int | None:
    """Return the number of the first event in the inbox, or None."""
    row = connection.execute("SELECT event FROM arrived ORDER BY id LIMIT 1").fetchone()
    return int(row["event"]) if row else None


def _next_event(connection: sqlite3.Connection) -> int:
    """Return a number that is higher than that of every event."""
    (number,) = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM events").fetchone()
    return int(number)


def insert_snapshots(connection: sqlite3.Connection, snapshots: Mapping[str, bytes]) -> None:
    """Write playbooks: digest -> snapshot."""
    insert_rows(connection, "INSERT OR IGNORE INTO snapshots VALUES ", [*snapshots.items()])


def insert_events(connection: sqlite3.Connection, batches: Sequence[InboxBatch]) -> Iterator[int]:
    """Write the events of batches. Return the number of the first event of each batch."""
    events = [event for batch in batches for event in batch.events]
    last = insert_rows(connection, "INSERT INTO events (body, received) VALUES ", events)
    first = last - len(events) + 1
    return accumulate((len(batch.events) for batch in batches[:-1]), initial=first)


def insert_runs(connection: sqlite3.Connection, rows: Sequence[tuple[int, bytes]]) -> None:
    """Put runs into the target queues, except those that are there already.

    rows: (number of the first event of the body, encoded entries).
    """
    entries = [(event, entry) for event, raw in rows for entry in decode_entries(raw)]
    known = _known(connection, [entry.id for _, entry in entries])
    new: dict[str, tuple[Any, ...]] = {}
    duplicates = set()
    for event, entry in entries:
        if entry.id in known or entry.id in new:
            duplicates.add(event + entry.event)
        else:
            new[entry.id] = _run_row(entry, event + entry.event)
    insert_rows(connection, _INSERT_RUNS, [*new.values()])
    retention.delete_unused_events(connection, duplicates)
    update_heads(connection, *{entry.target for _, entry in entries})


def insert_notification(
    connection: sqlite3.Connection, batch: InboxBatch, attempt_state: bytes, event: int | None
) -> None:
    """Put the run of a notification into its target queue, without a stay in the inbox.

    event: the number of its event if that is already in the journal. Otherwise the event of the batch is
    written.
    """
    insert_snapshots(connection, batch.snapshots)
    if event is None:
        (event,) = insert_events(connection, [batch])
    insert_runs(connection, [(event, batch.rows[0][0])])
    (entry,) = decode_entries(batch.rows[0][0])
    connection.execute("UPDATE runs SET facts = ? WHERE id = ?", (attempt_state, entry.id))


def _known(connection: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    """Return the ids that have a row in ``runs``."""
    found: set[str] = set()
    for some in in_slices(ids):
        marks = ", ".join("?" * len(some))
        rows = connection.execute(f"SELECT id FROM runs WHERE id IN ({marks})", some)  # noqa: S608 - only placeholders
        found |= {row["id"] for row in rows}
    return found


def _run_row(entry: InboxEntry, event: int) -> tuple[Any, ...]:
    """Return the values of a row of ``runs``. A run without steps is over."""
    row = (
        entry.id, entry.playbook, entry.digest, entry.blob, event, entry.target, entry.namespace,
        entry.received,
    )  # fmt: skip
    if entry.pool is None:
        over = (None, None, None, None, run_outcome(()), b"[]", entry.due_at, None)
        return (*row, *over, entry.revision)
    waits = (0, entry.pool, entry.timeout, entry.due_at, None, b"[]", None, "queued")
    return (*row, *waits, entry.revision)


def insert_rows(
    connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]
) -> int:
    """Insert rows with as few statements as possible. Return the number of the last row.

    The numbers of the rows are consecutive.
    """
    last = 0
    for some in in_slices(rows):
        values = [value for row in some for value in row]
        cursor = connection.execute(statement + placeholders(len(some), len(some[0])), values)
        last = cursor.lastrowid or 0
    return last
