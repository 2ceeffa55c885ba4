"""Operator commands: approve or deny a held run, retry, undo, pause and resume."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from engine.journal import protocol
from engine.journal.codec import UnreadableError
from engine.journal.records import Decision, Pause
from engine.language import duration
from engine.language.findings import nearest
from engine.model.operator_identity import canonical_operator
from engine.model.playbook import ALL_PLAYBOOKS
from engine.model.safe_text import printable
from engine.telemetry.events import CommandExecuted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from engine.journal.records import DecisionResult, RunRecord
    from engine.telemetry.events import Observers

_ID = re.compile(r"[0-9a-f]{6,32}")
_FAILED = ("failed", "refused")
_FIND = "to list the runs: tiercel history"
_SHOW = "to see its steps: tiercel show RUN"
MAX_REASON = 1_000
"""Largest number of characters of a reason."""
MAX_PAUSE = 366 * 86_400.0
"""Longest pause with an end, in seconds."""


class CommandJournal(protocol.OperatorCommands, protocol.History, protocol.State, Protocol):
    """The parts of the journal that operator commands use."""


class OperatorCommandError(Exception):
    """A command that cannot be executed. The message is shown to the operator. status: of the HTTP reply."""

    def __init__(self, what: str, status: int = 409, hint: str | None = None) -> None:
        super().__init__(what)
        self.status, self.hint = status, hint


@dataclass(frozen=True, slots=True)
class Author:
    """The operator who gives a command, and the reason, which is stored escaped.

    Raises OperatorCommandError if the reason is too long.
    """

    by: str
    reason: str = ""

    def __post_init__(self) -> None:
        if len(self.reason) > MAX_REASON:
            raise OperatorCommandError(f"a reason has at most {MAX_REASON:,} characters", 400)
        object.__setattr__(self, "reason", printable(self.reason))


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision on a held run. missing: approvals of other operators that the step still needs."""

    run: str
    step: str
    missing: int = 0


@dataclass(frozen=True, slots=True)
class OperatorCommands:
    """Executes the commands of operators.

    wake: wakes the workers.
    apply_pauses: receives the names of the paused playbooks after each change.
    now: returns epoch seconds.
    playbooks: returns the names of the playbooks in force.
    """

    journal: CommandJournal
    observers: Observers
    wake: Callable[[], None]
    apply_pauses: Callable[[Collection[str]], None]
    now: Callable[[], float]
    playbooks: Callable[[], Collection[str]]

    def find(self, run: str) -> RunRecord:
        """Return the run with an id, or with a unique prefix of an id.

        Raises OperatorCommandError, JournalError.
        """
        if not _ID.fullmatch(run):
            raise OperatorCommandError(
                "no run has this id: it is 32 hex digits, or its first 6 or more", 404, _FIND
            )
        ids = self.journal.find_ids(run)
        if not ids:
            raise OperatorCommandError("no run has this id", 404, _FIND)
        if len(ids) > 1:
            what = f"the ids of several runs begin with `{run}`: {', '.join(ids)}"
            raise OperatorCommandError(what, hint="give more digits")
        try:
            record = self.journal.find(ids[0])
        except UnreadableError as error:
            raise OperatorCommandError(str(error), 410) from None
        if record is None:
            raise OperatorCommandError("no run has this id", 404, _FIND)
        return record

    def decide(self, run: str, verdict: str, author: Author) -> Decided:
        """Approve or deny a held run. Raises OperatorCommandError, JournalError."""
        record = self.find(run)
        step, approvals = _step_to_decide(record, author)
        decision = self._decision(verdict, author, step)
        result = self.journal.decide(record.run.id, decision, approvals)
        if result is None:
            raise OperatorCommandError(_not_held(record))
        if not result.counts:
            raise OperatorCommandError(*_counts_once(result, author))
        return Decided(self._complete(decision, record, result.missing), step, result.missing)

    def retry(self, run: str, step: str | None, author: Author) -> str:
        """Repeat a completed run from a step on. Return its id. Raises OperatorCommandError, JournalError.

        step: None for the first one that failed or was refused.
        """
        record = self.find(run)
        if record.outcome is None:
            raise OperatorCommandError("the run is not over yet", hint=_SHOW)
        position = _start_index(record, step)
        decision = self._decision("retry", author, record.run.steps[position].name)
        if not self.journal.retry(record.run.id, position, decision):
            raise OperatorCommandError("the run is not over yet", hint=_SHOW)
        return self._complete(decision, record)

    def undo(self, run: str, author: Author) -> tuple[str, list[str]]:
        """Undo the changes of a completed run. Return its id, and the names of the steps to undo.

        Raises OperatorCommandError, JournalError.
        """
        record = self.find(run)
        if record.outcome is None:
            raise OperatorCommandError("the run is not over yet", hint=_SHOW)
        decision = self._decision("undo", author)
        steps = self.journal.undo(record.run.id, decision) if record.undo else []
        if not steps:
            raise OperatorCommandError("nothing is left of this run that can be undone", hint=_SHOW)
        return self._complete(replace(decision, step=", ".join(steps)), record), steps

    def pause(self, playbook: str | None, author: Author, lasts: str | None = None) -> list[str]:
        """Pause a playbook, or all. Return the names of the paused playbooks.

        lasts: a duration such as ``2h``, after which the pause ends; None for no end.
        Raises OperatorCommandError, JournalError.
        """
        if playbook not in (None, ALL_PLAYBOOKS):
            self.check_playbook(str(playbook))
        now, seconds = self.now(), duration.seconds(lasts)
        if lasts is not None and (seconds is None or seconds > MAX_PAUSE):
            raise OperatorCommandError(f"`for` is a duration of at most 366d, {duration.HINT}", 400)
        until = None if seconds is None else now + seconds
        self.journal.pause(playbook, Pause(author.by, now, until, author.reason))
        return self._announce("pause", playbook, author)

    def resume(self, playbook: str | None, author: Author) -> list[str]:
        """End the pause of a playbook, or all pauses. Return the names of the playbooks that stay paused.

        Raises OperatorCommandError, JournalError.
        """
        if playbook is not None and playbook not in self.journal.paused():
            self.check_playbook(playbook)
        self.journal.resume(playbook)
        return self._announce("resume", playbook, author)

    def end_pauses(self) -> None:
        """End the pauses that have expired. Raises JournalError."""
        now = self.now()
        if any(
            one.until is not None and one.until <= now for one in self.journal.paused().values()
        ):
            for playbook in self.journal.end_pauses(now):
                self._announce(
                    "resume", playbook, Author("tiercel", "the time of the pause is over")
                )

    def paused(self) -> list[str]:
        """Return the names of the paused playbooks. ``*`` means all playbooks."""
        return sorted(self.journal.paused())

    def check_playbook(self, name: str) -> None:
        """Raise OperatorCommandError if no playbook in force has the name."""
        names = self.playbooks()
        if name not in names:
            near = nearest(name, names)
            hint = f"; did you mean `{near}`?" if near else ""
            raise OperatorCommandError(
                f"no playbook in force is called `{printable(name[:80])}`{hint}", 400
            )

    def _announce(self, what: str, playbook: str | None, author: Author) -> list[str]:
        names = self.paused()
        self.apply_pauses(names)
        name = playbook or ALL_PLAYBOOKS
        self.observers.notify(
            CommandExecuted(what, author.by, self.now(), playbook=name, reason=author.reason)
        )
        self.wake()
        return names

    def _decision(self, what: str, author: Author, step: str = "") -> Decision:
        return Decision(what, author.by, self.now(), author.reason, step)

    def _complete(self, decision: Decision, record: RunRecord, missing: int = 0) -> str:
        run = record.run
        self.observers.notify(
            CommandExecuted(
                decision.what,
                decision.by,
                decision.at,
                run.playbook.name,
                run.id,
                decision.step or None,
                decision.reason,
                missing,
            )
        )
        self.wake()
        return run.id


def _step_to_decide(record: RunRecord, author: Author) -> tuple[str, int]:
    """Return the name of the current step, empty after the end of the run, and the approvals that it needs.

    Raises OperatorCommandError if only other operators can decide on the step.
    """
    if record.position is None:
        return "", 1
    step = record.run.steps[record.position]
    if step.action != "approval.wait":
        return step.name, 1
    operators = step.parameters.get("from")
    by = canonical_operator(author.by)
    if operators and by not in map(canonical_operator, operators):
        names = " or ".join(operators)
        raise OperatorCommandError(f"only {names} can decide on the step `{step.name}`", 403)
    return step.name, step.parameters.get("approvals") or 1


def _not_held(record: RunRecord) -> str:
    """Return the sentence for a decision on a run that is not held. It names the earlier decision."""
    state = record.outcome or (record.results[-1].state if record.results else "waiting")
    earlier = [one for one in record.decisions if one.what in ("approve", "deny")]
    done = {"approve": "approved", "deny": "denied"}
    who = f"; {earlier[-1].by} {done[earlier[-1].what]} it" if earlier else ""
    return f"the run is not held, it is {state}{who}"


def _counts_once(result: DecisionResult, author: Author) -> tuple[str, int, str]:
    """Return the error for a second approval by the same operator: sentence, status and hint."""
    missing = f"the step needs {result.missing} more"
    by = canonical_operator(author.by)
    if by in map(canonical_operator, result.approved_by):
        hint = "another operator must approve"
        return f"{author.by} has approved already; {missing}", 409, hint
    names = " and ".join(result.approved_by)
    what = f"{author.by} may be the same person as {names}, who has approved already; {missing}"
    return what, 409, "add `NAME ROLE kubernetes:USER` to the operators file"


def _start_index(record: RunRecord, step: str | None) -> int:
    """Return the index of the step to repeat from. Raises OperatorCommandError."""
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
