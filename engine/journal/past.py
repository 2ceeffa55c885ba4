"""The runs as a list: what has been, and what is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3

    from engine.journal.journal import Wanted

_STATES = {
    "waiting": "state IN ('head', 'queued', 'waiting') AND NOT held",
    "running": "state = 'leased'",
    "held": "held AND state IS NOT NULL",
}


def select(connection: sqlite3.Connection, wanted: Wanted) -> list[sqlite3.Row]:
    """The rows, the newest first."""
    tests: list[str] = []
    values: list[Any] = []
    for column, value in (("playbook", wanted.playbook), ("namespace", wanted.namespace)):
        if value is not None:
            tests.append(f"{column} = ?")
            values.append(value)
    if wanted.since is not None:
        tests.append("received >= ?")
        values.append(wanted.since)
    if wanted.state in _STATES:
        tests.append(_STATES[wanted.state])
    elif wanted.state is not None:
        tests.append("outcome = ?")
        values.append(wanted.state)
    where = f"WHERE {' AND '.join(tests)}" if tests else ""
    found: list[sqlite3.Row] = connection.execute(
        f"SELECT * FROM runs {where} ORDER BY seq DESC LIMIT ?",  # noqa: S608 - made of our own words
        (*values, wanted.limit),
    ).fetchall()
    return found
