"""The statements that each backend provides as modules of its package, with the same names and arguments.

The methods of the journal that are the same for all backends call them (see engine.journal.base). A function
runs in the transaction of its connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.journal.decisions import Retry
    from engine.journal.hydrate import Row
    from engine.journal.records import (
        DeadLetter,
        Decision,
        DecisionResult,
        DroppedRuns,
        Pause,
        RunFilter,
    )
    from engine.journal.settlements import ClaimKey
    from engine.journal.undo_rules import UndoIntent
    from engine.model.run import Run

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)
WindowTable = Literal["throttle_windows", "budget_windows"]


class OperatorStatements(Protocol[C_contra]):
    """The module ``operator_commands``."""

    def decide(
        self, connection: C_contra, run_id: str, decision: Decision, approvals: int
    ) -> DecisionResult | None:
        """Write a decision on a held run; see OperatorCommands.decide."""
        ...

    def add_decision(self, connection: C_contra, run_id: str, decision: Decision) -> None:
        """Add a decision to the attempt state of a run."""
        ...

    def retry(self, connection: C_contra, again: Retry, decision: Decision) -> bool:
        """Queue a finished run again. Return False if the run is not finished."""
        ...

    def pause(self, connection: C_contra, playbook: str, pause: Pause) -> None:
        """Write a pause, and let other runs pass those of the playbook in their target queues."""
        ...

    def resume(self, connection: C_contra, playbook: str | None) -> None:
        """End the pause of a playbook (None: every pause)."""
        ...

    def end_pauses(self, connection: C_contra, now: float) -> list[str]:
        """End the pauses whose time is over. Return the names of their playbooks."""
        ...


class UndoStatements(Protocol[C_contra]):
    """The module ``undo_intents``."""

    def adopt(
        self, connection: C_contra, intent: UndoIntent, run: Run, results: bytes, now: float
    ) -> bool:
        """Write an undo intent for changes that were found in the cluster.

        run: written as finished if it does not exist. results: its encoded results. Returns False if the first
        change already has an undo intent.
        """
        ...

    def undo_times(self, connection: C_contra, key: str, exclude: str | None) -> list[float | None]:
        """Return the times of the undo intents for an object. exclude: the id of one undo to ignore."""
        ...

    def in_force(self, connection: C_contra) -> Sequence[Row]:
        """Return the rows of the undos, each with one of its changes (see ``Hydrator.change_in_force``)."""
        ...

    def make_due(self, connection: C_contra, run: str, now: float) -> list[int]:
        """Make all undos of a run due now, except those that are leased. Return the positions of their steps."""
        ...

    def settle(
        self,
        connection: C_contra,
        key: ClaimKey,
        step: str,
        outcome: tuple[str, str],
        now: float,
    ) -> bool:
        """Delete an undo that is done, or keep one that failed for another request.

        outcome: state and message, for the result of the step. Returns False if the claim is not the newest.
        """
        ...


class QueryStatements(Protocol[C_contra]):
    """The module ``queries``."""

    def find(self, connection: C_contra, run_id: str) -> Row | None:
        """Return the row of a run, or None."""
        ...

    def find_ids(self, connection: C_contra, prefix: str) -> list[str]:
        """Return the ids of up to three runs that start with the prefix."""
        ...

    def select_runs(self, connection: C_contra, wanted: RunFilter) -> Sequence[Row]:
        """Return the rows that match, newest first."""
        ...

    def counts(self, connection: C_contra) -> dict[str, int]:
        """Return the number of unfinished runs per state; undos do not count."""
        ...


class StateStatements(Protocol[C_contra]):
    """The module ``saved_state``."""

    def windows(self, connection: C_contra, table: WindowTable) -> dict[str, Any]:
        """Return all windows: key -> JSON value."""
        ...

    def offset(self, connection: C_contra, key: str) -> bytes | None:
        """Return the encoded offset of a source, or None."""
        ...

    def pauses(self, connection: C_contra) -> Sequence[Row]:
        """Return the rows of the pauses."""
        ...

    def save_set(self, connection: C_contra, digest: str, files: bytes, revision: str) -> None:
        """Store a set of playbook files as the last good set."""
        ...

    def last_set(self, connection: C_contra) -> Row | None:
        """Return the row of the last good set, or None."""
        ...


class RetentionStatements(Protocol[C_contra]):
    """The module ``retention``."""

    def save_dropped(
        self,
        connection: C_contra,
        dead_letters: Sequence[DeadLetter],
        dropped_runs: Sequence[DroppedRuns],
    ) -> None:
        """Write dead letters, add to the counters, and delete the oldest rows of both."""
        ...

    def strip_runs(self, connection: C_contra, before: float) -> int:
        """Delete the data of some of the runs that ended before this time. Keep their ids."""
        ...

    def dead_letters(self, connection: C_contra, limit: int) -> list[DeadLetter]:
        """Return the dead letters, newest first."""
        ...

    def dropped_runs(self, connection: C_contra, wanted: RunFilter) -> list[DroppedRuns]:
        """Return the counters that match the playbook and the time, last changed first."""
        ...


@dataclass(frozen=True, slots=True)
class Statements(Generic[C]):
    """The modules of a backend."""

    operators: OperatorStatements[C]
    undos: UndoStatements[C]
    queries: QueryStatements[C]
    state: StateStatements[C]
    retention: RetentionStatements[C]
