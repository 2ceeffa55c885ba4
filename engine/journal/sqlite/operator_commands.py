"""The statements of the operator commands: approve, deny, retry, pause and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal import codec, decisions
from engine.journal.sqlite import claims
from engine.journal.sqlite.dry_run import POSTPONED_DUE_AT
from engine.model import json_codec

if TYPE_CHECKING:
    import sqlite3

    from engine.journal.decisions import Retry
    from engine.journal.records import Decision, DecisionResult, Pause


def decide(
    connection: sqlite3.Connection, run_id: str, decision: Decision, approvals: int
) -> DecisionResult | None:
    """Write a decision on a held run; see OperatorCommands.decide."""
    row = connection.execute(
        "SELECT facts, target FROM runs WHERE id = ? AND held AND state = 'waiting'", (run_id,)
    ).fetchone()
    decided = row and decisions.decide(codec.decode(row["facts"]), decision, approvals)
    if not decided:
        return None
    attempt_state, result = decided
    facts = json_codec.encode_json(attempt_state)
    if result.missing:
        connection.execute("UPDATE runs SET facts = ? WHERE id = ?", (facts, run_id))
    else:
        connection.execute(
            "UPDATE runs SET held = 0, due_at = iif(due_at < ?, ?, due_at), facts = ? WHERE id = ?",
            (POSTPONED_DUE_AT, decision.at, facts, run_id),
        )
    return result


def add_decision(connection: sqlite3.Connection, run_id: str, decision: Decision) -> None:
    """Add a decision to the attempt state of a run."""
    row = connection.execute("SELECT facts FROM runs WHERE id = ?", (run_id,)).fetchone()
    if row is None:
        return
    attempt_state = decisions.with_decision(codec.decode(row["facts"]), decision)
    connection.execute(
        "UPDATE runs SET facts = ? WHERE id = ?", (json_codec.encode_json(attempt_state), run_id)
    )


def retry(connection: sqlite3.Connection, again: Retry, decision: Decision) -> bool:
    """Queue a finished run again. Return False if the run is not finished."""
    row = connection.execute(
        "SELECT facts, target FROM runs WHERE id = ? AND outcome IS NOT NULL", (again.run,)
    ).fetchone()
    if row is None:
        return False
    attempt_state = decisions.retried(codec.decode(row["facts"]), decision)
    connection.execute(
        "UPDATE runs SET state = 'queued', leased = 0, fence = fence + 1, position = ?, pool = ?,"
        " timeout = ?, attempt = 0, answers = 0, began = NULL, due_at = ?, results = ?, last = NULL,"
        " facts = ?, outcome = NULL, settled = NULL WHERE id = ?",
        (
            again.position, again.step.pool, again.step.timeout, decision.at,
            codec.from_results(again.results), json_codec.encode_json(attempt_state), again.run,
        ),
    )  # fmt: skip
    claims.update_heads(connection, row["target"])
    return True


def pause(connection: sqlite3.Connection, playbook: str, pause: Pause) -> None:
    """Write a pause, and let other runs pass those of the playbook in their target queues."""
    connection.execute(
        "INSERT INTO pauses (playbook, by, since, until, reason) VALUES (?, ?, ?, ?, ?)"
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
        claims.update_heads(connection, row["target"])


def resume(connection: sqlite3.Connection, playbook: str | None) -> None:
    """End the pause of a playbook (None: every pause)."""
    if playbook is None:
        connection.execute("DELETE FROM pauses")
    else:
        connection.execute("DELETE FROM pauses WHERE playbook = ?", (playbook,))
    _update_all_heads(connection)


def end_pauses(connection: sqlite3.Connection, now: float) -> list[str]:
    """End the pauses whose time is over. Return the names of their playbooks."""
    ended = connection.execute(
        "DELETE FROM pauses WHERE until <= ? RETURNING playbook", (now,)
    ).fetchall()
    if ended:
        _update_all_heads(connection)
    return [row["playbook"] for row in ended]


def _update_all_heads(connection: sqlite3.Connection) -> None:
    """Let the runs that are not paused any longer become heads of their target queues."""
    queued = connection.execute(
        "SELECT DISTINCT target FROM runs WHERE state = 'queued'"
        " AND playbook NOT IN (SELECT playbook FROM pauses)"
    ).fetchall()
    for row in queued:
        claims.update_heads(connection, row["target"])
