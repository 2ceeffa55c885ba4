"""What planning remembers, with the journal behind it: runs from before a restart, windows to be written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from engine.journal.protocol import BUDGET_PREFIX, FILE_OFFSET_PREFIX, Queue, State
from engine.planning.planner import PlanningMemory

_OTHERS = (BUDGET_PREFIX, FILE_OFFSET_PREFIX)


class IntakeJournal(Queue, State, Protocol):
    """The parts of the journal that intake uses."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Windows that changed: what the journal must keep of them, and what they were."""

    changes: dict[str, Any]
    before: dict[str, dict[str, Any] | None]


class PlanningState(PlanningMemory):
    """A memory that also knows the runs on disk, from before a restart.

    before: the windows that changed since it was last emptied, as they were then.
    """

    def __init__(self, journal: IntakeJournal) -> None:
        kept = journal.key_values()
        super().__init__({k: kept[k] for k in kept if not k.startswith(_OTHERS)})
        self._journal = journal
        self.before: dict[str, dict[str, Any] | None] = {}

    def seen(self, run: str) -> bool | None:
        """Whether the run was planned before, by this process or an earlier one."""
        before = super().seen(run)
        return before if before is not None or not self._journal.known({run}) else True

    def written(self, run: str) -> None:
        """A run that is on disk is known from there; what was suppressed is known here alone."""
        self._seen.pop(run, None)

    def taken(self) -> Changed:
        """What changed since it was last taken."""
        changed = Changed(self.changes, self.before)
        self.changes, self.before = {}, {}
        return changed

    def restore(self, changed: Changed) -> None:
        """Put the windows back that nobody has changed since."""
        for key, was in changed.before.items():
            if self.windows.get(key) is not changed.changes[key]:
                continue
            if was is None:
                self.windows.pop(key, None)
            else:
                self.windows[key] = was

    def _change(self, key: str, window: dict[str, Any] | None) -> None:
        self.before.setdefault(key, self.windows.get(key))
        super()._change(key, window)
