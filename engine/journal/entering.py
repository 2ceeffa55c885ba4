"""What was accepted, as rows: JSON is made in the caller's thread, not in the writer's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal import rows
from engine.journal.lanes import Entering, Entry
from engine.target import named

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from engine.journal.journal import Accepted


def entering(accepted: Accepted, now: float) -> Entering:
    """The rows of what was accepted; runs of one event share its body."""
    events = {id(run.event): (run.event, run.trace) for run in accepted.runs}
    places = {key: place for place, key in enumerate(events)}
    bodies = [rows.from_event(*event) for event in events.values()]
    entries = [
        Entry(
            run.id,
            run.playbook,
            places[id(run.event)],
            run.target,
            named(run.event).namespace,
            run.received,
        )
        for run in sorted(accepted.runs, key=lambda run: run.playbook.name)
    ]
    return Entering(entries, bodies, now)


def kept(memory: Mapping[str, Any]) -> list[tuple[str, bytes | None]]:
    """Changes of the memory as rows: key -> JSON, or None to forget it."""
    return [(key, None if value is None else rows.encode(value)) for key, value in memory.items()]


def remember(connection: sqlite3.Connection, memory: list[tuple[str, bytes | None]]) -> None:
    """Write changes of the memory."""
    for key, value in memory:
        if value is None:
            connection.execute("DELETE FROM memory WHERE key = ?", (key,))
        else:
            connection.execute(
                "INSERT INTO memory VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                (key, value),
            )
