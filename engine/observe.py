"""What happens, as moments, and who is told: the log, the audit, a story for people; metrics are apart."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import msgspec
import structlog

from engine.event import identity, time_text
from engine.render.plan_json import call_json, request_json
from engine.render.plan_text import headline, reasons, result_lines
from engine.render.text import echo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from engine.errors import Finding
    from engine.playbook import Condition, Guardrails
    from engine.run import Claim, Outcome, Result, Run

_LONGEST = 1_000
"""Characters of a value in the audit."""


class Received(msgspec.Struct, frozen=True):
    """A body was answered. ended: how often its elements ended how (run, duplicate, unmatched…).

    seconds: from its first byte to the answer, where that is known. A struct, for there is one at every
    body, and a frozen dataclass takes longer to make.
    """

    status: int
    ended: dict[str, int]
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """An attempt ended. became: ``waiting``, ``next`` or the run's outcome. results: once it is over.

    time: epoch seconds. seconds: that the attempt took.
    """

    claim: Claim
    outcome: Outcome
    became: str
    time: float
    results: tuple[Result, ...] = ()
    seconds: float = 0.0

    @property
    def over(self) -> bool:
        """Whether the run is over, with this; an undoing ends no run."""
        return self.became not in ("waiting", "next") and not self.claim.undo


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The folder was read: its set is in force (no findings), or the last good one still is.

    guardrails: of a set that came into force.
    """

    digest: str
    playbooks: int
    findings: Sequence[Finding | str] = ()
    guardrails: Guardrails | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """A person did something. what: approve, deny, retry, pause, resume. by: the operator's name."""

    what: str
    by: str
    time: float
    playbook: str
    run: str | None = None
    step: str | None = None


Moment = Received | Settled | Reloaded | Decided
Subscriber = "Callable[[Moment], None]"


class Observers:
    """Tells every subscriber of a moment; thread-safe where they are."""

    def __init__(self, *subscribers: Callable[[Moment], None]) -> None:
        self._subscribers = subscribers

    def tell(self, moment: Moment) -> None:
        """Tell everyone; a pipe that broke (the audit's, the log's) must not stop the work."""
        for subscriber in self._subscribers:
            try:
                subscriber(moment)
            except OSError:  # not by contextlib.suppress, which costs more than most are told
                continue


def log_reloads(moment: Moment) -> None:
    """Write to the log which set is in force, and why another is not."""
    if not isinstance(moment, Reloaded):
        return
    log = structlog.get_logger()
    if moment.findings:
        log.error("playbooks refused, the last good set stays in force", digest=moment.digest)
        for finding in moment.findings:
            log.error("finding", finding=str(finding))
    else:
        log.info("playbooks in force", digest=moment.digest, playbooks=moment.playbooks)


def log_decisions(moment: Moment) -> None:
    """Write to the log what a person did."""
    if isinstance(moment, Decided):
        structlog.get_logger().info(
            moment.what, by=moment.by, playbook=moment.playbook, run=moment.run, step=moment.step
        )


def log_steps(moment: Moment) -> None:
    """Write to the log how attempts ended."""
    if not isinstance(moment, Settled):
        return
    log = structlog.get_logger()
    run = moment.claim.run
    level = log.warning if moment.outcome.state in ("failed", "waiting") else log.info
    level(
        "step", run=run.id, playbook=run.playbook.name, step=moment.claim.step.name,
        state=moment.outcome.state, message=moment.outcome.message, retry_in=moment.outcome.retry_in,
    )  # fmt: skip


class Audit:
    """JSON lines of every attempt: event, playbook and its blob, target, what was sent, how it ended.

    And of what people did: ``{time, decision, by, playbook, run, step}``.
    """

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, moment: Moment) -> None:
        """Write the line of an attempt."""
        if isinstance(moment, Settled):
            told = self._line(moment)
        elif isinstance(moment, Decided):
            told = self._decision(moment)
        else:
            return
        line = json.dumps(told, ensure_ascii=False)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    @staticmethod
    def _decision(moment: Decided) -> dict[str, Any]:
        return {
            "time": time_text(int(moment.time * 1000) * 1_000_000),
            "decision": moment.what,
            "by": moment.by,
            "playbook": moment.playbook,
            "run": moment.run,
            "step": moment.step,
        }

    @staticmethod
    def _line(moment: Settled) -> dict[str, Any]:
        claim, outcome = moment.claim, moment.outcome
        run = claim.run
        return {
            "time": time_text(int(moment.time * 1000) * 1_000_000),
            "run": run.id,
            "playbook": run.playbook.name,
            "blob": run.playbook.blob,
            "rule": run.event.rule,
            "target": run.target,
            "event": identity(run.event),
            "digest": run.playbook.digest,
            "uid": claim.facts.get("uid"),
            "step": claim.step.name,
            "action": claim.step.action,
            "attempt": claim.attempt,
            "state": outcome.state,
            "message": outcome.message,
            "seconds": round(moment.seconds, 4),
            "conditions": _values(claim),
            "leave": (claim.facts.get("verdict") or [None] * 3)[2],
            "calls": [call_json(call) for call in outcome.calls],
            "requests": [request_json(request) for request in outcome.requests],
            "answer": outcome.answer,
        }


def _values(claim: Claim) -> list[dict[str, Any]]:
    """The playbook's conditions with what the event had there; told once a run, with its first attempt."""
    if claim.position or claim.attempt > 1 or claim.undo:
        return []
    return [
        {"condition": one.text, "value": _short(one.look(claim.run.event))}
        for condition in claim.run.playbook.conditions
        for one in _leaves(condition)
        if one.look
    ]


def _leaves(condition: Condition) -> Iterator[Condition]:
    if not condition.parts:
        yield condition
    for part in condition.parts:
        yield from _leaves(part)


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LONGEST:
        return value[: _LONGEST - 1] + "…"
    return value


def tell_story(moment: Moment) -> None:
    """Tell each run that is over as text on stderr: what was received, why it matched, what came of it."""
    if not isinstance(moment, Settled) or not moment.over:
        return
    run: Run = moment.claim.run
    dry = any(result.state == "planned" for result in moment.results)
    lines = [
        "",
        headline(run.event),
        f"  {run.playbook.name}  {'dry run' if dry else moment.became}",
    ]
    lines += [f"    {line}" for line in reasons(run.event, run.playbook)]
    lines += result_lines(moment.results, bodies=True)
    echo("\n".join(lines), err=True)
