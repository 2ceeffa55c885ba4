"""Accept batches: one transaction decides which runs are new and which may act, and writes them."""

from __future__ import annotations

import random
import time
import uuid
from functools import lru_cache
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

import msgspec

from engine.journal import codec
from engine.journal.postgres import arrays, windows
from engine.journal.postgres.arrays import JsonList, UuidArray
from engine.journal.postgres.connection import index_key
from engine.journal.postgres.schema import day_of
from engine.model.errors import UnwritableError
from engine.model.event_subject import namespace_of
from engine.model.json_codec import encode_json
from engine.model.throttle_window import ThrottleUse, acquire

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from engine.journal.postgres.connection import Connection
    from engine.journal.records import AcceptBatch
    from engine.model.run import Run


_ACCEPT: LiteralString = "SELECT accept_runs(%b, %b, %b, %b, %b, %b) AS new"
"""See engine.journal.postgres.arrival_functions. Returns the ids of the new runs, or NULL if all are new."""


class PlaybookRow(NamedTuple):
    """A version of a playbook, which many runs share. row: its row in ``arrived.playbooks``."""

    digest: str
    snapshot: bytes
    row: bytes


class RunRow(NamedTuple):
    """An encoded run.

    id: as an element of an array. row: the end of its row in ``arrived.runs``, after the numbers. event:
    encoded; the runs of one event have the same object.
    """

    id: bytes
    row: bytes
    event: bytes
    playbook: PlaybookRow


class EncodedBatch(msgspec.Struct, frozen=True, eq=False):
    """An AcceptBatch, encoded for the tables.

    runs: by id. throttles: run id -> use. received: when its last run was received, epoch seconds.
    """

    runs: dict[str, RunRow]
    throttles: Mapping[str, ThrottleUse]
    throttle_windows: Mapping[str, Any]
    received: float = 0.0


class MergedBatches(msgspec.Struct, eq=False):
    """The batches of one transaction, and their values together.

    rejected: for each batch, run id -> why the run was not accepted. snapshots: those that may not be in the
    database.
    """

    batches: Sequence[EncodedBatch]
    rejected: list[dict[str, str]]
    rows: dict[str, RunRow] = msgspec.field(default_factory=dict)
    snapshots: dict[str, bytes] = msgspec.field(default_factory=dict)
    throttles: dict[str, ThrottleUse] = msgspec.field(default_factory=dict)
    throttle_windows: dict[str, Any] = msgspec.field(default_factory=dict)
    received: float = 0.0

    @property
    def needs_transaction(self) -> bool:
        """Whether ``BatchWriter.write`` executes more than one statement."""
        return bool(self.throttles or self.throttle_windows or self.snapshots)


def encode_batch(
    accepted: AcceptBatch, now: float, attempt_states: Mapping[str, bytes] | None = None
) -> EncodedBatch:
    """Encode a batch in the thread of the caller.

    now: the time at which its runs are due. attempt_states: run id -> encoded attempt state with which the run
    starts. Raises UnwritableError.
    """
    states = attempt_states or {}
    events: dict[int, bytes] = {}
    runs: dict[str, RunRow] = {}
    received = 0.0
    try:
        for run in accepted.runs:
            received = max(received, run.received)
            event = events.get(id(run.event))
            if event is None:
                event = events[id(run.event)] = codec.from_event(run.event, run.trace)
            use, playbook = accepted.throttles.get(run.id), run.playbook
            first = playbook.steps[0] if playbook.steps else None
            row = (
                run.id, index_key(run.target), _key(namespace_of(run.event)), run.received, now,
                index_key(use.key) if use else None, states[run.id].hex() if states else None,
            )  # fmt: skip
            runs[run.id] = RunRow(
                arrays.uuid(run.id), encode_json(row)[1:], event,
                _playbook_row(
                    playbook.name, playbook.digest, playbook.snapshot, playbook.blob, run.revision,
                    (first.pool, first.timeout) if first else (None, 0.0),
                ),
            )  # fmt: skip
        day_of(received)
    except (ValueError, OverflowError) as error:
        raise UnwritableError(f"a run cannot be written: {error}") from error
    return EncodedBatch(runs, accepted.throttles, accepted.throttle_windows, received)


def _key(text: str | None) -> str | None:
    return None if text is None else index_key(text)


@lru_cache(1_000)
def _playbook_row(
    name: str,
    digest: str,
    snapshot: bytes,
    blob: str,
    revision: str,
    step: tuple[str | None, float],
) -> PlaybookRow:
    """Encode what all runs of a version of a playbook have. step: pool and timeout of the first step."""
    texts = (text.replace("\0", "\ufffd") for text in (name, digest, blob, revision))
    return PlaybookRow(digest, snapshot, encode_json((*texts, *step)))


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
        rows = merged.rows
        for why, batch in zip(merged.rejected, batches, strict=True):
            for id_, row in batch.runs.items():
                if rows.setdefault(id_, row) is not row:
                    why[id_] = "duplicate"
                elif id_ in batch.throttles:
                    merged.throttles[id_] = batch.throttles[id_]
            if batch.throttle_windows:
                merged.throttle_windows.update(batch.throttle_windows)
            merged.received = max(merged.received, batch.received)
        for playbook in {row.playbook for row in rows.values()}:
            if playbook.digest not in self._known_snapshots:
                merged.snapshots[playbook.digest] = playbook.snapshot
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
    if not merged.rows:
        return ()
    rows: list[bytes] = []
    events: dict[int, tuple[int, bytes]] = {}
    playbooks: dict[PlaybookRow, int] = {}
    end = 1  # PostgreSQL counts bytes from 1
    for _, row, event, playbook in merged.rows.values():
        start, _ = events.setdefault(id(event), (end, event))
        if start == end:
            end += len(event)
        number = playbooks.setdefault(playbook, len(playbooks))
        rows.append(b"[%d,%d,%d,%b" % (start, len(event), number, row))
    found = connection.execute(_ACCEPT, (
        UuidArray([row.id for row in merged.rows.values()]), JsonList(rows),
        JsonList([playbook.row for playbook in playbooks]), day_of(merged.received), _new_event_id(),
        b"".join([event for _, event in events.values()]),
    )).fetchone()  # fmt: skip
    new = found["new"] if found else None
    return () if new is None else merged.rows.keys() - {id_.hex for id_ in new}


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
            index_key(run.target), _key(namespace_of(run.event)), run.received, results, now, run.revision,
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
