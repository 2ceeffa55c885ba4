"""The rows of the inbox: encode accepted runs, and query what waits.

``inbox_batch`` runs in the thread of the caller, so that the writer thread only executes statements.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import msgspec

from engine.journal import codec
from engine.journal.sqlite.bloom_filter import short_id
from engine.model import json_codec
from engine.model.event_subject import namespace_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from engine.journal.records import AcceptBatch
    from engine.model.playbook import Playbook

RUNS_PER_ROW = 50
"""Runs in one row of the inbox. A body can have thousands of runs."""
ENTRY_BYTES = 512
"""Bytes of a run in the inbox. Measured: 225."""
RESERVED_BYTES = 3_072
"""Bytes that an unfinished run can still need, including the run of one ``onHeld`` notification.

Measured: 80 when the run leaves the inbox; 170 with a result of 60 characters; 1,300 for a label that can be
undone (call, undo and undo intent); more for a network policy. A notification needs about 700, because it shares
the event of its run.
"""

_FIRST_RECEIVED = (
    "SELECT received FROM arrived JOIN events ON events.id = arrived.event"
    " WHERE arrived.id = (SELECT min(id) FROM arrived)"
)
_FIRST_SLOW_RECEIVED = _FIRST_RECEIVED.replace(
    "arrived)", "arrived INDEXED BY arrived_slow WHERE slow)"
)


class InboxEntry(msgspec.Struct, array_like=True, frozen=True):
    """A run in the inbox.

    event: index of its event within the body. pool, timeout: of the first step; None without steps.
    revision: the last element, because an entry of an older engine does not have it.
    """

    id: str
    event: int
    playbook: str
    digest: str
    blob: str
    target: str
    namespace: str | None
    received: float
    due_at: float
    pool: str | None
    timeout: float | None
    revision: str = ""


class InboxBatch(msgspec.Struct, frozen=True, eq=False):
    """An AcceptBatch, encoded for the inbox.

    events: (encoded event, time of receipt). ids: the short ids of the runs. rows: (encoded entries, number of
    entries, whether one is of the slow pool). snapshots: digest -> playbook. expected_bytes: bytes that the
    batch can need until all of its runs are over.

    A struct, because every accept creates one and a frozen dataclass is slower.
    """

    events: list[tuple[bytes, float]]
    ids: array[int]
    rows: list[tuple[bytes, int, int]]
    snapshots: dict[str, bytes]
    expected_bytes: int


decode_entries = msgspec.json.Decoder(list[InboxEntry]).decode
"""Decode the entries of a row."""


def inbox_batch(accepted: AcceptBatch, now: float) -> InboxBatch:
    """Encode a batch. now: the time at which its runs are due."""
    indexes: dict[int, int] = {}
    events: list[tuple[bytes, float]] = []
    snapshots = {}
    entries = []
    for run in accepted.runs:
        index = indexes.setdefault(id(run.event), len(events))
        if index == len(events):
            events.append((codec.from_event(run.event, run.trace), run.received))
        playbook = run.playbook
        snapshots[playbook.digest] = playbook.snapshot
        pool, timeout = _first_step(playbook)
        namespace = namespace_of(run.event)
        entries.append(
            InboxEntry(
                run.id, index, playbook.name, playbook.digest, playbook.blob, run.target, namespace,
                run.received, now, pool, timeout, run.revision,
            )
        )  # fmt: skip
    parts = [entries[at : at + RUNS_PER_ROW] for at in range(0, len(entries), RUNS_PER_ROW)]
    return InboxBatch(
        events,
        array("Q", [short_id(entry.id) for entry in entries]),
        [(json_codec.encode_json(p), len(p), int(any(e.pool == "slow" for e in p))) for p in parts],
        snapshots,
        _expected_bytes(events, len(entries)),
    )


def first_received(connection: sqlite3.Connection, pool: str | None = None) -> float | None:
    """Return the time of receipt of the first run in the inbox that may be of the pool, or None."""
    query = _FIRST_SLOW_RECEIVED if pool == "slow" else _FIRST_RECEIVED
    row = connection.execute(query).fetchone()
    return float(row["received"]) if row else None


def count_runs(connection: sqlite3.Connection) -> int:
    """Return the number of runs in the inbox."""
    (runs,) = connection.execute("SELECT coalesce(sum(many), 0) FROM arrived").fetchone()
    return int(runs)


def _expected_bytes(events: Sequence[tuple[bytes, float]], runs: int) -> int:
    # an event can be alone on a page and fill only half of it
    return 2 * sum(len(event) for event, _ in events) + (ENTRY_BYTES + RESERVED_BYTES) * runs


def _first_step(playbook: Playbook) -> tuple[str | None, float | None]:
    step = playbook.steps[0] if playbook.steps else None
    return (step.pool, step.timeout) if step else (None, None)
