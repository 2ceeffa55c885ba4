"""The journal: its invariants, and one protocol for each kind of user.

The suite tests/contracts/test_journal*.py checks each backend.

Invariants:

1. **Durability.** When the future of ``accept`` resolves, the batch is on disk. It survives a power failure.
2. **Scheduling.** ``due_at`` is the only schedule. A claim moves it to the end of the lease. A retry moves it
   to the end of the delay. A run without ``due_at`` is not in a target queue. A worker that dies needs no
   cleanup.
3. **Fencing.** Only the newest claim of a run can write attempt state, settle the attempt or add undo
   intents.
4. **Idempotency.** Accepting a run again has no effect.
5. **Target queues.** Two attempts on one target never overlap. The ready runs of a target start in the order
   of acceptance, then by playbook name. A run that waits for a retry lets later runs pass. Runs of different
   targets run in parallel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from concurrent.futures import Future

    from engine.journal.records import (
        AcceptBatch,
        ChangeInForce,
        DeadLetter,
        Decision,
        DecisionResult,
        DroppedRuns,
        Pause,
        RunFilter,
        RunRecord,
        SavedSet,
    )
    from engine.model.calls import ObjectChange
    from engine.model.playbook import Pool
    from engine.model.run import Claim, Notice, Outcome, Run

T = TypeVar("T")


class Queue(Protocol):
    """The run queue: accept runs, claim attempts and settle them.

    Attributes:
        shared: whether other processes may accept runs too. Then only the journal can decide what is a
            duplicate and what a throttle lets act. Otherwise the caller decides from ``known`` and from the
            throttle windows, which it keeps in memory, and passes the windows that it changed.

    """

    shared: bool

    def accept(self, accepted: AcceptBatch, now: float) -> Future[Mapping[str, str]]:
        """Write a batch. Its runs are due at once.

        The result names the runs that were not accepted: run id -> ``duplicate`` or ``throttle``. The decision
        and the windows that it used are written in the same transaction. A journal that is not shared names
        none: it ignores runs that it has already.

        The write shares its transaction with other waiting writes. The future resolves when the batch is on
        disk. It fails with JournalError if none of the batch is on disk; with JournalUnavailableError if a
        server does not answer, and the batch may be on its disk. An empty batch resolves when every
        batch that was accepted earlier is on disk.

        A full journal fails the future while it still has space to finish and delete the runs that it has.
        """
        ...

    def release_throttle(self, run: str) -> None:
        """Return the throttle slot of a run that did nothing, if a shared journal decided it. run: its id."""
        ...

    def known(self, ids: Collection[str]) -> set[str]:
        """Return those of the run ids that are on disk."""
        ...

    def claim(self, pool: Pool, limit: int, now: float) -> list[Claim]:
        """Claim up to ``limit`` attempts that may start now.

        The lease of a claim lasts for the timeout of its step plus a margin. The claims are on disk when this
        method returns. A claim is ``interrupted`` if the lease of the previous claim expired without a result.
        """
        ...

    def keep(
        self, claim: Claim, attempt_state: Mapping[str, Any], notice: Notice | None = None
    ) -> bool:
        """Merge values into the attempt state of the run. Accept the run of the notice in the same transaction.

        The values are on disk when this method returns.

        Returns False and writes nothing if the claim is not the newest, or if a later ``claim`` saw its lease
        expired. In both cases another attempt may be active on the target.
        """
        ...

    def settle(self, claim: Claim, outcome: Outcome, now: float) -> str | None:
        """Write the outcome of an attempt and what follows: a retry, the next step or the end of the run.

        Returns ``waiting``, ``next`` or the outcome of the run. For an undo: ``waiting``, ``undone`` or
        ``failed``. The result is on disk when this method returns. Returns None and writes nothing if the
        claim is not the newest.
        """
        ...

    def begin_settle(self, claim: Claim, outcome: Outcome, now: float) -> Callable[[], str | None]:
        """Begin to settle an outcome. Return a function that waits until it is on disk, as ``settle`` does.

        Raises UnwritableError if the outcome cannot be encoded. The function raises JournalError. Call it once.
        """
        ...

    def next_due(self, pool: Pool) -> float | None:
        """Return the time at which the next run of the pool may be claimable, or None.

        A run that is due but waits behind another run of its target does not count.
        """
        ...


class UndoLog(Protocol):
    """The undo intents: the data that a later undo of a step needs.

    Steps of several runs can change the same object. Each step then has its own undo intent. All of them
    keep the value from before the first change.
    """

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        attempt_state: Mapping[str, Any],
    ) -> bool:
        """Write the undo intent of a step and merge values into the attempt state, before the step acts.

        until: epoch seconds of the undo, or None (only on request). The data is on disk when this method
        returns. Returns False and writes nothing in the cases of ``Queue.keep``.
        """
        ...

    def undo_times(self, key: str, exclude: str | None = None) -> list[float | None]:
        """Return the times of all undo intents for a changed object.

        key: of the ObjectChange. exclude: the id of one undo to ignore. A None in the list: only on request.
        """
        ...

    def adopt(
        self,
        run: Run,
        step: str,
        changes: Sequence[ObjectChange],
        until: float | None,
        *,
        now: float,
    ) -> bool:
        """Write an undo intent for changes that were found in the cluster.

        If the run does not exist, it is written as a run whose steps are done and that ended now. Returns
        False and writes nothing if the first of the changes already has an undo intent.
        """
        ...


class OperatorCommands(Protocol):
    """The commands of operators on runs and playbooks."""

    def decide(self, run_id: str, decision: Decision, approvals: int = 1) -> DecisionResult | None:
        """Write a decision into the attempt state of a held run. Let the run continue now if it is the last.

        approvals: the number of different operators who must approve. See ``decisions.decide``.
        Returns None and writes nothing if the run is not held, or held at another step than that of the
        decision.
        """
        ...

    def retry(self, run_id: str, position: int, decision: Decision) -> bool:
        """Queue a finished run again, from the step at this position. Earlier results stay.

        Returns False and writes nothing if the run is not finished.
        """
        ...

    def undo(self, run_id: str, decision: Decision) -> list[str]:
        """Make every undo of the run due now. Return the names of its steps."""
        ...

    def pause(self, playbook: str | None, pause: Pause) -> None:
        """Stop claims for a playbook (None: for all playbooks). The pause survives a restart.

        If the playbook is already paused, the pause gets the new end, operator and reason.
        """
        ...

    def resume(self, playbook: str | None) -> None:
        """End the pause of a playbook (None: every pause)."""
        ...

    def end_pauses(self, now: float) -> list[str]:
        """End the pauses whose time is over. Return the names of their playbooks (``*``: all)."""
        ...


class History(Protocol):
    """Queries about runs, dead letters and dropped runs."""

    def find(self, run_id: str) -> RunRecord | None:
        """Return the run with this id, or None."""
        ...

    def find_ids(self, prefix: str) -> list[str]:
        """Return the ids of up to three runs that start with the prefix."""
        ...

    def counts(self) -> dict[str, int]:
        """Return the number of unfinished runs per state: ``waiting``, ``running`` and ``held``."""
        ...

    def runs(self, wanted: RunFilter) -> list[RunRecord]:
        """Return the runs that match, newest first."""
        ...

    def in_force(self) -> list[ChangeInForce]:
        """Return the changes that are not undone, at most ``MAX_IN_FORCE``, in the order in which they began."""
        ...

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """Return the dead letters, newest first."""
        ...

    def dropped_runs(self, wanted: RunFilter) -> list[DroppedRuns]:
        """Return the counters that match the playbook and the time, last changed first."""
        ...


class State(Protocol):
    """Small state that survives a restart: throttle windows, file offsets, pauses, the last playbooks."""

    def throttle_windows(self) -> dict[str, Any]:
        """Return the throttle windows: key -> JSON value."""
        ...

    def save_throttle_windows(self, changes: Mapping[str, Any]) -> None:
        """Change throttle windows. A value of None deletes the window."""
        ...

    def offset(self, key: str) -> Any:
        """Return the offset that a source saved under this key (JSON), or None."""
        ...

    def save_offset(self, key: str, offset: Any) -> None:
        """Save the offset of a source. It is on disk when this method returns."""
        ...

    def paused(self) -> Mapping[str, Pause]:
        """Return the pauses: playbook name -> pause. The name ``*`` means all playbooks."""
        ...

    def save_set(self, digest: str, files: Mapping[str, bytes], revision: str = "") -> None:
        """Store a set of playbook files (path -> content) as the last good set."""
        ...

    def last_set(self) -> SavedSet | None:
        """Return the last good set, or None."""
        ...


class BudgetStore(Protocol):
    """The windows of the budgets. Each decision is made on the newest windows and is then on disk."""

    def budget_windows(self) -> Mapping[str, Any]:
        """Return all windows: key -> JSON value."""
        ...

    def update_budgets(
        self,
        keys: Collection[str],
        decide: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], T]],
        now: float,
    ) -> T:
        """Decide on some windows and write the changes. No other decision on them happens meanwhile.

        decide: gets those of the windows that exist. It returns the changed windows (None: delete the
        window) and a result, which this method returns. It can be called again if the write is repeated.
        now: epoch seconds. Windows whose ``until`` is earlier can be deleted. The changes are on disk when
        this method returns.
        """
        ...


class Maintenance(Protocol):
    """The methods that keep the journal small and report its condition."""

    def save_dropped(
        self, dead_letters: Sequence[DeadLetter], dropped_runs: Sequence[DroppedRuns]
    ) -> None:
        """Write dead letters and add to the counters of dropped runs.

        Both tables have a maximum size. The oldest rows are deleted.
        """
        ...

    def delete_runs(self, before: float) -> int:
        """Delete some of the runs that ended before this time, and older dead letters and counters.

        before: epoch seconds. Returns the number of deleted runs; 0 if none is left.
        """
        ...

    def strip_runs(self, before: float) -> int:
        """Delete the events and results of some of the runs that ended before this time.

        The ids of the runs stay ``known``. Returns the number of runs; 0 if none is left.
        """
        ...

    def fill_ratio(self) -> float:
        """Measure the share of the maximum size that is in use or reserved for unfinished runs, 0 to 1.

        A full journal accepts again after this method has found free space.
        """
        ...

    def write_error(self) -> str | None:
        """Return the reason why the journal does not accept runs, as a sentence, or None."""
        ...

    def close(self) -> None:
        """Finish the current writes and release the storage. Later calls fail with JournalError."""
        ...


class Journal(Queue, UndoLog, OperatorCommands, History, State, BudgetStore, Maintenance, Protocol):
    """The durable store of runs. A backend implements all parts; a user asks for the parts that it needs.

    All methods are thread-safe. All times are epoch seconds. Methods raise JournalError if the storage cannot
    be read or written.
    """
