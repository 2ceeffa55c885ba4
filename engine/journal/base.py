"""The methods of the journal that are the same for all backends. Each backend provides the statements."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from engine.journal import codec, settlements
from engine.journal.codec import UnreadableError
from engine.journal.decisions import Retry
from engine.journal.records import Pause, SavedSet
from engine.journal.statements import C
from engine.journal.undo_rules import UndoIntent
from engine.model import json_codec
from engine.model.playbook import ALL_PLAYBOOKS
from engine.model.run import StepResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engine.journal.hydrate import Hydrator, Row
    from engine.journal.records import (
        ChangeInForce,
        DeadLetter,
        Decision,
        DecisionResult,
        DroppedRuns,
        RunFilter,
        RunRecord,
    )
    from engine.journal.settlements import ClaimKey, Settlement
    from engine.journal.statements import Statements
    from engine.model.calls import ObjectChange
    from engine.model.errors import JournalError
    from engine.model.run import Claim, Outcome, Run

T = TypeVar("T")


class BaseJournal(ABC, Generic[C]):
    """The common methods. See engine.journal.protocol for what they do. C: a connection.

    A backend sets ``_statements`` and ``_hydrator``.
    """

    _statements: Statements[C]
    _hydrator: Hydrator

    @abstractmethod
    def _write(self, work: Callable[[C], T]) -> T:
        """Run a function in a transaction, which is on disk on return. Raises JournalError."""

    @abstractmethod
    def _read(self, query: Callable[[C], T]) -> T:
        """Run a query. Raises JournalError."""

    @abstractmethod
    def _begin_settle(self, settlement: Settlement) -> Callable[[], bool]:
        """Begin to write a settlement. Return a function that waits until it is on disk.

        The function returns whether the claim was the newest. It raises JournalError.
        """

    @abstractmethod
    def _add_undo_intent(
        self, key: ClaimKey, intent: UndoIntent, attempt_state: Mapping[str, Any], now: float
    ) -> bool:
        """Write an undo intent and merge values into the attempt state. It is on disk on return.

        now: epoch seconds from which the retention of an undo on request counts. Returns False if the claim is
        not the newest or has expired.
        """

    @abstractmethod
    def _queue_key(self, target: str) -> str:
        """Return the name of the target queue, as the rows contain it."""

    def _prepare_history(self) -> None:
        """Make accepted runs visible for queries."""

    def _key(self, claim: Claim) -> ClaimKey:
        target = self._queue_key(claim.run.target)
        return settlements.ClaimKey(claim.undo or claim.run.id, claim.fence, target)

    # Queue

    def _claims(self, rows: Iterable[Row], now: float) -> list[Claim]:
        """Build claims. End the runs that cannot be read. rows: from before the claim."""
        claimed = []
        for row in rows:
            try:
                claimed.append(self._hydrator.claim(row, now))
            except UnreadableError as error:
                unreadable = settlements.of_unreadable(row, row["target"], str(error), now)
                self._begin_settle(unreadable)()
        return claimed

    def settle(self, claim: Claim, outcome: Outcome, now: float) -> str | None:
        """See Queue.settle."""
        return self.begin_settle(claim, outcome, now)()

    def begin_settle(self, claim: Claim, outcome: Outcome, now: float) -> Callable[[], str | None]:
        """See Queue.begin_settle. Waits for the end of an undo."""
        key = self._key(claim)
        if claim.undo and outcome.retry_in is None:
            result, name, undos = (
                (outcome.state, outcome.message),
                claim.step.name,
                self._statements.undos,
            )
            undone = self._write(lambda c: undos.settle(c, key, name, result, now))
            return lambda: outcome.state if undone else None
        settlement, answer = settlements.of_outcome(key, claim, outcome, now)
        written = self._begin_settle(settlement)
        return lambda: answer if written() else None

    # UndoLog

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        attempt_state: Mapping[str, Any],
    ) -> bool:
        """See UndoLog.add_undo_intent."""
        key, now = self._key(claim), claim.run.received
        intent = UndoIntent(claim.run.id, claim.step.name, claim.position, changes, until)
        return self._add_undo_intent(key, intent, attempt_state, now)

    def undo_times(self, key: str, exclude: str | None = None) -> list[float | None]:
        """See UndoLog.undo_times."""
        return self._read(lambda c: self._statements.undos.undo_times(c, key, exclude))

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
        self._prepare_history()
        position = [one.name for one in run.steps].index(step)
        intent = UndoIntent(run.id, step, position, changes, until)
        text = "found in the cluster, and taken over"
        results = codec.from_results([StepResult(one.name, "done", text) for one in run.steps])
        undos = self._statements.undos
        return self._write(lambda c: undos.adopt(c, intent, run, results, now))

    # OperatorCommands

    def decide(self, run_id: str, decision: Decision, approvals: int = 1) -> DecisionResult | None:
        """See OperatorCommands.decide."""
        operators = self._statements.operators
        return self._write(lambda c: operators.decide(c, run_id, decision, approvals))

    def retry(self, run_id: str, position: int, decision: Decision) -> bool:
        """See OperatorCommands.retry."""
        record = self.find(run_id)
        if record is None or record.outcome is None or not record.run.steps:
            return False
        target, step = self._queue_key(record.run.target), record.run.steps[position]
        again = Retry(run_id, target, position, step, record.results[:position])
        return self._write(lambda c: self._statements.operators.retry(c, again, decision))

    def undo(self, run_id: str, decision: Decision) -> list[str]:
        """See OperatorCommands.undo."""
        record = self.find(run_id)
        if record is None:
            return []

        def work(connection: C) -> list[str]:
            positions = self._statements.undos.make_due(connection, run_id, decision.at)
            steps = [record.run.steps[position].name for position in positions]
            if steps:
                with_steps = replace(decision, step=", ".join(steps))
                self._statements.operators.add_decision(connection, run_id, with_steps)
            return steps

        return self._write(work)

    def pause(self, playbook: str | None, pause: Pause) -> None:
        """See OperatorCommands.pause."""
        name = ALL_PLAYBOOKS if playbook is None else playbook
        self._write(lambda c: self._statements.operators.pause(c, name, pause))

    def resume(self, playbook: str | None) -> None:
        """See OperatorCommands.resume."""
        self._write(lambda c: self._statements.operators.resume(c, playbook))

    def end_pauses(self, now: float) -> list[str]:
        """See OperatorCommands.end_pauses."""
        return self._write(lambda c: self._statements.operators.end_pauses(c, now))

    # History

    def find(self, run_id: str) -> RunRecord | None:
        """See History.find. Raises UnreadableError if this engine cannot read the run."""
        self._prepare_history()
        row = self._read(lambda c: self._statements.queries.find(c, run_id))
        return None if row is None else self._hydrator.record(row)

    def find_ids(self, prefix: str) -> list[str]:
        """See History.find_ids."""
        self._prepare_history()
        return self._read(lambda c: self._statements.queries.find_ids(c, prefix))

    def counts(self) -> dict[str, int]:
        """See History.counts. Reads the unfinished runs, and no others."""
        return self._read(self._statements.queries.counts)

    def runs(self, wanted: RunFilter) -> list[RunRecord]:
        """See History.runs. Leaves out the runs that this engine cannot read."""
        self._prepare_history()
        records = []
        for row in self._read(lambda c: self._statements.queries.select_runs(c, wanted)):
            with contextlib.suppress(UnreadableError):
                records.append(self._hydrator.record(row))
        return records

    def in_force(self) -> list[ChangeInForce]:
        """See History.in_force."""
        return [
            self._hydrator.change_in_force(row)
            for row in self._read(self._statements.undos.in_force)
        ]

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """See History.dead_letters."""
        return self._read(lambda c: self._statements.retention.dead_letters(c, limit))

    def dropped_runs(self, wanted: RunFilter) -> list[DroppedRuns]:
        """See History.dropped_runs."""
        return self._read(lambda c: self._statements.retention.dropped_runs(c, wanted))

    # State

    def throttle_windows(self) -> dict[str, Any]:
        """See State.throttle_windows."""
        return self._read(lambda c: self._statements.state.windows(c, "throttle_windows"))

    def offset(self, key: str) -> Any:
        """See State.offset."""
        raw = self._read(lambda c: self._statements.state.offset(c, key))
        return None if raw is None else codec.decode(raw)

    def paused(self) -> dict[str, Pause]:
        """See State.paused."""
        return {
            row["playbook"]: Pause(row["by"], row["since"], row["until"], row["reason"])
            for row in self._read(self._statements.state.pauses)
        }

    def save_set(self, digest: str, files: Mapping[str, bytes], revision: str = "") -> None:
        """See State.save_set."""
        raw = json_codec.encode_json(dict(files))
        self._write(lambda c: self._statements.state.save_set(c, digest, raw, revision))

    def last_set(self) -> SavedSet | None:
        """See State.last_set."""
        row = self._read(self._statements.state.last_set)
        if row is None:
            return None
        with codec.readable("set of playbooks"):
            return SavedSet(row["digest"], codec.to_files(row["files"]), row["revision"])

    # Maintenance

    def save_dropped(
        self, dead_letters: Sequence[DeadLetter], dropped_runs: Sequence[DroppedRuns]
    ) -> None:
        """See Maintenance.save_dropped."""
        retention = self._statements.retention
        self._write(lambda c: retention.save_dropped(c, dead_letters, dropped_runs))

    def strip_runs(self, before: float) -> int:
        """See Maintenance.strip_runs."""
        return self._write(lambda c: self._statements.retention.strip_runs(c, before))


def failed_accept(error: JournalError) -> Future[Mapping[str, str]]:
    """Return the future of an accept that cannot be encoded."""
    failed: Future[Mapping[str, str]] = Future()
    failed.set_exception(error)
    return failed
