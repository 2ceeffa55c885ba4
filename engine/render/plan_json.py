"""A previewed event as one JSON object, in the contract's shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.event import PRIORITIES, identity, time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.event import Event
    from engine.ports.cluster import Call
    from engine.ports.http import Request
    from engine.preview import PreviewedRun
    from engine.run import Result


def event_json(event: Event) -> dict[str, Any]:
    """What names an event."""
    return {
        "id": identity(event),
        "rule": event.rule,
        "priority": None if event.priority is None else PRIORITIES[event.priority],
        "time": time_text(event.time_ns),
    }


def line_json(event: Event, runs: Sequence[PreviewedRun]) -> dict[str, Any]:
    """One line of ``plan -o json``."""
    return {"event": event_json(event), "runs": [run_json(run) for run in runs]}


def run_json(previewed: PreviewedRun) -> dict[str, Any]:
    """One run; a suppressed one has no steps."""
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


def step_json(result: Result, action: str, phase: str) -> dict[str, Any]:
    """One step: how it stands, its writes in order, its requests to others."""
    return {
        "name": result.step,
        "action": action,
        "phase": phase,
        "state": result.state,
        "message": result.message,
        "calls": [call_json(call) for call in result.calls],
        "requests": [request_json(request) for request in result.requests],
    }


def call_json(call: Call) -> dict[str, Any]:
    """One write."""
    return {
        "verb": call.verb,
        "apiVersion": call.api_version,
        "resource": call.resource,
        "namespace": call.namespace,
        "name": call.name,
        "body": call.body,
    }


def request_json(request: Request) -> dict[str, Any]:
    """One request, secrets masked."""
    return {
        "method": request.method,
        "url": request.url,
        "headers": request.headers,
        "body": request.body,
    }
