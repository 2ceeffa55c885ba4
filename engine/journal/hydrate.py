"""Build runs, claims and run records from database rows. Shared by the backends."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from engine.journal import codec
from engine.journal.codec import UnreadableError
from engine.journal.records import ChangeInForce, Decision, RunRecord
from engine.model.attempt_state import COPIES
from engine.model.calls import ObjectChange
from engine.model.errors import PlaybookError
from engine.model.playbook import Match, Playbook, Step
from engine.model.run import Claim, Run, StepResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


CACHED_PLAYBOOKS = 256
"""Number of compiled playbooks to keep."""


class Row(Protocol):
    """A row of the table ``runs``, by column name."""

    def __getitem__(self, column: str, /) -> Any:
        """Return the value of a column."""
        ...


class Lookups(Protocol):
    """The queries that a backend provides for the data outside the row of a run."""

    def event(self, reference: Any) -> bytes | None:
        """Return the encoded event to which the column ``event`` of a row refers, or None."""
        ...

    def snapshot(self, digest: str) -> bytes | None:
        """Return the snapshot of the playbook with this digest, or None."""
        ...

    def undo_changes(self, undo: str) -> tuple[ObjectChange, ...]:
        """Return the changes that an undo reverts, in the order in which they were made."""
        ...

    def undo_steps(self, run: str) -> Mapping[int, float | None]:
        """Return the steps of a run that can be undone: position -> epoch seconds, or None (on request)."""
        ...


class Hydrator:
    """Builds records from rows. Methods raise UnreadableError for unreadable rows, and JournalError.

    playbook_from_snapshot: compiles a stored playbook; raises PlaybookError.
    """

    def __init__(
        self, lookups: Lookups, playbook_from_snapshot: Callable[[bytes], Playbook]
    ) -> None:
        self._lookups = lookups
        self._playbook_from_snapshot = playbook_from_snapshot
        self._playbook = lru_cache(maxsize=CACHED_PLAYBOOKS)(self._compile)

    def claim(self, row: Row, now: float) -> Claim:
        """Build the claim that was just made. row: the row before the claim."""
        with codec.readable(row["id"]):
            return Claim(
                run=self._build_run(row, self._playbook_to_undo(row))
                if row["undoes"]
                else self.run(row),
                position=row["position"],
                attempt=row["attempt"] + 1,
                answers=row["answers"],
                began=now if row["began"] is None else row["began"],
                interrupted=bool(row["leased"]),
                attempt_state=codec.decode(row["facts"]),
                results=codec.to_results(row["results"]),
                fence=row["fence"] + 1,
                undo=row["id"] if row["undoes"] else None,
                changes=self._lookups.undo_changes(row["id"]) if row["undoes"] else (),
            )

    def record(self, row: Row) -> RunRecord:
        """Build the record of a run in its current state."""
        with codec.readable(row["id"]):
            run = self.run(row)
            results = codec.to_results(row["results"])
            if row["leased"] or row["last"] is not None:
                results += (_current_result(run, row),)
            undo = {
                run.steps[position].name: due
                for position, due in self._lookups.undo_steps(run.id).items()
            }
            attempt_state = codec.decode(row["facts"])
            decisions = tuple(Decision(**one) for one in attempt_state.get("decisions", ()))
            hold: list[Any] = [*attempt_state.get("held", ())]
        return RunRecord(
            run=run,
            results=results,
            position=row["position"],
            attempt=row["attempt"],
            due_at=row["due_at"],
            outcome=row["outcome"],
            undo=undo,
            decisions=decisions,
            copies=tuple(attempt_state.get(COPIES, ())),
            notice=hold[2] if len(hold) > 2 else "",  # noqa: PLR2004 - step, time, notice
        )

    def change_in_force(self, row: Row) -> ChangeInForce:
        """Build a change that is not undone.

        row: the row of the undo in ``runs``, with ``change`` and ``until`` of its undo intent. ``ended``: the
        results of its run.
        """
        with codec.readable(row["id"]):
            change = ObjectChange.of(codec.decode(row["change"]))
            last = None if row["last"] is None else codec.to_result(codec.decode(row["last"]))
            step = self._playbook_to_undo(row).steps[row["position"]].name
            ended = [] if row["ended"] is None else codec.to_results(row["ended"])
            states = {result.step: result.state for result in ended}
        return ChangeInForce(
            change=change,
            run=row["undoes"],
            playbook=row["playbook"],
            step=step,
            received=row["received"],
            until=row["until"],
            next_attempt=row["due_at"],
            attempts=row["attempt"],
            message="" if last is None else last.message,
            state=states.get(step, "running") if row["ended"] is not None else "",
        )

    def run(self, row: Row) -> Run:
        """Build the run, with the event and the playbook version that it was accepted with."""
        return self._build_run(row, self._playbook(row["digest"], row["blob"]))

    def _build_run(self, row: Row, playbook: Playbook) -> Run:
        raw = self._lookups.event(row["event"])
        if raw is None:
            raise UnreadableError("its event is not in the journal")
        event, trace = codec.to_event(raw)
        return Run(
            id=row["undoes"] or row["id"],
            playbook=playbook,
            event=event,
            received=row["received"],
            target=row["target"],
            trace=trace,
            revision=row["revision"],
        )

    def _playbook_to_undo(self, row: Row) -> Playbook:
        """Return the playbook of an undo, or its outline if this engine does not have its actions any more."""
        try:
            return self._playbook(row["digest"], row["blob"])
        except (UnreadableError, PlaybookError):
            return _outline(row["playbook"], self._lookups.snapshot(row["digest"]) or b"{}")

    def _compile(self, digest: str, blob: str) -> Playbook:
        snapshot = self._lookups.snapshot(digest)
        if snapshot is None:
            raise UnreadableError("its playbook is not in the journal")
        # the snapshot does not contain the blob id of the file
        return replace(self._playbook_from_snapshot(snapshot), blob=blob)


def _outline(name: str, snapshot: bytes) -> Playbook:
    """Return a stored playbook with the names and the actions of its steps only."""
    spec = codec.decode(snapshot).get("spec") or {}
    steps = [*spec.get("actions", ()), *spec.get("finally", ())]
    return Playbook(
        name,
        Match(),
        tuple(Step(one.get("name", one["action"]), one["action"], {}) for one in steps),
        run_as=spec.get("runAs", ""),
    )


def _current_result(run: Run, row: Row) -> StepResult:
    """Return the result of the current step: the last attempt, or ``running`` during an attempt."""
    if row["last"] is None:
        last = StepResult(run.steps[row["position"]].name, "running")
    else:
        last = codec.to_result(codec.decode(row["last"]))
    state = "running" if row["leased"] else last.state
    return replace(last, state=state, attempts=row["attempt"])
