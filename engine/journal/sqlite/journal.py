"""The embedded journal: one SQLite file, owned by one engine.

The engine process owns the file. Its worker process opens it too (see engine.runtime.worker_channel).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine.journal.base import BaseJournal, failed_accept
from engine.journal.budget_cache import BudgetCache
from engine.journal.hydrate import Hydrator
from engine.journal.records import AcceptBatch
from engine.journal.sqlite import (
    claims,
    inbox,
    operator_commands,
    outcomes,
    queries,
    retention,
    saved_state,
    schema,
    undo_intents,
    windows,
)
from engine.journal.sqlite import (
    dry_run as dry_runs,
)
from engine.journal.sqlite.bloom_filter import short_id
from engine.journal.sqlite.checkpoint import Checkpointer
from engine.journal.sqlite.group_commit import GatherDelay, GroupCommitWriter
from engine.journal.sqlite.inbox import Inbox
from engine.journal.sqlite.inbox_rows import first_received, inbox_batch
from engine.journal.sqlite.quota import FULL, Quota
from engine.journal.sqlite.read_pool import ReadPool
from engine.journal.sqlite.storage import JournalFiles, max_journal_bytes
from engine.journal.sqlite.transaction import BatchItem
from engine.journal.sqlite.watchdog import Watchdog
from engine.journal.statements import Statements
from engine.model import json_codec
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from concurrent.futures import Future

    from engine.journal.settlements import ClaimKey, Settlement
    from engine.journal.undo_rules import UndoIntent
    from engine.model.playbook import Playbook, Pool
    from engine.model.run import Claim, Notice

T = TypeVar("T")
_STATEMENTS: Statements[sqlite3.Connection] = Statements(
    operator_commands, undo_intents, queries, saved_state, retention
)


class SqliteJournal(BaseJournal["sqlite3.Connection"]):
    """A journal in a SQLite file. See engine.journal.protocol for its methods.

    Args:
        path: of the file, which is created if it does not exist.
        playbook_from_snapshot: compiles a stored playbook. Raises PlaybookError if this engine cannot read it.
        lease_margin: seconds that a lease lasts beyond the timeout of its step.
        max_bytes: maximum size of the file; None to derive it from the size of the disk.
        worker_process: open the journal for the worker process of its owner, which has it open. Waits until
            an earlier worker process has ended.
        dry_run: claim no undos and none of the runs that a live engine accepted.

    Attributes:
        shared: False.
        postponed_runs: number of runs that wait until the dry run is over.

    Raises JournalError if the file cannot be opened or another process owns it.
    """

    shared = False

    def __init__(
        self,
        path: Path | str,
        playbook_from_snapshot: Callable[[bytes], Playbook],
        lease_margin: float = 10.0,
        max_bytes: int | None = None,
        *,
        worker_process: bool = False,
        dry_run: bool = False,
    ) -> None:
        path = Path(path).resolve()
        self._dry_run = dry_run
        self.postponed_runs = 0
        self._lease_margin = lease_margin
        self._lock = schema.lock_for_worker(path) if worker_process else schema.lock_for_owner(path)
        try:
            if not worker_process:
                schema.prepare(path)
            self._readers = ReadPool(partial(schema.connect, path, writes=False))
        except (JournalError, sqlite3.Error) as error:
            os.close(self._lock)
            raise JournalError(str(error)) from error
        self._quota = Quota(
            lambda: max_journal_bytes(path.parent) if max_bytes is None else max_bytes
        )
        self._inbox = Inbox(self._quota)
        self._known_filter = None
        if not worker_process:
            with self._readers.connection() as connection:
                self._quota.measure(connection)
                self._inbox.load(connection)
                self._known_filter = queries.known_filter(connection, self._inbox.ids)
        self._statements = _STATEMENTS
        self._hydrator = Hydrator(queries.RunLookups(self._readers), playbook_from_snapshot)
        connect = partial(schema.connect, path, writes=True, max_bytes=max_bytes)
        write_lock = schema.WriteLock(self._lock)
        self._sync = schema.WalSync(path)
        self._writer = GroupCommitWriter(
            connect,
            f"journal {path.name}",
            self._sync,
            self._inbox.transaction_ended,
            write_lock,
            gather_delay=GatherDelay() if worker_process else None,
        )
        # the worker process has no senders that could fail over, so it waits for a stalled disk
        self._watchdog = (
            None if worker_process else Watchdog(self._writer, JournalFiles(path, self._lock).error)
        )
        self._checkpointer = Checkpointer(connect, write_lock) if worker_process else None
        self._closing = threading.Lock()
        self._budget_lock = threading.Lock()
        self._budget_cache: BudgetCache | None = None
        if not worker_process:
            self._start_or_end_dry_run()

    # Queue

    def accept(self, accepted: AcceptBatch, now: float) -> Future[Mapping[str, str]]:
        """See Queue.accept. The batch is encoded in the thread of the caller."""
        try:
            batch = inbox_batch(accepted, now)
            # checked here, because a failure in the writer would make it write each other batch alone
            if not self._quota.fits(batch.expected_bytes):
                raise JournalError(FULL)
            item = BatchItem(self._inbox.write, batch)
            rows = windows.encode_rows(accepted.throttle_windows)
            if self._known_filter:
                self._known_filter.add(*batch.ids)
        except JournalError as error:
            return failed_accept(error)
        work = partial(windows.write_rows, table="throttle_windows", rows=rows) if rows else None
        return self._writer.submit_batched(item, work)

    def release_throttle(self, run: str) -> None:
        """See Queue.release_throttle. The caller has the windows of this journal."""

    def known(self, ids: Collection[str]) -> set[str]:
        """See Queue.known. Takes about 2 us for a new id, and 50 us for an id that may be known."""
        known_filter, waiting = self._known_filter, self._inbox.ids
        known = set()
        uncertain = []
        for id_ in ids:
            short = short_id(id_)
            if known_filter is not None and known_filter.is_new(short):
                continue
            if (
                short in waiting
            ):  # before the query, because a run moves from the inbox to the queues
                known.add(id_)
            else:
                uncertain.append(id_)
        if uncertain:
            with self._readers.connection() as connection:
                query = "SELECT 1 FROM runs WHERE id = ?"
                known |= {id_ for id_ in uncertain if connection.execute(query, (id_,)).fetchone()}
        return known

    def claim(self, pool: Pool, limit: int, now: float) -> list[Claim]:
        """See Queue.claim. A run whose row cannot be read ends as failed."""

        def work(connection: sqlite3.Connection) -> list[sqlite3.Row] | None:
            if not claims.queue_due_runs(connection, now):
                return None
            margin = self._lease_margin
            undo = pool == "cluster" and not self._dry_run
            rows = undo_intents.claim_due(connection, limit, now, margin) if undo else []
            rows += claims.claim_heads(connection, pool, limit - len(rows), now, margin)
            if len(rows) < limit and first_received(connection, pool) is not None:
                self._inbox.move_to_queues(connection)
                rows += claims.claim_heads(connection, pool, limit - len(rows), now, margin)
            return rows

        while (rows := self._writer.write(work)) is None:
            pass  # more runs are due; other jobs can run in between
        return self._claims(rows, now)

    def keep(
        self, claim: Claim, attempt_state: Mapping[str, Any], notice: Notice | None = None
    ) -> bool:
        """See Queue.keep."""
        json_codec.encode_json(attempt_state)
        key = self._key(claim)
        batch, notice_state, shares_event = None, b"", False
        if notice is not None:
            batch = inbox_batch(AcceptBatch([notice.run]), notice.run.received)
            notice_state = json_codec.encode_json(notice.attempt_state)
            # without a second copy of the event, the reserved bytes of the run cover the notification
            shares_event = (
                notice.run.event is claim.run.event and notice.run.trace == claim.run.trace
            )

        def work(connection: sqlite3.Connection) -> bool:
            written = claims.merge_attempt_state(connection, key, attempt_state)
            if written and batch:
                event = _event_of(connection, claim.run.id) if shares_event else None
                inbox.insert_notification(connection, batch, notice_state, event)
            return written

        return self._writer.write(work)

    def next_due(self, pool: Pool) -> float | None:
        """See Queue.next_due."""
        with self._readers.connection() as connection:
            waiting = first_received(connection, pool) is not None
        if waiting:
            self._writer.write(self._inbox.move_to_queues)
        with self._readers.connection() as connection:
            undo = pool == "cluster" and not self._dry_run
            return queries.next_due(connection, pool, undo=undo)

    # State

    def save_throttle_windows(self, changes: Mapping[str, Any]) -> None:
        """See State.save_throttle_windows."""
        self._write_rows("throttle_windows", changes)

    def save_offset(self, key: str, offset: Any) -> None:
        """See State.save_offset."""
        self._write_rows("offsets", {key: offset})

    # BudgetStore

    def budget_windows(self) -> Mapping[str, Any]:
        """See BudgetStore.budget_windows."""
        return self._budgets().budget_windows()

    def update_budgets(
        self,
        keys: Collection[str],
        decide: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], T]],
        now: float,
    ) -> T:
        """See BudgetStore.update_budgets. Answers from memory; only one of the two processes may call it."""
        return self._budgets().update_budgets(keys, decide, now)

    # Maintenance

    def delete_runs(self, before: float) -> int:
        """See Maintenance.delete_runs."""

        def work(connection: sqlite3.Connection) -> int:
            # so that the inbox forgets the ids of the deleted runs too
            self._inbox.update_first_event(connection)
            return retention.delete_runs(connection, before)

        return self._writer.write(work)

    def fill_ratio(self) -> float:
        """See Maintenance.fill_ratio."""
        with self._readers.connection() as connection:
            return self._quota.measure(connection)

    def write_error(self) -> str | None:
        """See Maintenance.write_error. After a failed write, tests again with a small write."""
        return self._writer.probe() or self._quota.error

    def close(self) -> None:
        """See Maintenance.close. The writer thread has ended and the file is unlocked on return."""
        with self._closing:
            if self._watchdog is not None:
                self._watchdog.close()
            self._writer.close()
            self._sync.close()
            if self._checkpointer is not None:
                self._checkpointer.close()
            self._readers.close()
            self._known_filter = None
            self._inbox.ids.clear()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def _write_rows(self, table: windows.Table, changes: Mapping[str, Any]) -> None:
        rows = windows.encode_rows(changes)
        self._writer.write(partial(windows.write_rows, table=table, rows=rows))

    def _budgets(self) -> BudgetCache:
        """Return the budget windows, which the first call reads from the file."""
        with self._budget_lock:
            if self._budget_cache is None:
                with self._readers.connection() as connection:
                    found = saved_state.windows(connection, "budget_windows")
                save = partial(self._write_rows, "budget_windows")
                self._budget_cache = BudgetCache(found, save)
            return self._budget_cache

    def _start_or_end_dry_run(self) -> None:
        """Postpone the runs of a live engine, or make the postponed runs due. Raises JournalError."""
        with self._readers.connection() as connection:
            was_dry_run = dry_runs.in_progress(connection)
        try:
            if self._dry_run:
                self._prepare_history()
                self.postponed_runs = self._writer.write(dry_runs.postpone_runs)
            elif was_dry_run:
                self._writer.write(dry_runs.end)
        except JournalError:
            self.close()
            raise

    def _prepare_history(self) -> None:
        """Move all accepted runs to the target queues, where readers look for them.

        If the journal cannot be written, readers see it as it is.
        """
        with self._readers.connection() as connection:
            waiting = first_received(connection) is not None
        with contextlib.suppress(JournalError):
            while waiting:
                waiting = self._writer.write(self._inbox.move_to_queues)

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._writer.write(work)

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        with self._readers.connection() as connection:
            return query(connection)

    def _begin_settle(self, settlement: Settlement) -> Callable[[], bool]:
        return self._writer.begin_batched(BatchItem(outcomes.settle, settlement)).result

    def _add_undo_intent(
        self, key: ClaimKey, intent: UndoIntent, attempt_state: Mapping[str, Any], now: float
    ) -> bool:
        addition = undo_intents.Addition(key, intent, attempt_state, now)
        return bool(self._writer.begin_batched(BatchItem(undo_intents.add, addition)).result())

    def _queue_key(self, target: str) -> str:
        return target


def _event_of(connection: sqlite3.Connection, run: str) -> int:
    (event,) = connection.execute("SELECT event FROM runs WHERE id = ?", (run,)).fetchone()
    return int(event)
