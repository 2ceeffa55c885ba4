"""The statements of the operator commands: an approval, another try, a pause."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.journal import codec
from engine.journal.protocol import Decision
from engine.journal.sqlite import scheduler
from engine.journal.sqlite.dry_run import FAR
from engine.model import json_codec
from engine.model.run import RETRIED

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from engine.journal.protocol import Pause
    from engine.model.playbook import Step
    from engine.model.run import StepResult


MOST_DECISIONS = 20
"""Decisions that a run keeps, the newest."""


def decide(connection: sqlite3.Connection, run_id: str, decision: Decision) -> bool:
    """Have a held run go on, knowing the decision; False if it is not held."""
    row = connection.execute(
        "SELECT facts, target FROM runs WHERE id = ? AND held AND state = 'waiting'", (run_id,)
    ).fetchone()
    if row is None:
        return False
    facts = codec.decode(row["facts"])
    step = (facts.get("held") or [None])[0]
    facts["verdict"] = [step, decision.what, decision.by, decision.reason]
    facts["decisions"] = _with(facts, decision)
    connection.execute(
        "UPDATE runs SET held = 0, due_at = iif(due_at < ?, ?, due_at), facts = ? WHERE id = ?",
        (FAR, decision.at, json_codec.encode_json(facts), run_id),
    )
    return True


def note(connection: sqlite3.Connection, run_id: str, decision: Decision) -> None:
    """Keep a decision with its run."""
    row = connection.execute("SELECT facts FROM runs WHERE id = ?", (run_id,)).fetchone()
    if row is None:
        return
    facts = codec.decode(row["facts"])
    facts["decisions"] = _with(facts, decision)
    connection.execute(
        "UPDATE runs SET facts = ? WHERE id = ?", (json_codec.encode_json(facts), run_id)
    )


def _with(facts: Mapping[str, Any], decision: Decision) -> list[Any]:
    """The decisions of a run and one more, as data."""
    return [*facts.get("decisions", ()), dataclasses.asdict(decision)][-MOST_DECISIONS:]


def decisions(facts: Mapping[str, Any]) -> tuple[Decision, ...]:
    """The decisions among the facts of a run."""
    return tuple(Decision(**decision) for decision in facts.get("decisions", ()))


@dataclass(frozen=True, slots=True)
class Again:
    """Where a run that is over begins again, and what it keeps of before."""

    run: str
    position: int
    step: Step
    results: tuple[StepResult, ...]


def retry(connection: sqlite3.Connection, again: Again, decision: Decision) -> bool:
    """Put a run that is over back into the queue; False where it is not over."""
    row = connection.execute(
        "SELECT facts, target FROM runs WHERE id = ? AND outcome IS NOT NULL", (again.run,)
    ).fetchone()
    if row is None:
        return False
    facts = codec.decode(row["facts"])
    for fact in ("held", "verdict"):
        facts.pop(fact, None)
    facts[RETRIED] = True
    facts["decisions"] = _with(facts, decision)
    connection.execute(
        "UPDATE runs SET state = 'queued', leased = 0, fence = fence + 1, position = ?, pool = ?,"
        " timeout = ?, attempt = 0, answers = 0, began = NULL, due_at = ?, results = ?, last = NULL,"
        " facts = ?, outcome = NULL, settled = NULL WHERE id = ?",
        (
            again.position, again.step.pool, again.step.timeout, decision.at,
            codec.from_results(again.results), json_codec.encode_json(facts), again.run,
        ),
    )  # fmt: skip
    scheduler.refresh(connection, row["target"])
    return True


def pause(connection: sqlite3.Connection, playbook: str, pause: Pause) -> None:
    """Take the runs of a playbook from the heads of their lanes, so that the others pass."""
    connection.execute(
        "INSERT INTO paused (playbook, by, since, until, reason) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET by = excluded.by, until = excluded.until, reason = excluded.reason",
        (playbook, pause.by, pause.since, pause.until, pause.reason),
    )
    heads = connection.execute(
        "SELECT DISTINCT target FROM runs WHERE state = 'head' AND playbook = ?", (playbook,)
    ).fetchall()
    connection.execute(
        "UPDATE runs SET state = 'queued' WHERE state = 'head' AND playbook = ?", (playbook,)
    )
    for row in heads:
        scheduler.refresh(connection, row["target"])


def resume(connection: sqlite3.Connection, playbook: str | None) -> None:
    """End a pause, or all; what waited takes its place in its lane again."""
    if playbook is None:
        connection.execute("DELETE FROM paused")
    else:
        connection.execute("DELETE FROM paused WHERE playbook = ?", (playbook,))
    _refill(connection)


def end_pauses(connection: sqlite3.Connection, now: float) -> list[str]:
    """End the pauses whose time is over; what they were on."""
    ended = connection.execute(
        "DELETE FROM paused WHERE until <= ? RETURNING playbook", (now,)
    ).fetchall()
    if ended:
        _refill(connection)
    return [row["playbook"] for row in ended]


def _refill(connection: sqlite3.Connection) -> None:
    """Give the runs that no pause concerns any more their places in their lanes."""
    queued = connection.execute(
        "SELECT DISTINCT target FROM runs WHERE state = 'queued'"
        " AND playbook NOT IN (SELECT playbook FROM paused)"
    ).fetchall()
    for row in queued:
        scheduler.refresh(connection, row["target"])
