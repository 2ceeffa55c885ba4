"""The statements of the operator commands: approve, deny, retry, pause and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal import codec, decisions
from engine.journal.postgres import claims
from engine.journal.postgres.arrival_functions import MOVER_LOCK
from engine.journal.postgres.schema import COLUMNS
from engine.model import json_codec

if TYPE_CHECKING:
    from engine.journal.decisions import Retry
    from engine.journal.postgres.connection import Connection
    from engine.journal.records import Decision, DecisionResult, Pause


def decide(
    connection: Connection, run_id: str, decision: Decision, approvals: int
) -> DecisionResult | None:
    """Write a decision on a held run; see OperatorCommands.decide."""
    row = connection.execute(
        "SELECT facts FROM runs WHERE id = %s AND held AND state = 'waiting' FOR UPDATE",
        (run_id,),
        binary=True,
    ).fetchone()
    decided = row and decisions.decide(codec.decode(row["facts"]), decision, approvals)
    if not decided:
        return None
    attempt_state, result = decided
    facts = json_codec.encode_json(attempt_state)
    if result.missing:
        connection.execute("UPDATE runs SET facts = %s WHERE id = %s", (facts, run_id))
    else:
        connection.execute(
            "UPDATE runs SET held = false, due_at = %s, facts = %s WHERE id = %s",
            (decision.at, facts, run_id),
        )
    return result


def add_decision(connection: Connection, run_id: str, decision: Decision) -> None:
    """Add a decision to the attempt state of a run."""
    for table in ("runs", "history"):
        row = connection.execute(
            f"SELECT facts FROM {table} WHERE id = %s FOR UPDATE",
            (run_id,),
            binary=True,
        ).fetchone()
        if row is None:
            continue
        attempt_state = decisions.with_decision(codec.decode(row["facts"]), decision)
        connection.execute(
            f"UPDATE {table} SET facts = %s WHERE id = %s",
            (json_codec.encode_json(attempt_state), run_id),
        )


def retry(connection: Connection, again: Retry, decision: Decision) -> bool:
    """Queue a finished run again. Return False if the run is not finished."""
    claims.ensure_targets(connection, [again.target])
    row = connection.execute(
        "SELECT day, facts FROM history WHERE id = %s FOR UPDATE", (again.run,), binary=True
    ).fetchone()
    if row is None:
        return False
    attempt_state = decisions.retried(codec.decode(row["facts"]), decision)
    connection.execute(
        f"WITH gone AS (DELETE FROM history WHERE id = %s RETURNING *)"
        f" INSERT INTO runs ({COLUMNS}) SELECT {COLUMNS} FROM gone",
        (again.run,),
    )
    connection.execute(
        "UPDATE runs SET state = 'queued', leased = false, fence = fence + 1, position = %s, pool = %s,"
        " timeout = %s, attempt = 0, answers = 0, began = NULL, due_at = %s, results = %s, last = NULL,"
        " facts = %s, outcome = NULL, settled = NULL WHERE id = %s",
        (
            again.position, again.step.pool, again.step.timeout, decision.at,
            codec.from_results(again.results), json_codec.encode_json(attempt_state), again.run,
        ),
    )  # fmt: skip
    claims.update_heads(connection, [again.target])
    return True


def pause(connection: Connection, playbook: str, pause: Pause) -> None:
    """Write a pause, and let other runs pass those of the playbook in their target queues."""
    _wait_for_mover(connection)
    connection.execute(
        "INSERT INTO pauses (playbook, by, since, until, reason) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (playbook) DO UPDATE"
        " SET by = excluded.by, until = excluded.until, reason = excluded.reason",
        (playbook, pause.by, pause.since, pause.until, pause.reason),
    )
    heads = connection.execute(
        "SELECT DISTINCT target FROM runs WHERE state = 'head' AND playbook = %s", (playbook,)
    ).fetchall()
    targets = [row["target"] for row in heads]
    if targets:
        claims.lock_targets(connection, targets)
        claims.update_heads(connection, targets)


def resume(connection: Connection, playbook: str | None) -> None:
    """End the pause of a playbook (None: every pause)."""
    _wait_for_mover(connection)
    if playbook is None:
        connection.execute("DELETE FROM pauses")
    else:
        connection.execute("DELETE FROM pauses WHERE playbook = %s", (playbook,))
    _update_all_heads(connection)


def end_pauses(connection: Connection, now: float) -> list[str]:
    """End the pauses whose time is over. Return the names of their playbooks."""
    if not connection.execute("SELECT 1 AS ends FROM pauses WHERE until <= %s", (now,)).fetchone():
        return []
    _wait_for_mover(connection)
    ended = connection.execute(
        "DELETE FROM pauses WHERE until <= %s RETURNING playbook", (now,)
    ).fetchall()
    _update_all_heads(connection)
    return [row["playbook"] for row in ended]


def _wait_for_mover(connection: Connection) -> None:
    """Let no arrived runs be moved until the end of the transaction.

    A move locks the pauses while it has the rows of targets, and a pause locks them in the other order.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (MOVER_LOCK,))


def _update_all_heads(connection: Connection) -> None:
    """Let the runs that are not paused any longer become heads of their target queues."""
    queued = connection.execute(
        "SELECT DISTINCT target FROM runs WHERE state = 'queued'"
        " AND playbook NOT IN (SELECT playbook FROM pauses)"
    ).fetchall()
    targets = [row["target"] for row in queued]
    if targets:
        claims.lock_targets(connection, targets)
        claims.update_heads(connection, targets)
