"""A person's hand on the runs: the statements for leave, another try, and a pause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.journal import lanes, rows
from engine.journal.aside import FAR
from engine.run import RETRIED

if TYPE_CHECKING:
    import sqlite3

    from engine.playbook import Step
    from engine.run import Result


def decide(
    connection: sqlite3.Connection, run_id: str, verdict: tuple[str, str], now: float
) -> bool:
    """Have a held run go on, knowing the verdict and whose it is; False where it is not held."""
    row = connection.execute(
        "SELECT facts, target FROM runs WHERE id = ? AND held AND state = 'waiting'", (run_id,)
    ).fetchone()
    if row is None:
        return False
    facts = rows.decode(row["facts"])
    step = (facts.get("held") or [None])[0]
    facts["verdict"] = [step, *verdict]
    connection.execute(
        "UPDATE runs SET held = 0, due_at = iif(due_at < ?, ?, due_at), facts = ? WHERE id = ?",
        (FAR, now, rows.encode(facts), run_id),
    )
    return True


@dataclass(frozen=True, slots=True)
class Again:
    """Where a run that is over begins again, and what it keeps of before."""

    run: str
    position: int
    step: Step
    results: tuple[Result, ...]


def retry(connection: sqlite3.Connection, again: Again, now: float) -> bool:
    """Put a run that is over back into the queue; False where it is not over."""
    row = connection.execute(
        "SELECT facts, target FROM runs WHERE id = ? AND outcome IS NOT NULL", (again.run,)
    ).fetchone()
    if row is None:
        return False
    facts = rows.decode(row["facts"])
    for fact in ("held", "verdict"):
        facts.pop(fact, None)
    facts[RETRIED] = True
    connection.execute(
        "UPDATE runs SET state = 'queued', leased = 0, fence = fence + 1, position = ?, pool = ?,"
        " timeout = ?, attempt = 0, answers = 0, began = NULL, due_at = ?, results = ?, last = NULL,"
        " facts = ?, outcome = NULL, settled = NULL WHERE id = ?",
        (
            again.position, again.step.pool, again.step.timeout, now,
            rows.from_results(again.results), rows.encode(facts), again.run,
        ),
    )  # fmt: skip
    lanes.refresh(connection, row["target"])
    return True


def pause(connection: sqlite3.Connection, playbook: str, by: str, now: float) -> None:
    """Take the runs of a playbook from the heads of their lanes, so that the others pass."""
    connection.execute(
        "INSERT INTO paused VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (playbook, by, now)
    )
    heads = connection.execute(
        "SELECT DISTINCT target FROM runs WHERE state = 'head' AND playbook = ?", (playbook,)
    ).fetchall()
    connection.execute(
        "UPDATE runs SET state = 'queued' WHERE state = 'head' AND playbook = ?", (playbook,)
    )
    for row in heads:
        lanes.refresh(connection, row["target"])


def resume(connection: sqlite3.Connection, playbook: str | None) -> None:
    """End a pause, or all; what waited takes its place in its lane again."""
    if playbook is None:
        connection.execute("DELETE FROM paused")
    else:
        connection.execute("DELETE FROM paused WHERE playbook = ?", (playbook,))
    queued = connection.execute(
        "SELECT DISTINCT target FROM runs WHERE state = 'queued'"
        " AND playbook NOT IN (SELECT playbook FROM paused)"
    ).fetchall()
    for row in queued:
        lanes.refresh(connection, row["target"])
