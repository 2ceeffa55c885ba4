"""The embedded journal: one SQLite file, owned by one engine.

The engine process owns the file. Its worker process opens it too (see engine.runtime.worker_channel).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine.journal import codec
from engine.journal.budget_cache import BudgetCache
from engine.journal.codec import UnreadableError
from engine.journal.hydrate import Hydrator
from engine.journal.records import AcceptBatch, Pause, SavedSet
from engine.journal.sqlite import (
    claims,
    inbox,
    operator_commands,
    outcomes,
    queries,
    retention,
    schema,
    undo_intents,
    windows,
)
from engine.journal.sqlite import (
    dry_run as dry_runs,
)
from engine.journal.sqlite.bloom_filter import short_id
from engine.journal.sqlite.checkpoint import Checkpointer
from engine.journal.sqlite.claims import ClaimKey
from engine.journal.sqlite.group_commit import GatherDelay, GroupCommitWriter
from engine.journal.sqlite.inbox import Inbox
from engine.journal.sqlite.inbox_rows import first_received, inbox_batch
from engine.journal.sqlite.quota import FULL, Quota
from engine.journal.sqlite.read_pool import ReadPool
from engine.journal.sqlite.storage import JournalFiles, max_journal_bytes
from engine.journal.sqlite.transaction import BatchItem
from engine.journal.sqlite.undo_intents import UndoIntent
from engine.journal.sqlite.watchdog import Watchdog
from engine.model import json_codec
from engine.model.errors import JournalError
from engine.model.playbook import ALL_PLAYBOOKS
from engine.model.run import Claim, Outcome, StepResult, advance, run_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from engine.journal.records import (
        ChangeInForce,
        DeadLetter,
        Decision,
        DecisionResult,
        DroppedRuns,
        RunFilter,
        RunRecord,
    )
    from engine.journal.sqlite.outcomes import Settlement
    from engine.model.calls import ObjectChange
    from engine.model.playbook import Playbook, Pool
    from engine.model.run import Notice, Run

T = TypeVar("T")


class SqliteJournal:
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
            failed: Future[Mapping[str, str]] = Future()
            failed.set_exception(error)
            return failed
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

        while (rows := self._writer.submit(work).result()) is None:
            pass  # more runs are due; other jobs can run in between
        claimed = []
        for row in rows:
            try:
                claimed.append(self._hydrator.claim(row, now))
            except UnreadableError as error:
                self._end_unreadable(row, str(error), now)
        return claimed

    def keep(
        self, claim: Claim, attempt_state: Mapping[str, Any], notice: Notice | None = None
    ) -> bool:
        """See Queue.keep."""
        json_codec.encode_json(attempt_state)
        batch, notice_state, shares_event = None, b"", False
        if notice is not None:
            batch = inbox_batch(AcceptBatch([notice.run]), notice.run.received)
            notice_state = json_codec.encode_json(notice.attempt_state)
            # without a second copy of the event, the reserved bytes of the run cover the notification
            shares_event = (
                notice.run.event is claim.run.event and notice.run.trace == claim.run.trace
            )

        def work(connection: sqlite3.Connection) -> bool:
            stored = connection.execute(
                "SELECT facts, event FROM runs WHERE id = ?", (claim.run.id,)
            ).fetchone()
            if stored is None:
                return False
            merged = json_codec.encode_json({**codec.decode(stored["facts"]), **attempt_state})
            written = claims.write_attempt_state(connection, _key(claim), merged)
            if written and batch:
                event = stored["event"] if shares_event else None
                inbox.insert_notification(connection, batch, notice_state, event)
            return written

        return self._writer.submit(work).result()

    def settle(self, claim: Claim, outcome: Outcome, now: float) -> str | None:
        """See Queue.settle."""
        key = _key(claim)
        if outcome.retry_in is not None:
            last = json_codec.encode_json(codec.attempted(claim, outcome))
            waits = outcomes.wait(key, now + outcome.retry_in, last, outcome)
            return "waiting" if self._settle(waits) else None
        if claim.undo:
            work = partial(
                undo_intents.settle,
                key=key,
                step=claim.step.name,
                outcome=(outcome.state, outcome.message),
                now=now,
            )
            return outcome.state if self._writer.submit(work).result() else None
        results, position = advance(claim, outcome)
        raw = codec.from_results(results)
        if position is None:
            over = run_outcome(results)
            return over if self._settle(outcomes.end(key, over, raw, now)) else None
        to = (position, claim.run.steps[position])
        return "next" if self._settle(outcomes.advance(key, to, raw, now)) else None

    def next_due(self, pool: Pool) -> float | None:
        """See Queue.next_due."""
        with self._readers.connection() as connection:
            waiting = first_received(connection, pool) is not None
        if waiting:
            self._writer.submit(self._inbox.move_to_queues).result()
        with self._readers.connection() as connection:
            undo = pool == "cluster" and not self._dry_run
            return queries.next_due(connection, pool, undo=undo)

    # UndoLog

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        attempt_state: Mapping[str, Any],
    ) -> bool:
        """See UndoLog.add_undo_intent."""
        work = partial(
            undo_intents.add,
            key=_key(claim),
            intent=UndoIntent(claim.run.id, claim.step.name, claim.position, changes, until),
            attempt_state=attempt_state,
            now=claim.run.received,
        )
        return self._writer.submit(work).result()

    def undo_times(self, key: str, exclude: str | None = None) -> list[float | None]:
        """See UndoLog.undo_times."""
        with self._readers.connection() as connection:
            return undo_intents.undo_times(connection, key, exclude)

    def adopt(
        self,
        run: Run,
        step: str,
        changes: Sequence[ObjectChange],
        until: float | None,
        *,
        now: float,
    ) -> bool:
        """See UndoLog.adopt."""
        position = [one.name for one in run.steps].index(step)
        done = StepResult(step, "done", "found in the cluster, and taken over")
        work = partial(
            undo_intents.adopt,
            intent=UndoIntent(run.id, step, position, changes, until),
            batch=inbox_batch(AcceptBatch([run]), run.received),
            results=codec.from_results([done]),
            now=now,
        )
        return self._writer.submit(work).result()

    # OperatorCommands

    def decide(self, run_id: str, decision: Decision, approvals: int = 1) -> DecisionResult | None:
        """See OperatorCommands.decide."""
        work = partial(
            operator_commands.decide, run_id=run_id, decision=decision, approvals=approvals
        )
        return self._writer.submit(work).result()

    def retry(self, run_id: str, position: int, decision: Decision) -> bool:
        """See OperatorCommands.retry."""
        record = self.find(run_id)
        if record is None or record.outcome is None or not record.run.steps:
            return False
        again = operator_commands.Retry(
            run_id, position, record.run.steps[position], record.results[:position]
        )
        work = partial(operator_commands.retry, again=again, decision=decision)
        return self._writer.submit(work).result()

    def undo(self, run_id: str, decision: Decision) -> list[str]:
        """See OperatorCommands.undo."""
        record = self.find(run_id)
        if record is None:
            return []

        def work(connection: sqlite3.Connection) -> list[str]:
            positions = undo_intents.make_due(connection, run_id, decision.at)
            steps = [record.run.steps[position].name for position in positions]
            if steps:
                with_steps = replace(decision, step=", ".join(steps))
                operator_commands.add_decision(connection, run_id, with_steps)
            return steps

        return self._writer.submit(work).result()

    def pause(self, playbook: str | None, pause: Pause) -> None:
        """See OperatorCommands.pause."""
        name = ALL_PLAYBOOKS if playbook is None else playbook
        self._writer.submit(partial(operator_commands.pause, playbook=name, pause=pause)).result()

    def resume(self, playbook: str | None) -> None:
        """See OperatorCommands.resume."""
        self._writer.submit(partial(operator_commands.resume, playbook=playbook)).result()

    def end_pauses(self, now: float) -> list[str]:
        """See OperatorCommands.end_pauses."""
        return self._writer.submit(partial(operator_commands.end_pauses, now=now)).result()

    # History

    def find(self, run_id: str) -> RunRecord | None:
        """See History.find. Raises UnreadableError if this engine cannot read the run."""
        self._empty_inbox()
        row = self._readers.row("SELECT * FROM runs WHERE id = ?", run_id)
        return None if row is None else self._hydrator.record(row)

    def find_ids(self, prefix: str) -> list[str]:
        """See History.find_ids."""
        self._empty_inbox()
        with self._readers.connection() as connection:
            found = connection.execute(
                "SELECT id FROM runs WHERE id >= ? AND id < ? AND undoes IS NULL LIMIT 3",
                (prefix, prefix + "g"),
            ).fetchall()
        return [row["id"] for row in found]

    def counts(self) -> dict[str, int]:
        """See History.counts. Reads whole indexes: about 20 ms for a million runs."""
        with self._readers.connection() as connection:
            return queries.counts(connection)

    def runs(self, wanted: RunFilter) -> list[RunRecord]:
        """See History.runs. Leaves out the runs that this engine cannot read."""
        self._empty_inbox()
        with self._readers.connection() as connection:
            found = queries.select_runs(connection, wanted)
        records = []
        for row in found:
            with contextlib.suppress(UnreadableError):
                records.append(self._hydrator.record(row))
        return records

    def in_force(self) -> list[ChangeInForce]:
        """See History.in_force."""
        with self._readers.connection() as connection:
            found = undo_intents.in_force(connection)
        return [self._hydrator.change_in_force(row) for row in found]

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """See History.dead_letters."""
        with self._readers.connection() as connection:
            return retention.dead_letters(connection, limit)

    def dropped_runs(self, wanted: RunFilter) -> list[DroppedRuns]:
        """See History.dropped_runs."""
        with self._readers.connection() as connection:
            return retention.dropped_runs(connection, wanted.playbook, wanted.since, wanted.limit)

    # State

    def throttle_windows(self) -> dict[str, Any]:
        """See State.throttle_windows."""
        with self._readers.connection() as connection:
            return windows.load(connection, "throttle_windows")

    def save_throttle_windows(self, changes: Mapping[str, Any]) -> None:
        """See State.save_throttle_windows."""
        self._write_rows("throttle_windows", changes)

    def offset(self, key: str) -> Any:
        """See State.offset."""
        row = self._readers.row("SELECT value FROM offsets WHERE key = ?", key)
        return None if row is None else codec.decode(row["value"])

    def save_offset(self, key: str, offset: Any) -> None:
        """See State.save_offset."""
        self._write_rows("offsets", {key: offset})

    def paused(self) -> dict[str, Pause]:
        """See State.paused."""
        with self._readers.connection() as connection:
            found = connection.execute("SELECT * FROM pauses").fetchall()
        return {
            row["playbook"]: Pause(row["by"], row["since"], row["until"], row["reason"])
            for row in found
        }

    def save_set(self, digest: str, files: Mapping[str, bytes], revision: str = "") -> None:
        """See State.save_set."""
        row = (digest, json_codec.encode_json(dict(files)), revision)
        self._writer.submit(
            lambda connection: connection.execute(
                "INSERT INTO playbook_sets (id, digest, files, revision) VALUES (1, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET digest = excluded.digest, files = excluded.files,"
                " revision = excluded.revision",
                row,
            )
        ).result()

    def last_set(self) -> SavedSet | None:
        """See State.last_set."""
        row = self._readers.row("SELECT digest, files, revision FROM playbook_sets")
        if row is None:
            return None
        with codec.readable("set of playbooks"):
            return SavedSet(row["digest"], codec.to_files(row["files"]), row["revision"])

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

    def save_dropped(
        self, dead_letters: Sequence[DeadLetter], dropped_runs: Sequence[DroppedRuns]
    ) -> None:
        """See Maintenance.save_dropped."""
        work = partial(retention.save_dropped, dead_letters=dead_letters, dropped_runs=dropped_runs)
        self._writer.submit(work).result()

    def delete_runs(self, before: float) -> int:
        """See Maintenance.delete_runs."""

        def work(connection: sqlite3.Connection) -> int:
            # so that the inbox forgets the ids of the deleted runs too
            self._inbox.update_first_event(connection)
            return retention.delete_runs(connection, before)

        return self._writer.submit(work).result()

    def strip_runs(self, before: float) -> int:
        """See Maintenance.strip_runs."""
        return self._writer.submit(partial(retention.strip_runs, before=before)).result()

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
        self._writer.submit(partial(windows.write_rows, table=table, rows=rows)).result()

    def _budgets(self) -> BudgetCache:
        """Return the budget windows, which the first call reads from the file."""
        with self._budget_lock:
            if self._budget_cache is None:
                with self._readers.connection() as connection:
                    found = windows.load(connection, "budget_windows")
                save = partial(self._write_rows, "budget_windows")
                self._budget_cache = BudgetCache(found, save)
            return self._budget_cache

    def _start_or_end_dry_run(self) -> None:
        """Postpone the runs of a live engine, or make the postponed runs due. Raises JournalError."""
        with self._readers.connection() as connection:
            was_dry_run = dry_runs.in_progress(connection)
        try:
            if self._dry_run:
                self._empty_inbox()
                self.postponed_runs = self._writer.submit(dry_runs.postpone_runs).result()
            elif was_dry_run:
                self._writer.submit(dry_runs.end).result()
        except JournalError:
            self.close()
            raise

    def _empty_inbox(self) -> None:
        """Move all accepted runs to the target queues, where readers look for them.

        If the journal cannot be written, readers see it as it is.
        """
        with self._readers.connection() as connection:
            waiting = first_received(connection) is not None
        with contextlib.suppress(JournalError):
            while waiting:
                waiting = self._writer.submit(self._inbox.move_to_queues).result()

    def _end_unreadable(self, row: sqlite3.Row, why: str, now: float) -> None:
        """End a run that this engine cannot read. Otherwise it would be claimed again forever."""
        try:
            results = codec.to_results(row["results"])
        except (KeyError, TypeError, ValueError):
            results = ()
        results += (StepResult(f"step {row['position'] + 1}", "failed", why),)
        key = ClaimKey(row["id"], row["fence"] + 1, row["target"])
        self._settle(outcomes.end(key, "failed", codec.from_results(results), now))

    def _settle(self, settlement: Settlement) -> bool:
        return bool(self._writer.submit_batched(BatchItem(outcomes.settle, settlement)).result())


def _key(claim: Claim) -> ClaimKey:
    return ClaimKey(claim.undo or claim.run.id, claim.fence, claim.run.target)
