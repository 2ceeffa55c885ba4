"""The JSON of runs on the admin port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.model.event import format_time
from engine.render.plan_json import event_json, step_json

if TYPE_CHECKING:
    from engine.journal.records import DeadLetter, DroppedRuns, Pause, RunRecord


def summary_json(record: RunRecord) -> dict[str, Any]:
    """Return a run for the history.

    state: the outcome if the run is over. message: the last message, or why the run failed or was refused.
    """
    run, results = record.run, record.results
    return {
        "run": run.id,
        "playbook": run.playbook.name,
        "mode": run.playbook.mode,
        "rule": run.event.rule,
        "target": run.target,
        "received": _at(run.received),
        "state": record.outcome
        or (results[-1].state if _has_current_result(record) else "waiting"),
        "message": _message(record),
    }


def record_json(record: RunRecord) -> dict[str, Any]:
    """Return the current state of a run. Its steps have the same keys as in ``plan -o json``."""
    run = record.run
    steps = {step.name: step for step in run.steps}
    return {
        "run": run.id,
        "playbook": run.playbook.name,
        "mode": run.playbook.mode,
        "runAs": run.playbook.run_as or None,
        "blob": run.playbook.blob,
        "revision": run.revision or None,
        "event": event_json(run.event),
        "alert": run.event.sent,
        "target": run.target,
        "received": _at(run.received),
        "outcome": record.outcome,
        "due": None if record.due_at is None else _at(record.due_at),
        "steps": [
            {
                **step_json(result, steps[result.step].action, steps[result.step].phase),
                "attempts": result.attempts,
                "answer": result.answer,
            }
            for result in record.results
        ],
        "undo": [
            {"step": step, "due": None if due is None else _at(due)}
            for step, due in record.undo.items()
        ],
        "decisions": [
            {
                "time": _at(one.at),
                "decision": one.what,
                "by": one.by,
                "step": one.step,
                "reason": one.reason,
            }
            for one in record.decisions
        ],
        "copies": list(record.copies),
        "left": [step.name for step in run.steps[len(record.results) :]],
    }


def pause_json(playbook: str, pause: Pause) -> dict[str, Any]:
    """Return a pause. playbook: a name, or ``*`` for all. until: null if it lasts until ``resume``."""
    return {
        "playbook": playbook,
        "by": pause.by,
        "since": _at(pause.since),
        "until": None if pause.until is None else _at(pause.until),
        "reason": pause.reason,
    }


def dropped_runs_json(drop: DroppedRuns) -> dict[str, Any]:
    """Return how many runs of a playbook were suppressed for one reason within an hour."""
    return {
        "playbook": drop.playbook,
        "reason": drop.reason,
        "key": drop.key,
        "count": drop.count,
        "first": _at(drop.first),
        "last": _at(drop.last),
    }


def dead_letter_json(dead: DeadLetter) -> dict[str, Any]:
    """Return a dead letter: input that is not an event."""
    return {
        "received": _at(dead.received),
        "source": dead.source,
        "error": dead.error,
        "body": dead.body.decode("utf-8", "replace"),
    }


def _message(record: RunRecord) -> str:
    """Return the message of the step that failed or was refused, else the last message."""
    state = record.outcome if record.outcome in ("failed", "refused") else None
    why = [result for result in record.results if result.state == state]
    return next((one.message for one in (*why, *reversed(record.results)) if one.message), "")


def _has_current_result(record: RunRecord) -> bool:
    """Return whether the last result is that of the current step."""
    return record.position is not None and len(record.results) > record.position


def _at(seconds: float) -> str:
    return format_time(int(seconds * 1000) * 1_000_000)
