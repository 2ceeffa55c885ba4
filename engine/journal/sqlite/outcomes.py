"""Settle attempts: statements that each write the outcomes of a batch of attempts.

At each statement, the interpreter lock is released and must be acquired again behind the workers. The number of
statements therefore determines the time of the writer, not the number of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal.sqlite import claims
from engine.journal.sqlite.claims import in_slices, placeholders

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from engine.journal.settlements import Settlement

_GIVEN = "WITH given (id, fence, {names}) AS (VALUES {rows}) UPDATE runs SET leased = 0, {sets}"
_NEWEST = (
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
"""Kind of settlement -> (names of its values, the SET clause). See engine.journal.settlements."""


def settle(connection: sqlite3.Connection, settlements: Sequence[Settlement]) -> list[bool]:
    """Write settlements. Return for each whether its claim was the newest and it was written."""
    written: set[tuple[str, int]] = set()
    for kind, (names, sets) in _KINDS.items():
        of_kind = [one for one in settlements if one.kind == kind]
        for some in in_slices(of_kind):
            statement = _GIVEN.format(
                names=", ".join(names), rows=placeholders(len(some), 2 + len(names)), sets=sets
            )
            found = connection.execute(
                statement + _NEWEST,
                [value for one in some for value in (one.key.id, one.key.fence, *one.values)],
            )
            written |= {(row["id"], row["fence"]) for row in found.fetchall()}
    newest = [(one.key.id, one.key.fence) in written for one in settlements]
    claims.update_heads(
        connection, *{s.key.target for s, done in zip(settlements, newest, strict=True) if done}
    )
    return newest
