"""The audit log on stdout: a JSON line for each attempt and each operator command."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

from engine.model.calls import call_json, request_json
from engine.model.event import PRIORITIES, format_time, identity
from engine.model.event_subject import subject_of
from engine.model.json_codec import encode_json
from engine.model.playbook import Condition
from engine.model.run import advance
from engine.model.safe_text import escape_json
from engine.telemetry.events import (
    UNWRITTEN,
    AttemptEnded,
    CommandExecuted,
    CommandRefused,
    EngineEvent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.model.run import Claim

_MAX_VALUE = 1_000
"""Characters of a condition's value and of a server's answer."""


class Audit:
    """Writes the audit log.

    The line of an attempt contains the event, the playbook with its Git blob and revision, the target, the
    calls and requests that were sent, and the outcome. The line of an operator command is
    ``{time, level, event, decision, by, playbook, run, step, reason, missing}``, with null as the event. That of
    a refused press of a button is ``{time, level, event, refused, by, run, reason}``.
    """

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, engine_event: EngineEvent) -> None:
        """Write the line of an attempt or an operator command. Ignores other engine events."""
        if isinstance(engine_event, AttemptEnded):
            record = _attempt(engine_event)
        elif isinstance(engine_event, CommandExecuted):
            record = _operator_command(engine_event)
        elif isinstance(engine_event, CommandRefused):
            record = _refused_command(engine_event)
        else:
            return
        encoding = self._stream.encoding or "utf-8"  # a terminal's encoding may lack characters
        text = escape_json(encode_json(record).decode())
        line = text.encode(encoding, "replace").decode(encoding)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


def _operator_command(command: CommandExecuted) -> dict[str, Any]:
    return {
        "time": format_time(int(command.time * 1000) * 1_000_000),
        "level": "info",
        "event": None,
        "decision": command.what,
        "by": command.by,
        "playbook": command.playbook,
        "run": command.run,
        "step": command.step,
        "reason": command.reason,
        "missing": command.missing,
    }


def _refused_command(refused: CommandRefused) -> dict[str, Any]:
    return {
        "time": format_time(int(refused.time * 1000) * 1_000_000),
        "level": "warning",
        "event": None,
        "refused": refused.what,
        "by": refused.by,
        "run": refused.run,
        "reason": refused.why,
    }


def _attempt(settled: AttemptEnded) -> dict[str, Any]:
    claim, outcome = settled.claim, settled.outcome
    run = claim.run
    subject, priority = subject_of(run.event), run.event.priority
    return {
        "time": format_time(int(settled.time * 1000) * 1_000_000),
        "level": "warning" if settled.needs_attention else "info",
        "event": identity(run.event),
        "run": run.id,
        "playbook": run.playbook.name,
        "runAs": run.playbook.run_as or None,
        "labels": run.playbook.labels,
        "blob": run.playbook.blob,
        "revision": run.revision or None,
        "rule": run.event.rule,
        "priority": None if priority is None else PRIORITIES[priority],
        "namespace": subject.namespace,
        "pod": subject.pod,
        "target": run.target,
        "playbookDigest": run.playbook.digest,
        "uid": outcome.uid,
        "step": claim.step.name,
        "action": claim.step.action,
        "attempt": claim.attempt,
        "state": outcome.state,
        "written": settled.became != UNWRITTEN,
        "message": outcome.message,
        "seconds": round(settled.seconds, 4),
        "conditions": _condition_values(claim),
        "approval": _approval(claim),
        "calls": [call_json(call) for call in outcome.calls],
        "requests": [request_json(request) for request in outcome.requests],
        "answer": _truncated(outcome.answer),
        "skips": _skipped_steps(settled),
    }


def _condition_values(claim: Claim) -> list[dict[str, Any]]:
    """Each condition with the value of the event that it looked at.

    The first attempt of the run has the playbook's conditions. The first attempt of a step has those of its
    ``when``. If the first attempt was interrupted, the next one has them.
    """
    if claim.undo or (claim.attempt > 1 and not claim.interrupted):
        return []
    when = [one for one in claim.step.when if isinstance(one, Condition)]
    return [
        {"condition": one.text, "value": _truncated(one.look(claim.run.event))}
        for condition in (*(() if claim.position else claim.run.playbook.conditions), *when)
        for one in _leaves(condition)
        if one.look
    ]


def _leaves(condition: Condition) -> Iterator[Condition]:
    if not condition.parts:
        yield condition
    for part in condition.parts:
        yield from _leaves(part)


def _truncated(value: Any) -> Any:
    """The value, or the beginning of its text or JSON if it is too long."""
    text = value if isinstance(value, str) else encode_json(value).decode()
    return value if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 1] + "…"


def _approval(claim: Claim) -> dict[str, str] | None:
    """The operator's answer to the held step, or None if there is none."""
    approval = claim.approval
    if approval is None:
        return None
    return {"verdict": approval.verdict, "by": approval.by, "reason": approval.reason}


def _skipped_steps(settled: AttemptEnded) -> list[str]:
    """The names of the steps that are skipped because of this outcome. They have no attempt of their own."""
    claim, outcome = settled.claim, settled.outcome
    if claim.undo or settled.became in ("waiting", UNWRITTEN):
        return []
    return [result.step for result in advance(claim, outcome)[0][len(claim.results) + 1 :]]
