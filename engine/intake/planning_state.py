"""What planning remembers, with the journal behind it, and how a plan that was not written is rolled back."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from engine.model.throttle_window import ThrottleUse
from engine.planning.planner import PlanningMemory

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from concurrent.futures import Future

    from engine.journal.records import AcceptBatch, Pause
    from engine.model.playbook import Throttle
    from engine.planning.planner import PlannedRun


class IntakeJournal(Protocol):
    """The parts of the journal that intake uses. See engine.journal.protocol."""

    @property
    def shared(self) -> bool: ...  # noqa: D102
    def accept(self, accepted: AcceptBatch, now: float) -> Future[Mapping[str, str]]: ...  # noqa: D102
    def release_throttle(self, run: str) -> None: ...  # noqa: D102
    def known(self, ids: Collection[str]) -> set[str]: ...  # noqa: D102
    def throttle_windows(self) -> dict[str, Any]: ...  # noqa: D102
    def save_throttle_windows(self, changes: Mapping[str, Any]) -> None: ...  # noqa: D102
    def paused(self) -> Mapping[str, Pause]: ...  # noqa: D102


class WindowChanges(NamedTuple):
    """Throttle windows by key that a plan changed: as they are now, and as they were. None: no window.

    uses: run id -> the throttle that the journal decides.
    """

    after: dict[str, Any]
    before: dict[str, dict[str, Any] | None]
    uses: dict[str, ThrottleUse]


class PlanningState(PlanningMemory):
    """The memory of planning, including the runs that are on disk.

    lock: hold it to plan, to start a write, and to change the state. It is reentrant, because a write that
    fails at once is rolled back in the thread that started it.
    unwritten: window changes of rolled-back plans and released slots. The next write must include them.
    journal_decides: whether a planned run can still turn out to be a duplicate or throttled.
    """

    journal_decides = False

    def __init__(self, journal: IntakeJournal) -> None:
        super().__init__(None if journal.shared else journal.throttle_windows())
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

    def release_in_journal(self, run: str) -> None:
        """Release a throttle slot that only the journal knows. Raises JournalError."""

    def take_changes(self) -> WindowChanges:
        """Return the windows that changed since the last call."""
        changes = WindowChanges(self.changes, self._before, {})
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


class SharedPlanningState(PlanningState):
    """The memory of planning in front of a shared journal, which decides about duplicates and throttles.

    This memory knows only what this replica has planned. It can tell a duplicate, but not a new run.
    """

    journal_decides = True

    def __init__(self, journal: IntakeJournal) -> None:
        super().__init__(journal)
        self._uses: dict[str, ThrottleUse] = {}

    def seen(self, run: str) -> bool | None:
        """Return whether this replica planned the run before and it started, or None."""
        return self._seen.get(run)

    def acquire(self, key: str, throttle: Throttle, run: str) -> bool:
        """Leave the decision to the journal."""
        self._uses[run] = ThrottleUse(key, throttle, self.clock)
        return True

    def release(self, run: str) -> None:
        """Release a use that the journal has not decided."""
        self._uses.pop(run, None)

    def release_in_journal(self, run: str) -> None:
        """See PlanningState.release_in_journal."""
        self._journal.release_throttle(run)

    def take_changes(self) -> WindowChanges:
        """Return the throttles that were used since the last call."""
        uses, self._uses = self._uses, {}
        return super().take_changes()._replace(uses=uses)
