"""A previewed event as JSON (``plan -o json``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.model.calls import call_json, request_json
from engine.model.event import PRIORITIES, format_time, identity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.model.event import Event
    from engine.model.run import StepResult
    from engine.preview.preview import PreviewedRun


def event_json(event: Event) -> dict[str, Any]:
    """Return what identifies an event."""
    return {
        "id": identity(event),
        "rule": event.rule,
        "priority": None if event.priority is None else PRIORITIES[event.priority],
        "time": format_time(event.time_ns),
    }


def line_json(event: Event, runs: Sequence[PreviewedRun]) -> dict[str, Any]:
    """Return one line of ``plan -o json``."""
    return {"event": event_json(event), "runs": [run_json(run) for run in runs]}


def run_json(previewed: PreviewedRun) -> dict[str, Any]:
    """Return one run. A suppressed run has no steps."""
    run = previewed.run
    steps = {step.name: step for step in run.steps}
    return {
        "playbook": run.playbook.name,
        "mode": run.playbook.mode,
        "run": run.id,
        "suppressed": previewed.suppressed,
        "steps": [
            step_json(result, steps[result.step].action, steps[result.step].phase)
            for result in previewed.results
        ],
    }


def step_json(result: StepResult, action: str, phase: str) -> dict[str, Any]:
    """Return one step: its state, its API calls and its HTTP requests."""
    return {
        "name": result.step,
        "action": action,
        "phase": phase,
        "state": result.state,
        "message": result.message,
        "calls": [call_json(call) for call in result.calls],
        "requests": [request_json(request) for request in result.requests],
    }
