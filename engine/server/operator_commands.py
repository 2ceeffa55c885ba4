"""Operator commands: approve or deny what is held, retry, undo, pause and resume; and who did it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from engine.journal import protocol
from engine.journal.codec import UnreadableError
from engine.journal.protocol import Decision, Pause
from engine.language import duration
from engine.language.findings import nearest
from engine.model.playbook import ALL_PLAYBOOKS
from engine.model.safe_text import printable
from engine.telemetry.events import Decided

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from engine.journal.protocol import RunRecord
    from engine.telemetry.events import Observers

_ID = re.compile(r"[0-9a-f]{6,32}")
_FAILED = ("failed", "refused")
LONGEST_REASON = 1_000
"""Characters of a reason."""
LONGEST_PAUSE = 366 * 86_400.0
"""Seconds of a pause that ends by itself."""


class CommandJournal(protocol.OperatorCommands, protocol.History, protocol.State, Protocol):
    """The parts of the journal that operator commands use."""


class OperatorCommandError(Exception):
    """What cannot be done as asked; the sentence goes back to the person. status: HTTP's."""

    def __init__(self, what: str, status: int = 409, hint: str | None = None) -> None:
        super().__init__(what)
        self.status, self.hint = status, hint


@dataclass(frozen=True, slots=True)
class Who:
    """Who does something, and why, as the person wrote it; it is kept escaped. Raises OperateError."""

    by: str
    reason: str = ""

    def __post_init__(self) -> None:
        if len(self.reason) > LONGEST_REASON:
            raise OperatorCommandError(f"a reason has at most {LONGEST_REASON:,} characters", 400)
        object.__setattr__(self, "reason", printable(self.reason))


@dataclass(frozen=True, slots=True)
class OperatorCommands:
    """What operators may do.

    wake: tells the workers. pauses: is told what is paused from now on. playbooks: names of the set in force.
    """

    journal: CommandJournal
    observers: Observers
    wake: Callable[[], None]
    pauses: Callable[[Collection[str]], None]
    now: Callable[[], float]
    playbooks: Callable[[], Collection[str]]

    def find(self, run: str) -> RunRecord:
        """The run of that id, or the only one whose id begins so. Raises OperateError, JournalError."""
        if not _ID.fullmatch(run):
            raise OperatorCommandError(
                "no run has this id: it is 32 hex digits, or 6 and more of them", 404
            )
        ids = self.journal.find_ids(run)
        if not ids:
            raise OperatorCommandError("no run has this id", 404)
        if len(ids) > 1:
            raise OperatorCommandError(f"several runs begin so: {', '.join(ids)}")
        try:
            record = self.journal.find(ids[0])
        except UnreadableError as error:
            raise OperatorCommandError(str(error), 410) from None
        if record is None:
            raise OperatorCommandError("no run has this id", 404)
        return record

    def decide(self, run: str, verdict: str, who: Who) -> str:
        """Approve or deny a held run; gives its id. Raises OperateError, JournalError."""
        record = self.find(run)
        step = record.run.steps[record.position].name if record.position is not None else ""
        decision = self._decision(verdict, who, step)
        if not self.journal.decide(record.run.id, decision):
            stands = record.outcome or (record.results[-1].state if record.results else "waiting")
            raise OperatorCommandError(f"the run is not held, it is {stands}")
        return self._done(decision, record)

    def retry(self, run: str, step: str | None, who: Who) -> str:
        """Try a run that is over again, from a step (None: the first that failed or was refused)."""
        record = self.find(run)
        if record.outcome is None:
            raise OperatorCommandError("the run is not over yet")
        position = _position(record, step)
        decision = self._decision("retry", who, record.run.steps[position].name)
        if not self.journal.retry(record.run.id, position, decision):
            raise OperatorCommandError("the run is not over yet")
        return self._done(decision, record)

    def undo(self, run: str, who: Who) -> tuple[str, list[str]]:
        """Have what a run that is over has done be undone now; its id, and the steps."""
        record = self.find(run)
        if record.outcome is None:
            raise OperatorCommandError("the run is not over yet")
        decision = self._decision("undo", who)
        steps = self.journal.undo(record.run.id, decision) if record.undo else []
        if not steps:
            raise OperatorCommandError("nothing is left of this run that can be undone")
        return self._done(replace(decision, step=", ".join(steps)), record), steps

    def pause(self, playbook: str | None, who: Who, lasts: str | None = None) -> list[str]:
        """Pause a playbook, or all; gives what is paused now.

        lasts: a duration such as ``2h``, after which the pause ends. Raises OperateError, JournalError.
        """
        if playbook not in (None, ALL_PLAYBOOKS):
            self.check_playbook(str(playbook))
        now, seconds = self.now(), duration.seconds(lasts)
        if lasts is not None and (seconds is None or seconds > LONGEST_PAUSE):
            raise OperatorCommandError(f"`for` is a duration of at most 366d, {duration.HINT}", 400)
        until = None if seconds is None else now + seconds
        self.journal.pause(playbook, Pause(who.by, now, until, who.reason))
        return self._paused("pause", playbook, who)

    def resume(self, playbook: str | None, who: Who) -> list[str]:
        """End the pause of a playbook, or every pause; gives what is still paused."""
        if playbook is not None and playbook not in self.journal.paused():
            self.check_playbook(playbook)
        self.journal.resume(playbook)
        return self._paused("resume", playbook, who)

    def end_pauses(self) -> None:
        """End the pauses whose time is over. Raises JournalError."""
        now = self.now()
        if any(
            one.until is not None and one.until <= now for one in self.journal.paused().values()
        ):
            for playbook in self.journal.end_pauses(now):
                self._paused("resume", playbook, Who("tiercel", "the time of the pause is over"))

    def paused(self) -> list[str]:
        """The playbooks that are paused; ``*`` is all."""
        return sorted(self.journal.paused())

    def check_playbook(self, name: str) -> None:
        """Raise OperateError where no playbook of the set in force has the name."""
        names = self.playbooks()
        if name not in names:
            near = nearest(name, names)
            hint = f"; did you mean `{near}`?" if near else ""
            raise OperatorCommandError(
                f"no playbook in force is called `{printable(name[:80])}`{hint}", 400
            )

    def _paused(self, what: str, playbook: str | None, who: Who) -> list[str]:
        names = self.paused()
        self.pauses(names)
        about = playbook or ALL_PLAYBOOKS
        self.observers.notify(Decided(what, who.by, self.now(), playbook=about, reason=who.reason))
        self.wake()
        return names

    def _decision(self, what: str, who: Who, step: str = "") -> Decision:
        return Decision(what, who.by, self.now(), who.reason, step)

    def _done(self, did: Decision, record: RunRecord) -> str:
        run = record.run
        self.observers.notify(
            Decided(
                did.what, did.by, did.at, run.playbook.name, run.id, did.step or None, did.reason
            )
        )
        self.wake()
        return run.id


def _position(record: RunRecord, step: str | None) -> int:
    """Where to begin again. Raises OperateError."""
    names = [one.name for one in record.run.steps]
    ended = [result.step for result in record.results]
    if step is None:
        failed = [result.step for result in record.results if result.state in _FAILED]
        if not failed:
            raise OperatorCommandError(
                f"no step failed or was refused; name one of {', '.join(names)}"
            )
        step = failed[0]
    if step not in names or names.index(step) > len(ended):
        raise OperatorCommandError(f"the run has no step `{step[:80]}`: {', '.join(names)}", 400)
    return names.index(step)
