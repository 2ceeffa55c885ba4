"""Accept batches: one transaction decides which runs are new and which may act, and writes them."""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING, Any, LiteralString

import msgspec

from engine.journal import codec
from engine.journal.postgres import windows
from engine.journal.postgres.connection import index_key
from engine.journal.postgres.schema import day_of
from engine.model.event_subject import namespace_of
from engine.model.run import run_outcome
from engine.model.throttle_window import ThrottleUse, acquire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.journal.postgres.connection import Connection
    from engine.journal.records import AcceptBatch
    from engine.model.run import Run

_RUN: LiteralString = (
    "id, playbook, digest, blob, day, event, target, namespace, received, state, position, pool, timeout,"
    " due_at, outcome, settled, revision, throttle"
)
_ACCEPT: LiteralString = (
    f"WITH given AS (SELECT * FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::date[],"
    " %b::uuid[], %b::text[], %b::text[], %b::float8[], %b::text[], %b::int[], %b::text[], %b::float8[],"
    f" %b::float8[], %b::text[], %b::float8[], %b::text[], %b::text[]) WITH ORDINALITY"
    f" AS given ({_RUN}, place)),"
    # in one order, so that two batches never deadlock
    " new AS (INSERT INTO run_ids SELECT id, day FROM given ORDER BY id ON CONFLICT DO NOTHING RETURNING id),"
    " accepted AS (SELECT * FROM given WHERE id IN (SELECT id FROM new)),"
    " written AS (INSERT INTO events SELECT * FROM unnest(%b::date[], %b::uuid[], %b::bytea[])"
    " AS event (day, id, body) WHERE event.id IN (SELECT event FROM accepted)),"
    f" waiting AS (INSERT INTO runs ({_RUN}) SELECT {_RUN} FROM accepted WHERE state IS NOT NULL"
    " ORDER BY place),"
    f" over AS (INSERT INTO history (seq, {_RUN}) SELECT nextval('runs_seq'), {_RUN} FROM accepted"
    " WHERE state IS NULL ORDER BY place)"
    " SELECT id FROM new"
)
"""Write the runs that are new, in their order, with their events. Returns the ids of the new runs."""


_EVENT = 5
"""Index of the column ``event``."""


class EncodedBatch(msgspec.Struct, frozen=True, eq=False):
    """An AcceptBatch, encoded for the tables.

    runs: id -> row of ``runs``. events: id of an event -> (day, encoded event). throttles: run id -> use.
    """

    runs: dict[str, tuple[Any, ...]]
    events: dict[uuid.UUID, tuple[Any, bytes]]
    snapshots: dict[str, bytes]
    throttles: Mapping[str, ThrottleUse]
    throttle_windows: Mapping[str, Any]


def encode_batch(accepted: AcceptBatch, now: float) -> EncodedBatch:
    """Encode a batch in the thread of the caller. now: the time at which its runs are due."""
    numbers: dict[int, uuid.UUID] = {}
    events: dict[uuid.UUID, tuple[Any, bytes]] = {}
    runs: dict[str, tuple[Any, ...]] = {}
    snapshots = {}
    for run in accepted.runs:
        number = numbers.setdefault(id(run.event), _event_id())
        if number not in events:
            events[number] = day_of(run.received), codec.from_event(run.event, run.trace)
        snapshots[run.playbook.digest] = run.playbook.snapshot
        use = accepted.throttles.get(run.id)
        runs.setdefault(run.id, _run_row(run, number, now, use and index_key(use.key)))
    return EncodedBatch(runs, events, snapshots, accepted.throttles, accepted.throttle_windows)


def _event_id() -> uuid.UUID:
    """Return a new id. Its first 48 bits are the time, so that the rows of an index page are of one time."""
    return uuid.UUID(bytes=int(time.time() * 1e3).to_bytes(6, "big") + os.urandom(10))


def _run_row(run: Run, event: uuid.UUID, now: float, throttle: str | None) -> tuple[Any, ...]:
    """Return a row in the order of ``_RUN``. A run without steps is over."""
    playbook = run.playbook
    row = (
        run.id, playbook.name, playbook.digest, playbook.blob, day_of(run.received), event,
        index_key(run.target), namespace_of(run.event), run.received,
    )  # fmt: skip
    if not playbook.steps:
        over = (None, None, None, None, None, run_outcome(()), now)
        return (*row, *over, run.revision, throttle)
    step = playbook.steps[0]
    waits = ("new", 0, step.pool, step.timeout, now, None, None)
    return (*row, *waits, run.revision, throttle)


class BatchWriter:
    """Writes batches. known_snapshots: digests of the playbooks that are in the database."""

    def __init__(self) -> None:
        self._known_snapshots: set[str] = set()

    def needs_transaction(self, batches: Sequence[EncodedBatch]) -> bool:
        """Return whether ``write`` executes more than one statement."""
        return any(
            batch.throttles
            or batch.throttle_windows
            or batch.snapshots.keys() - self._known_snapshots
            for batch in batches
        )

    def write(
        self, connection: Connection, batches: Sequence[EncodedBatch]
    ) -> list[dict[str, str]]:
        """Write batches in the transaction of the connection, usually in one round trip.

        Returns for each batch the runs that were not accepted: id -> ``duplicate`` or ``throttle``.
        """
        rejected: list[dict[str, str]] = [{} for _ in batches]
        first: dict[str, int] = {}
        for number, batch in enumerate(batches):
            for id_ in batch.runs:
                if first.setdefault(id_, number) != number:
                    rejected[number][id_] = "duplicate"
        uses = {
            id_: batches[number].throttles[id_]
            for id_, number in first.items()
            if id_ in batches[number].throttles
        }
        throttled = _throttled(connection, uses) if uses else {}
        snapshots = {digest: b for batch in batches for digest, b in batch.snapshots.items()}
        insert_snapshots(
            connection, {d: s for d, s in snapshots.items() if d not in self._known_snapshots}
        )
        rows = {
            id_: batches[number].runs[id_] for id_, number in first.items() if id_ not in throttled
        }
        new = _insert(connection, batches, rows)
        for id_ in rows.keys() - new:
            rejected[first[id_]][id_] = "duplicate"
        for id_, why in throttled.items():
            rejected[first[id_]][id_] = why
        changes = {
            key: window for batch in batches for key, window in batch.throttle_windows.items()
        }
        windows.write(connection, "throttle_windows", changes)
        return rejected

    def committed(self, batches: Sequence[EncodedBatch]) -> None:
        """Remember the playbooks that are in the database now."""
        self._known_snapshots |= {digest for batch in batches for digest in batch.snapshots}


def _insert(
    connection: Connection, batches: Sequence[EncodedBatch], rows: Mapping[str, tuple[Any, ...]]
) -> set[str]:
    """Write the runs that are new and their events. Return the ids of these runs."""
    if not rows:
        return set()
    events = {event: found for batch in batches for event, found in batch.events.items()}
    used = {row[_EVENT] for row in rows.values()}
    days, bodies = zip(*(events[event] for event in used), strict=True)
    columns = [[*column] for column in zip(*rows.values(), strict=True)]
    found = connection.execute(_ACCEPT, [*columns, [*days], [*used], [*bodies]])
    return {row["id"] for row in found.fetchall()}


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
    rows = connection.execute("SELECT id FROM run_ids WHERE id = ANY(%s)", ([*uses],)).fetchall()
    rejected = {row["id"]: "duplicate" for row in rows}
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
