"""The file of the spool: write accepted runs, read them in their order, delete those that were forwarded.

The file is written as the journal in SQLite is: by one thread, in group commits, each with one fsync.
"""

from __future__ import annotations

import os
import sqlite3
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.journal import codec
from engine.journal.codec import UnreadableError
from engine.journal.hydrate import CACHED_PLAYBOOKS
from engine.journal.spool.schema import prepare
from engine.journal.sqlite import schema
from engine.journal.sqlite.group_commit import GroupCommitWriter
from engine.journal.sqlite.storage import JournalFiles, max_journal_bytes
from engine.journal.sqlite.watchdog import Watchdog
from engine.model import json_codec
from engine.model.errors import JournalError
from engine.model.run import Run
from engine.model.throttle_window import ThrottleUse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from engine.journal.records import AcceptBatch
    from engine.model.event import Event
    from engine.model.playbook import Playbook

MAX_BYTES = 1 << 30
"""Bytes of a spool: about 400,000 runs with an event of 1.5 KB each. A smaller disk lowers it."""
MAX_RUNS = 1_000_000
"""Runs in a spool."""
_RUN_BYTES = 1_024
"""Bytes that a run takes besides its event. Measured: 380, with the pages of its indexes."""
_MIN_FREE_BYTES = 65_536
"""Free bytes below which the spool counts as full: about forty events, or a large one."""
READ_RUNS, READ_BYTES = 500, 4 << 20
"""Runs, and bytes of their events, that are read at once."""


class SpooledRun(NamedTuple):
    """A run in the spool. number: its sequence number. throttle: decides whether the run acts.

    run: None if this engine cannot read it; then ``error`` says why. id, body: of the run and of its event.
    """

    number: int
    id: str
    body: bytes
    received: float
    run: Run | None
    throttle: ThrottleUse | None = None
    error: str = ""


class _Encoded(NamedTuple):
    """A batch, encoded for the tables. runs: (index of the event, values of the row)."""

    events: list[bytes]
    runs: list[tuple[int, tuple[Any, ...]]]
    snapshots: dict[str, bytes]
    expected_bytes: int


class SpoolFile:
    """The runs that wait for the shared journal. Thread-safe, but only one thread reads and deletes.

    Args:
        path: of the file, which is created if it does not exist.
        journal: the id of the shared journal; None if it does not answer yet.
        playbook_from_snapshot: compiles a stored playbook. Raises PlaybookError.
        max_bytes, max_runs: the bounds of the spool.

    Attributes:
        id: of this spool. journal: the id of its shared journal.
        runs: the number of runs.
        bytes: the approximate space that they take.
        last_error: why the last write failed, or None.

    Raises JournalError if the file cannot be used or another process has it open.
    """

    def __init__(
        self,
        path: Path,
        journal: str | None,
        playbook_from_snapshot: Callable[[bytes], Playbook],
        *,
        max_bytes: int | None = None,
        max_runs: int = MAX_RUNS,
    ) -> None:
        self.path = path = path.resolve()
        disk_bytes = max_journal_bytes(path.parent) // 2
        self._max_bytes = min(MAX_BYTES, disk_bytes) if max_bytes is None else max_bytes
        self._max_runs = max_runs
        self._compile = playbook_from_snapshot
        self._playbook = lru_cache(CACHED_PLAYBOOKS)(self._read_playbook)
        self._lock = schema.lock_for_owner(path, "spool")
        try:
            self.id, self.journal = prepare(path, journal)
            self._reader = schema.connect(path, writes=False)
            self.runs, self.bytes, self._synced = _measure(self._reader)
        except (JournalError, sqlite3.Error) as error:
            os.close(self._lock)
            raise JournalError(str(error)) from error
        self.last_error: str | None = None
        self._uncommitted = (0, 0)
        self._inserted = self._synced
        self._sync = schema.WalSync(path)
        # the bounds above are below the maximum of SQLite, so that rows can always be deleted
        connect = partial(schema.connect, path, writes=True, max_bytes=4 * MAX_BYTES)
        self._writer = GroupCommitWriter(
            connect, f"spool {path.name}", self._sync, self._transaction_ended
        )
        self._watchdog = Watchdog(
            self._writer, JournalFiles(path, self._lock).error, component="spool"
        )

    def write(self, accepted: AcceptBatch) -> Future[Mapping[str, str]]:
        """Write the runs of a batch. The future resolves with those that the spool has already, as duplicates.

        It fails with JournalError if none of the batch is on disk, for example because the spool is full.
        """
        written: Future[Mapping[str, str]] = Future()
        try:
            batch = _encode(accepted)
        except JournalError as error:
            written.set_exception(error)
            return written
        self._writer.submit(lambda connection: self._insert(connection, batch)).add_done_callback(
            partial(self._end_write, written)
        )
        return written

    def read(self, after: int = 0) -> list[SpooledRun]:
        """Return the oldest runs. after: the number of the last run to leave out. Raises JournalError.

        Only those that are on disk: the number of a run that was lost in a crash is used again, and the journal
        would take the new run for one that it has.
        """
        found: list[SpooledRun] = []
        events: dict[int, tuple[Event, str]] = {}
        size = 0
        try:
            rows = self._reader.execute(
                "SELECT runs.*, events.body FROM runs JOIN events ON events.id = runs.event"
                " WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
                (after, self._synced, READ_RUNS),
            )
            for row in rows:
                size += 0 if row["event"] in events else len(row["body"])
                found.append(self._read_run(row, events))
                if size >= READ_BYTES:
                    break
            rows.close()
        except sqlite3.Error as error:
            raise JournalError(f"the spool {self.path} cannot be read: {error}") from error
        return found

    def delete(self, last: int) -> None:
        """Delete the runs up to this number. They are gone from the disk on return. Raises JournalError."""
        try:
            self._writer.submit(partial(self._delete, last=last)).result()
        except JournalError as error:
            raise self._renamed(error) from error

    def write_error(self) -> str | None:
        """Return why runs cannot be written, or None. After a failure, test the disk again."""
        if self.last_error is not None:
            try:
                self._writer.submit(_probe).result()
            except JournalError as error:
                self.last_error = str(self._renamed(error))
            else:
                self.last_error = None
        return self.last_error

    def holds_after(self, number: int) -> bool:
        """Return whether there are runs after the run with this number."""
        return self.runs > 0 and self._synced > number

    def fill_ratio(self) -> float:
        """Return the used part of the spool, 0 to 1."""
        return min(1.0, max(self.runs / self._max_runs, self.bytes / self._max_bytes))

    def full(self) -> str | None:
        """Return the sentence that the spool is full, or None."""
        if self.runs < self._max_runs and self.bytes + _MIN_FREE_BYTES <= self._max_bytes:
            return None
        return self._full_sentence()

    def _full_sentence(self) -> str:
        return (
            f"the spool {self.path} is full ({self.runs:,} runs, {self.bytes >> 20:,} MiB): it empties when"
            " the database answers"
        )

    def close(self) -> None:
        """Close the file. The runs stay in it."""
        self._watchdog.close()
        self._writer.close()
        self._sync.close()
        self._reader.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _end_write(
        self, written: Future[Mapping[str, str]], done: Future[Mapping[str, str]]
    ) -> None:
        error = done.exception()
        if error is None:
            self.last_error = None
            written.set_result(done.result())
            return
        renamed = self._renamed(error)
        self.last_error = str(renamed)
        written.set_exception(renamed)

    def _insert(self, connection: sqlite3.Connection, batch: _Encoded) -> dict[str, str]:
        runs, size = (
            a + b for a, b in zip((self.runs, self.bytes), self._uncommitted, strict=True)
        )
        if runs + len(batch.runs) > self._max_runs or size + batch.expected_bytes > self._max_bytes:
            raise JournalError(self._full_sentence())
        connection.executemany(
            "INSERT OR IGNORE INTO snapshots VALUES (?, ?)", batch.snapshots.items()
        )
        first = 0
        for body in batch.events:
            first = (
                connection.execute("INSERT INTO events (body) VALUES (?)", (body,)).lastrowid or 0
            )
        first -= len(batch.events) - 1
        duplicates, new, last = {}, 0, self._inserted
        for index, row in batch.runs:
            inserted = connection.execute(
                "INSERT OR IGNORE INTO runs (id, digest, blob, received, target, revision, throttle, event)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, first + index),
            )
            new += inserted.rowcount
            if inserted.rowcount:
                last = inserted.lastrowid or last
            else:
                duplicates[row[0]] = "duplicate"
        self._inserted = last
        self._count(new, batch.expected_bytes)
        return duplicates

    def _delete(self, connection: sqlite3.Connection, last: int) -> None:
        runs = connection.execute("DELETE FROM runs WHERE seq <= ?", (last,)).rowcount
        (size,) = connection.execute(
            "SELECT coalesce(sum(length(body)), 0) FROM events"
            " WHERE id < coalesce((SELECT min(event) FROM runs), 9e18)"
        ).fetchone()
        connection.execute(
            "DELETE FROM events WHERE id < coalesce((SELECT min(event) FROM runs), 9e18)"
        )
        if not connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone():
            connection.execute("DELETE FROM snapshots")
            runs = (
                self.runs + self._uncommitted[0]
            )  # a failed sync can have left more than were counted
        self._count(-runs, -size - runs * _RUN_BYTES)

    def _count(self, runs: int, size: int) -> None:
        """Count the change of the transaction. Called in the writer thread."""
        self._uncommitted = self._uncommitted[0] + runs, self._uncommitted[1] + size

    def _transaction_ended(self, committed: bool) -> None:  # noqa: FBT001 - a callback of the writer
        (runs, size), self._uncommitted = self._uncommitted, (0, 0)
        if not committed:
            self._inserted = self._synced
        else:
            self._synced = self._inserted
            self.runs += runs
            self.bytes = max(0, self.bytes + size) if self.runs else 0

    def _read_run(self, row: sqlite3.Row, events: dict[int, tuple[Event, str]]) -> SpooledRun:
        number, id_, body, received = row["seq"], row["id"], row["body"], row["received"]
        try:
            with codec.readable(id_):
                if row["event"] not in events:  # runs of one event share it in the journal, too
                    events[row["event"]] = codec.to_event(body)
                event, trace = events[row["event"]]
                playbook = replace(self._playbook(row["digest"]), blob=row["blob"])
                run = Run(id_, playbook, event, received, row["target"], trace, row["revision"])
                return SpooledRun(number, id_, body, received, run, _throttle(row, playbook))
        except UnreadableError as error:
            return SpooledRun(number, id_, body, received, None, None, str(error))

    def _read_playbook(self, digest: str) -> Playbook:
        row = self._reader.execute(
            "SELECT snapshot FROM snapshots WHERE digest = ?", (digest,)
        ).fetchone()
        if row is None:
            raise ValueError("its playbook is not in the spool")
        return self._compile(row["snapshot"])

    def _renamed(self, error: BaseException) -> JournalError:
        """Return an error of the writer, which says `journal`, as one of the spool."""
        return JournalError(str(error).replace("the journal", f"the spool {self.path}", 1))


def _probe(connection: sqlite3.Connection) -> None:
    """Write and delete as many bytes as a large event has."""
    inserted = connection.execute(
        "INSERT INTO events (body) VALUES (zeroblob(?))", (_MIN_FREE_BYTES,)
    )
    connection.execute("DELETE FROM events WHERE id = ?", (inserted.lastrowid,))


def _throttle(row: sqlite3.Row, playbook: Playbook) -> ThrottleUse | None:
    if row["throttle"] is None or playbook.throttle is None:
        return None
    key, clock = codec.decode(row["throttle"])
    return ThrottleUse(key, playbook.throttle, clock)


def _encode(accepted: AcceptBatch) -> _Encoded:
    """Encode a batch in the thread of the caller."""
    indexes: dict[int, int] = {}
    events: list[bytes] = []
    runs = []
    for run in accepted.runs:
        index = indexes.setdefault(id(run.event), len(events))
        if index == len(events):
            events.append(codec.from_event(run.event, run.trace))
        use = accepted.throttles.get(run.id)
        throttle = json_codec.encode_json([use.key, use.clock]) if use else None
        playbook, target = run.playbook, run.target.encode("utf-8", "replace").decode()
        row = (
            run.id, playbook.digest, playbook.blob, run.received, target, run.revision, throttle,
        )  # fmt: skip
        runs.append((index, row))
    snapshots = {run.playbook.digest: run.playbook.snapshot for run in accepted.runs}
    return _Encoded(events, runs, snapshots, sum(map(len, events)) + _RUN_BYTES * len(runs))


def _measure(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Return how many runs there are, about how many bytes they take, and the number of the last one."""
    runs, last = connection.execute("SELECT count(*), coalesce(max(seq), 0) FROM runs").fetchone()
    (size,) = connection.execute("SELECT coalesce(sum(length(body)), 0) FROM events").fetchone()
    return runs, size + runs * _RUN_BYTES, last
