"""How attempts ended, as rows: a batch of them in a few statements.

The interpreter's lock is given away around every statement and got back behind the workers, so that what
costs the writer time is the number of statements, not of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.journal.sqlite import scheduler
from engine.journal.sqlite.scheduler import Holder, in_slices, places

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from engine.model.playbook import Step
    from engine.model.run import Outcome

_GIVEN = "WITH given (id, fence, {names}) AS (VALUES {places}) UPDATE runs SET leased = 0, {sets}"
_OF = (
    " FROM given WHERE runs.id = given.id AND runs.fence = given.fence AND runs.leased"
    " RETURNING runs.id, runs.fence"
)
_WAIT = (
    "state = 'waiting', due_at = given.due_at, last = given.last,"
    " answers = answers + given.answered, held = given.held"
)
_ADVANCE = (
    "state = 'queued', due_at = given.due_at, last = NULL, results = given.results,"
    " position = given.position, pool = given.pool, timeout = given.timeout, attempt = 0,"
    " answers = 0, began = NULL"
)
_END = (
    "state = NULL, due_at = NULL, last = NULL, results = given.results, position = NULL,"
    " pool = NULL, outcome = given.outcome, settled = given.settled"
)
_KINDS = {
    "wait": (("due_at", "last", "answered", "held"), _WAIT),
    "advance": (("due_at", "results", "position", "pool", "timeout"), _ADVANCE),
    "end": (("results", "outcome", "settled"), _END),
}
"""Of each kind of end: what is given of it, and what it makes of the row."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How one attempt ended. kind: of ``_KINDS``; values: what that wants."""

    holder: Holder
    kind: str
    values: tuple[Any, ...]


def wait(holder: Holder, due_at: float, last: bytes, outcome: Outcome) -> Ended:
    """It waits until ``due_at``."""
    held = int(outcome.state == "held")
    return Ended(holder, "wait", (due_at, last, int(outcome.answered), held))


def advance(holder: Holder, to: tuple[int, Step], results: bytes, now: float) -> Ended:
    """It goes on to the step at that position, due now."""
    position, step = to
    return Ended(holder, "advance", (now, results, position, step.pool, step.timeout))


def end(holder: Holder, outcome: str, results: bytes, now: float) -> Ended:
    """The run is over."""
    return Ended(holder, "end", (results, outcome, now))


def settle(connection: sqlite3.Connection, endings: Sequence[Ended]) -> list[bool]:
    """Write how attempts ended; of each whether it was the newest of its run, or nothing was written."""
    moved: set[tuple[str, int]] = set()
    for kind, (names, sets) in _KINDS.items():
        of_kind = [ended for ended in endings if ended.kind == kind]
        for some in in_slices(of_kind):
            statement = _GIVEN.format(
                names=", ".join(names), places=places(len(some), 2 + len(names)), sets=sets
            )
            found = connection.execute(
                statement + _OF,
                [part for e in some for part in (e.holder.id, e.holder.fence, *e.values)],
            )
            moved |= {(row["id"], row["fence"]) for row in found.fetchall()}
    whole = [(ended.holder.id, ended.holder.fence) in moved for ended in endings]
    scheduler.refresh(
        connection, *{e.holder.target for e, done in zip(endings, whole, strict=True) if done}
    )
    return whole
