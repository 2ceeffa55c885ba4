"""Accept batches: one transaction decides which runs are new and which may act, and writes them."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import time
import uuid
from functools import lru_cache
from typing import TYPE_CHECKING, Any, LiteralString

import msgspec

from engine.journal import codec
from engine.journal.postgres import arrays, windows
from engine.journal.postgres.arrays import BytesArray, FloatArray, IntArray, TextArray, UuidArray
from engine.journal.postgres.connection import index_key
from engine.journal.postgres.schema import day_of
from engine.model.errors import UnwritableError
from engine.model.event_subject import namespace_of
from engine.model.throttle_window import ThrottleUse, acquire

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from engine.journal.postgres.connection import Connection
    from engine.journal.records import AcceptBatch
    from engine.model.run import Run


_ACCEPT: LiteralString = f"SELECT accept_runs({', '.join(['%b'] * 19)}) AS new"
"""See engine.journal.postgres.arrival_functions. Returns the ids of the new runs, or NULL if all are new."""

PlaybookRow = tuple[bytes, bytes, bytes, bytes, bytes, bytes]
"""Name, digest, blob and revision of a playbook, and the pool and timeout of its first step, if it has one."""
RunRow = tuple[bytes, bytes, bytes, bytes, bytes, bytes, int, PlaybookRow]
"""Id, target, namespace, received, due_at and throttle, as elements of arrays; number of the event, playbook."""
_event_numbers = itertools.count()


class EncodedBatch(msgspec.Struct, frozen=True, eq=False):
    """An AcceptBatch, encoded for the tables.

    runs: by id. events: number of an event in this process -> encoded event. throttles: run id -> use.
    day: of its last run. attempt_states: run id -> encoded attempt state with which the run
    starts.
    """

    runs: dict[str, RunRow]
    events: dict[int, bytes]
    snapshots: dict[str, bytes]
    throttles: Mapping[str, ThrottleUse]
    throttle_windows: Mapping[str, Any]
    day: dt.date = dt.date.min
    attempt_states: Mapping[str, bytes] = msgspec.field(default_factory=dict)


class MergedBatches(msgspec.Struct, eq=False):
    """The batches of one transaction, and their values together.

    rejected: for each batch, run id -> why the run was not accepted. snapshots: those that may not be in the
    database.
    """

    batches: Sequence[EncodedBatch]
    rejected: list[dict[str, str]]
    rows: dict[str, RunRow] = msgspec.field(default_factory=dict)
    events: dict[int, bytes] = msgspec.field(default_factory=dict)
    snapshots: dict[str, bytes] = msgspec.field(default_factory=dict)
    throttles: dict[str, ThrottleUse] = msgspec.field(default_factory=dict)
    throttle_windows: dict[str, Any] = msgspec.field(default_factory=dict)
    attempt_states: dict[str, bytes] = msgspec.field(default_factory=dict)
    day: dt.date = dt.date.min

    @property
    def needs_transaction(self) -> bool:
        """Whether ``BatchWriter.write`` executes more than one statement."""
        return bool(self.throttles or self.throttle_windows or self.snapshots)


def encode_batch(
    accepted: AcceptBatch, now: float, attempt_states: Mapping[str, bytes] | None = None
) -> EncodedBatch:
    """Encode a batch in the thread of the caller. now: the time at which its runs are due.

    Raises UnwritableError.
    """
    numbers: dict[int, int] = {}
    events: dict[int, bytes] = {}
    runs: dict[str, RunRow] = {}
    snapshots = {}
    due = arrays.float8(now)
    last = 0.0
    try:
        for run in accepted.runs:
            last = max(last, run.received)
            event = numbers.get(id(run.event))
            if event is None:
                event = numbers[id(run.event)] = next(_event_numbers)
                events[event] = codec.from_event(run.event, run.trace)
            playbook = run.playbook
            snapshots[playbook.digest] = playbook.snapshot
            runs[run.id] = _run_row(run, accepted.throttles.get(run.id), due, event)
        day = day_of(last)
    except (ValueError, OverflowError) as error:
        raise UnwritableError(f"a run cannot be written: {error}") from error
    return EncodedBatch(
        runs,
        events,
        snapshots,
        accepted.throttles,
        accepted.throttle_windows,
        day,
        attempt_states or {},
    )


def _run_row(run: Run, use: ThrottleUse | None, due: bytes, event: int) -> RunRow:
    playbook = run.playbook
    step = playbook.steps[0] if playbook.steps else None
    first = (step.pool, step.timeout) if step else (None, 0.0)
    return (
        arrays.uuid(run.id), arrays.text(index_key(run.target)), arrays.text(namespace_of(run.event)),
        arrays.float8(run.received), due, arrays.text(index_key(use.key)) if use else arrays.NULL, event,
        _playbook_row(playbook.name, playbook.digest, playbook.blob, run.revision, *first),
    )  # fmt: skip


@lru_cache(1_000)
def _playbook_row(
    name: str, digest: str, blob: str, revision: str, pool: str | None, timeout: float
) -> PlaybookRow:
    """Encode the values that all runs of a version of a playbook have."""
    texts = (arrays.text(name), arrays.text(digest), arrays.text(blob), arrays.text(revision))
    return (*texts, arrays.text(pool), arrays.float8(timeout))


def _new_event_id() -> uuid.UUID:
    """Return a new uuid. Its first 48 bits are the time, so that the rows of an index page are of one time."""
    new = int(time.time() * 1e3).to_bytes(6, "big") + random.randbytes(10)  # noqa: S311 - no secret
    return uuid.UUID(bytes=new)


class BatchWriter:
    """Writes batches. known_snapshots: digests of the playbooks that are in the database."""

    def __init__(self) -> None:
        self._known_snapshots: set[str] = set()

    def merge(self, batches: Sequence[EncodedBatch]) -> MergedBatches:
        """Merge batches that are written in one transaction."""
        merged = MergedBatches(batches, [{} for _ in batches])
        rows, known = merged.rows, self._known_snapshots
        for why, batch in zip(merged.rejected, batches, strict=True):
            for id_, row in batch.runs.items():
                if rows.setdefault(id_, row) is not row:
                    why[id_] = "duplicate"
                elif id_ in batch.throttles:
                    merged.throttles[id_] = batch.throttles[id_]
            for digest in batch.snapshots:
                if digest not in known:
                    merged.snapshots[digest] = batch.snapshots[digest]
            merged.events.update(batch.events)
            if batch.throttle_windows:
                merged.throttle_windows.update(batch.throttle_windows)
            if batch.attempt_states:
                merged.attempt_states.update(batch.attempt_states)
            merged.day = max(merged.day, batch.day)
        return merged

    def write(self, connection: Connection, merged: MergedBatches) -> list[dict[str, str]]:
        """Write merged batches in the transaction of the connection, usually in one round trip.

        Returns for each batch the runs that were not accepted: id -> ``duplicate`` or ``throttle``.
        """
        rejected = _throttled(connection, merged.throttles) if merged.throttles else {}
        insert_snapshots(connection, merged.snapshots)
        for id_ in rejected:
            del merged.rows[id_]
        rejected |= dict.fromkeys(_insert(connection, merged), "duplicate")
        if rejected:
            for why, batch in zip(merged.rejected, merged.batches, strict=True):
                for id_ in batch.runs.keys() & rejected.keys() - why.keys():
                    why[id_] = rejected[id_]
        if merged.throttle_windows:
            windows.write(connection, "throttle_windows", merged.throttle_windows)
        return merged.rejected

    def connected(self) -> None:
        """Write the playbooks again. The server can be a standby that lacks the last commits of the primary."""
        self._known_snapshots.clear()

    def committed(self, merged: MergedBatches) -> None:
        """Remember the playbooks that are in the database now."""
        self._known_snapshots |= merged.snapshots.keys()


def write_batch(connection: Connection, batch: EncodedBatch) -> dict[str, str]:
    """Write one batch in the transaction of the connection. Return the runs it did not accept: id -> why."""
    writer = BatchWriter()
    return writer.write(connection, writer.merge([batch]))[0]


def _insert(connection: Connection, merged: MergedBatches) -> Collection[str]:
    """Write the runs that are new, in their order, and their events. Return the ids of the others.

    The day of all of them is that of the last one, because one row contains their events.
    """
    rows = merged.rows
    if not rows:
        return ()
    *columns, throttles, of_event, of_playbook = zip(*rows.values(), strict=True)
    ids, targets, namespaces, received, due = columns
    # the values of a playbook are sent once, and an event that several runs share too
    playbooks = {row: arrays.int4(n) for n, row in enumerate(dict.fromkeys(of_playbook), 1)}
    events = {event: arrays.int4(n) for n, event in enumerate(dict.fromkeys(of_event), 1)}
    bodies = [merged.events[event] for event in events]
    names, digests, blobs, revisions, pools, timeouts = zip(*playbooks, strict=True)
    states = merged.attempt_states
    row = connection.execute(_ACCEPT, (
        UuidArray(ids), TextArray(targets), TextArray(namespaces), FloatArray(received),
        FloatArray(due), TextArray(throttles),
        BytesArray([arrays.raw_bytes(states.get(id_)) for id_ in rows]) if states else None,
        IntArray([events[event] for event in of_event]),
        IntArray([playbooks[playbook] for playbook in of_playbook]),
        merged.day, _new_event_id(),
        IntArray([arrays.int4(len(body)) for body in bodies]), b"".join(bodies),
        TextArray(names), TextArray(digests), TextArray(blobs), TextArray(revisions),
        TextArray(pools), FloatArray(timeouts),
    )).fetchone()  # fmt: skip
    new = row["new"] if row else None
    return () if new is None else rows.keys() - {id_.hex for id_ in new}


def insert_finished(connection: Connection, run: Run, results: bytes, now: float) -> None:
    """Write a run, and its event, as a run that ended now as done, if it does not exist.

    results: its encoded results.
    """
    day, event, playbook = day_of(run.received), uuid.uuid4(), run.playbook
    new = connection.execute(
        "INSERT INTO run_ids VALUES (%s::uuid, %s) ON CONFLICT DO NOTHING", (run.id, day)
    )
    if not new.rowcount:
        return
    insert_snapshots(connection, {playbook.digest: playbook.snapshot})
    body = codec.from_event(run.event, run.trace)
    connection.execute("INSERT INTO events VALUES (%s, %s, %s)", (day, event, body))
    connection.execute(
        "INSERT INTO history (seq, id, playbook, digest, blob, day, event, event_start, event_length,"
        " target, namespace, received, results, outcome, settled, revision) VALUES (nextval('runs_seq'), %s,"
        " %s, %s, %s, %s, %s, 1, %s, %s, %s, %s, %s, 'done', %s, %s)",
        (
            run.id, playbook.name, playbook.digest, playbook.blob, day, event, len(body),
            index_key(run.target), namespace_of(run.event), run.received, results, now, run.revision,
        ),
    )  # fmt: skip


def insert_snapshots(connection: Connection, snapshots: Mapping[str, bytes]) -> None:
    """Write playbooks: digest -> snapshot."""
    if snapshots:
        connection.execute(
            "INSERT INTO snapshots SELECT * FROM unnest(%b::text[], %b::bytea[]) AS given (digest, snapshot)"
            " ORDER BY digest ON CONFLICT DO NOTHING",
            ([*snapshots], [*snapshots.values()]),
        )


def _throttled(connection: Connection, uses: Mapping[str, ThrottleUse]) -> dict[str, str]:
    """Use the throttles in the order of the runs. Return the runs that do not act: id -> why.

    The windows are locked before the ids are read. Two replicas that accept the same event therefore count it
    once.
    """
    found = windows.lock(connection, "throttle_windows", {use.key for use in uses.values()})
    rows = connection.execute(
        "SELECT id FROM run_ids WHERE id = ANY(%s::uuid[])", ([*uses],)
    ).fetchall()
    rejected = {row["id"].hex: "duplicate" for row in rows}
    changes: dict[str, Any] = {}
    for id_, use in uses.items():
        if id_ in rejected:
            continue
        changed, acts = acquire(found.get(use.key) or {}, use, id_)
        if changed is not None:
            found[use.key] = changes[use.key] = changed
        if not acts:
            rejected[id_] = "throttle"
    windows.write(connection, "throttle_windows", changes)
    return rejected
