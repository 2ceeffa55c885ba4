"""Build runs, claims and run records from database rows. Shared by the backends."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from engine.journal import codec
from engine.journal.codec import UnreadableError
from engine.journal.protocol import Decision, RunRecord
from engine.model.run import COPIES, Claim, Run, StepResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.model.calls import ObjectChange
    from engine.model.playbook import Playbook

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
                run=self.run(row),
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
        )

    def run(self, row: Row) -> Run:
        """Build the run, with the event and the playbook version that it was accepted with."""
        raw = self._lookups.event(row["event"])
        if raw is None:
            raise UnreadableError("its event is not in the journal")
        event, trace = codec.to_event(raw)
        return Run(
            id=row["undoes"] or row["id"],
            playbook=self._playbook(row["digest"], row["blob"]),
            event=event,
            received=row["received"],
            target=row["target"],
            trace=trace,
            revision=row["revision"],
        )

    def _compile(self, digest: str, blob: str) -> Playbook:
        snapshot = self._lookups.snapshot(digest)
        if snapshot is None:
            raise UnreadableError("its playbook is not in the journal")
        # the snapshot does not contain the blob id of the file
        return replace(self._playbook_from_snapshot(snapshot), blob=blob)


def _current_result(run: Run, row: Row) -> StepResult:
    """Return the result of the current step: the last attempt, or ``running`` during an attempt."""
    if row["last"] is None:
        last = StepResult(run.steps[row["position"]].name, "running")
    else:
        last = codec.to_result(codec.decode(row["last"]))
    state = "running" if row["leased"] else last.state
    return replace(last, state=state, attempts=row["attempt"])
