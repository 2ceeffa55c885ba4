"""The conditions of a RunFilter, as SQL. Shared by the backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

if TYPE_CHECKING:
    from engine.journal.records import RunFilter

UNFINISHED: dict[str, LiteralString] = {
    "waiting": "state IN ('head', 'queued', 'waiting') AND NOT held",
    "running": "state = 'leased'",
    "held": "held AND state IS NOT NULL",
}
"""The conditions of the states of runs that are not over."""


def conditions(wanted: RunFilter, mark: LiteralString) -> tuple[LiteralString, list[Any]]:
    """Return the conditions for the columns of ``runs``, and their parameters. mark: of a parameter."""
    tests: list[LiteralString] = ["undoes IS NULL"]
    values: list[Any] = []
    if wanted.playbook is not None:
        tests.append(f"playbook = {mark}")
        values.append(wanted.playbook)
    if wanted.namespace is not None:
        tests.append(f"namespace = {mark}")
        values.append(wanted.namespace)
    if wanted.since is not None:
        tests.append(f"received >= {mark}")
        values.append(wanted.since)
    if wanted.state in UNFINISHED:
        tests.append(UNFINISHED[wanted.state])
    elif wanted.state is not None:
        tests.append(f"outcome = {mark}")
        values.append(wanted.state)
    return " AND ".join(tests), values
