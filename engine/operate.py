"""A person's hand on the engine: leave for what is held, another try, a pause; and who did it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.journal.rows import UnreadableError
from engine.observe import Decided
from engine.plan import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from engine.journal.journal import Journal, Record
    from engine.observe import Observers

_ID = re.compile(r"[0-9a-f]{6,32}")
_FAILED = ("failed", "refused")


class OperateError(Exception):
    """What cannot be done as asked; the sentence goes back to the person. status: HTTP's."""

    def __init__(self, what: str, status: int = 409, hint: str | None = None) -> None:
        super().__init__(what)
        self.status, self.hint = status, hint


@dataclass(frozen=True, slots=True)
class Operations:
    """What operators may do. wake: tells the workers. pauses: is told what is paused from now on."""

    journal: Journal
    observers: Observers
    wake: Callable[[], None]
    pauses: Callable[[Collection[str]], None]
    now: Callable[[], float]

    def find(self, run: str) -> Record:
        """The run of that id, or the only one whose id begins so. Raises OperateError, JournalError."""
        if not _ID.fullmatch(run):
            raise OperateError(
                "no run has this id: it is 32 hex digits, or 6 and more of them", 404
            )
        ids = self.journal.ids(run)
        if not ids:
            raise OperateError("no run has this id", 404)
        if len(ids) > 1:
            raise OperateError(f"several runs begin so: {', '.join(ids)}")
        try:
            record = self.journal.find(ids[0])
        except UnreadableError as error:
            raise OperateError(str(error), 410) from None
        if record is None:
            raise OperateError("no run has this id", 404)
        return record

    def decide(self, run: str, verdict: str, by: str) -> str:
        """Approve or deny a held run; gives its id. Raises OperateError, JournalError."""
        record = self.find(run)
        if not self.journal.decide(record.run.id, verdict, by, self.now()):
            stands = record.outcome or (record.results[-1].state if record.results else "waiting")
            raise OperateError(f"the run is not held, it is {stands}")
        step = record.run.steps[record.position].name if record.position is not None else None
        return self._done(verdict, by, record, step)

    def retry(self, run: str, step: str | None, by: str) -> str:
        """Try a run that is over again, from a step (None: the first that failed or was refused)."""
        record = self.find(run)
        if record.outcome is None:
            raise OperateError("the run is not over yet")
        position = _position(record, step)
        if not self.journal.retry(record.run.id, position, self.now()):
            raise OperateError("the run is not over yet")
        return self._done("retry", by, record, record.run.steps[position].name)

    def undo(self, run: str, by: str) -> tuple[str, list[str]]:
        """Have what a run that is over has done be undone now; its id, and the steps."""
        record = self.find(run)
        if record.outcome is None:
            raise OperateError("the run is not over yet")
        steps = self.journal.undo(record.run.id, self.now()) if record.undo else []
        if not steps:
            raise OperateError("nothing is left of this run that can be undone")
        return self._done("undo", by, record, ", ".join(steps)), steps

    def pause(self, playbook: str | None, by: str) -> list[str]:
        """Pause a playbook, or all; gives what is paused now."""
        self.journal.pause(playbook, by, self.now())
        return self._paused("pause", playbook, by)

    def resume(self, playbook: str | None, by: str) -> list[str]:
        """End the pause of a playbook, or every pause; gives what is still paused."""
        self.journal.resume(playbook)
        return self._paused("resume", playbook, by)

    def paused(self) -> list[str]:
        """The playbooks that are paused; ``*`` is all."""
        return sorted(self.journal.paused())

    def _paused(self, what: str, playbook: str | None, by: str) -> list[str]:
        names = self.paused()
        self.pauses(names)
        self.observers.tell(Decided(what, by, self.now(), playbook=playbook or ALL))
        self.wake()
        return names

    def _done(self, what: str, by: str, record: Record, step: str | None = None) -> str:
        run = record.run
        self.observers.tell(Decided(what, by, self.now(), run.playbook.name, run.id, step))
        self.wake()
        return run.id


def _position(record: Record, step: str | None) -> int:
    """Where to begin again. Raises OperateError."""
    names = [one.name for one in record.run.steps]
    ended = [result.step for result in record.results]
    if step is None:
        failed = [result.step for result in record.results if result.state in _FAILED]
        if not failed:
            raise OperateError(f"no step failed or was refused; name one of {', '.join(names)}")
        step = failed[0]
    if step not in names or names.index(step) > len(ended):
        raise OperateError(f"the run has no step `{step[:80]}`: {', '.join(names)}", 400)
    return names.index(step)
