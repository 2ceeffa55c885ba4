"""What planning remembers, with the journal behind it, and how a plan that was not written is rolled back."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from engine.journal.protocol import Queue, State
from engine.planning.planner import PlanningMemory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.planning.planner import PlannedRun


class IntakeJournal(Queue, State, Protocol):
    """The parts of the journal that intake uses."""


class WindowChanges(NamedTuple):
    """Throttle windows by key that a plan changed: as they are now, and as they were. None: no window."""

    after: dict[str, Any]
    before: dict[str, dict[str, Any] | None]


class PlanningState(PlanningMemory):
    """The memory of planning, including the runs that are on disk.

    lock: hold it to plan, to start a write, and to change the state. It is reentrant, because a write that
    fails at once is rolled back in the thread that started it.
    unwritten: window changes of rolled-back plans and released slots. The next write must include them.
    """

    def __init__(self, journal: IntakeJournal) -> None:
        super().__init__(journal.throttle_windows())
        self.lock = threading.RLock()
        self.unwritten: dict[str, Any] = {}
        self._journal = journal
        self._before: dict[str, dict[str, Any] | None] = {}

    def seen(self, run: str) -> bool | None:
        """Whether the run was planned before, by this process or an earlier one. See PlanningMemory.seen."""
        before = super().seen(run)
        return before if before is not None or not self._journal.known({run}) else True

    def commit(self, run: str) -> None:
        """Forget a run that is on disk: from now on the journal knows it. Does not need the lock."""
        self._seen.pop(run, None)

    def take_changes(self) -> WindowChanges:
        """Return the windows that changed since the last call."""
        changes = WindowChanges(self.changes, self._before)
        self.changes, self._before = {}, {}
        return changes

    def take_unwritten(self) -> dict[str, Any]:
        """Return the unwritten window changes, and forget them."""
        unwritten, self.unwritten = self.unwritten, {}
        return unwritten

    def rollback(self, planned: Sequence[PlannedRun], changes: WindowChanges) -> None:
        """Undo a plan that was not written, so that a resend is not treated as a duplicate."""
        for key, before in changes.before.items():
            if self.windows.get(key) is not changes.after[key]:
                continue  # a later plan has changed the window; forget() below returns the slots in it
            if before is None:
                self.windows.pop(key, None)
            else:
                self.windows[key] = before
        for one in planned:
            if one.suppressed != "duplicate":
                self.forget(one.run.id)
        self.unwritten |= self.take_changes().after

    def _change(self, key: str, window: dict[str, Any] | None) -> None:
        self._before.setdefault(key, self.windows.get(key))
        super()._change(key, window)
