"""Rows read: the connections that read, and the runs, claims and records that rows become again."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from engine.journal import codec
from engine.journal.codec import UnreadableError
from engine.journal.protocol import RunRecord
from engine.journal.sqlite import operator_commands, queries, undo_intents
from engine.model.errors import JournalError
from engine.model.run import Claim, Run, StepResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.model.calls import ObjectChange
    from engine.model.playbook import Playbook

THAWED = 256
"""Playbooks that are kept thawed."""


class Readers:
    """Connections that only read, as many as threads read at once; they see what is on disk.

    One is there from the start: while it is, SQLite keeps the write-ahead log and its index, which
    a full disk would not let the writer make again.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        first = connect()
        first.execute("SELECT 1 FROM runs").fetchone()
        self._idle = [first]
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """A connection for one reading. Raises JournalError: closed, or the file cannot be read."""
        with self._lock:
            if self._closed:
                raise JournalError("the journal is closed")
            connection = self._idle.pop() if self._idle else None
        try:
            connection = connection or self._connect()
            yield connection
        except sqlite3.Error as error:
            raise JournalError(f"the journal cannot be read: {error}") from error
        finally:
            if connection is not None:
                self._take_back(connection)

    def row(self, query: str, *parameters: Any) -> sqlite3.Row | None:
        """The first row of a query."""
        with self.lend() as connection:
            found: sqlite3.Row | None = connection.execute(query, parameters).fetchone()
        return found

    def close(self) -> None:
        """Close what is idle now, and the rest when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()


class Records:
    """Makes records of rows. Raises UnreadableError where this engine cannot, JournalError.

    thaw: makes a playbook of its snapshot; raises PlaybookError.
    """

    def __init__(self, readers: Readers, thaw: Callable[[bytes], Playbook]) -> None:
        self._readers = readers
        self._thaw = thaw
        self._playbook = lru_cache(maxsize=THAWED)(self._thawed)

    def claim(self, row: sqlite3.Row, now: float) -> Claim:
        """The claim that taking the run has made; the row is the one from before."""
        with codec.readable(row["id"]):
            return Claim(
                run=self.run(row),
                position=row["position"],
                attempt=row["attempt"] + 1,
                answers=row["answers"],
                began=now if row["began"] is None else row["began"],
                interrupted=bool(row["leased"]),
                attempt_state=codec.decode(row["facts"]),
                results=codec.to_results(row["results"]),
                fence=row["fence"] + 1,
                undo=row["id"] if row["undoes"] else None,
                changes=self._changes(row["id"]) if row["undoes"] else (),
            )

    def record(self, row: sqlite3.Row) -> RunRecord:
        """The run as it stands."""
        with codec.readable(row["id"]):
            run = self.run(row)
            results = codec.to_results(row["results"])
            if row["leased"] or row["last"] is not None:
                results += (_standing(run, row),)
            with self._readers.lend() as connection:
                undo = {
                    run.steps[position].name: due
                    for position, due in queries.undoings(connection, run.id).items()
                }
            decisions = operator_commands.decisions(codec.decode(row["facts"]))
        return RunRecord(
            run=run,
            results=results,
            position=row["position"],
            attempt=row["attempt"],
            due_at=row["due_at"],
            outcome=row["outcome"],
            undo=undo,
            decisions=decisions,
        )

    def run(self, row: sqlite3.Row) -> Run:
        """The run, with the playbook and the event that it was accepted with."""
        found = self._readers.row("SELECT body FROM events WHERE id = ?", row["event"])
        if found is None:
            raise UnreadableError("its event is gone")
        event, trace = codec.to_event(found["body"])
        return Run(
            id=row["undoes"] or row["id"],
            playbook=self._playbook(row["digest"], row["blob"]),
            event=event,
            received=row["received"],
            target=row["target"],
            trace=trace,
        )

    def _changes(self, undo: str) -> tuple[ObjectChange, ...]:
        with self._readers.lend() as connection:
            return undo_intents.changes(connection, undo)

    def _thawed(self, digest: str, blob: str) -> Playbook:
        found = self._readers.row("SELECT snapshot FROM snapshots WHERE digest = ?", digest)
        if found is None:
            raise UnreadableError("its playbook is gone")
        return replace(self._thaw(found["snapshot"]), blob=blob)  # no snapshot knows its file


def _standing(run: Run, row: sqlite3.Row) -> StepResult:
    """How the current step stands: what its last attempt said, and whether one is under way."""
    if row["last"] is None:
        last = StepResult(run.steps[row["position"]].name, "running")
    else:
        last = codec.to_result(codec.decode(row["last"]))
    state = "running" if row["leased"] else last.state
    return replace(last, state=state, attempts=row["attempt"])
