"""What happens, as moments, and who is told: the log, the audit, a story for people; metrics are apart."""

from __future__ import annotations

import contextlib
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import msgspec
import structlog

from engine.model.calls import call_json, request_json
from engine.model.event import format_time, identity
from engine.model.json_codec import encode_json
from engine.model.playbook import Condition
from engine.model.run import advance
from engine.model.safe_text import escape_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from engine.model.errors import Finding
    from engine.model.playbook import Guardrails
    from engine.model.run import Claim, Outcome, StepResult

log = structlog.get_logger()
UNWRITTEN = "unwritten"
_WARNED = ("failed", "held")
"""States of a step that a person should look at."""
_LONGEST = 1_000
"""Characters of a value in the audit."""


class Received(msgspec.Struct, frozen=True):
    """A body was answered. ended: how often its elements ended how (run, duplicate, unmatched…).

    status: HTTP's, None for what a source fetched. seconds: from its first byte to the answer, where that is
    known. A struct, for there is one at every body, and a frozen dataclass takes longer to make.
    """

    status: int | None
    ended: dict[str, int]
    seconds: float | None = None
    source: str = "http"


@dataclass(frozen=True, slots=True)
class Settled:
    """An attempt ended. became: ``waiting``, ``next`` or the run's outcome. results: once it is over.

    became is UNWRITTEN where the journal knows nothing of this end: another attempt had taken over, or it
    took no writes until the engine stopped. time: epoch seconds. seconds: that the attempt took.
    """

    claim: Claim
    outcome: Outcome
    became: str
    time: float
    results: tuple[StepResult, ...] = ()
    seconds: float = 0.0

    @property
    def over(self) -> bool:
        """Whether the run is over, with this; an undoing ends no run."""
        return self.became not in ("waiting", "next", UNWRITTEN) and not self.claim.undo


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The folder was read: its set is in force (no findings), or the last good one still is.

    digest: of the set, as `tiercel digest` prints it. guardrails: of a set that came into force. changes: what
    it adds, changes and removes, by name; None at the start.
    """

    digest: str
    playbooks: int
    findings: Sequence[Finding | str] = ()
    guardrails: Guardrails | None = None
    changes: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """A person did something. what: approve, deny, retry, undo, pause, resume. by: the operator's name."""

    what: str
    by: str
    time: float
    playbook: str
    run: str | None = None
    step: str | None = None
    reason: str = ""


EngineEvent = Received | Settled | Reloaded | Decided


class Observers:
    """Tells every subscriber of a moment; thread-safe where they are."""

    def __init__(self, *subscribers: Callable[[EngineEvent], None]) -> None:
        self._subscribers = subscribers

    def tell(self, moment: EngineEvent) -> None:
        """Tell everyone; one that fails keeps it from nobody else, and stops no work."""
        for subscriber in self._subscribers:
            try:
                subscriber(moment)
            except OSError:  # a pipe broke, the audit's or the story's
                continue
            except Exception:
                name = getattr(subscriber, "__name__", type(subscriber).__name__)
                with contextlib.suppress(Exception):  # the log may be what fails
                    log.exception("not told", of=type(moment).__name__, subscriber=name)


def log_reloads(moment: EngineEvent) -> None:
    """Write to the log which set is in force, and why another is not."""
    if not isinstance(moment, Reloaded):
        return
    if moment.findings:
        log.error("playbooks refused, the last good set stays in force", digest=moment.digest)
        for finding in moment.findings:
            log.error("finding", finding=str(finding))
    else:
        changes = moment.changes or {}
        log.info("playbooks in force", digest=moment.digest, playbooks=moment.playbooks, **changes)


def log_decisions(moment: EngineEvent) -> None:
    """Write to the log what a person did."""
    if isinstance(moment, Decided):
        log.info(
            moment.what, by=moment.by, playbook=moment.playbook, run=moment.run, step=moment.step,
            reason=moment.reason,
        )  # fmt: skip


def log_steps(moment: EngineEvent) -> None:
    """Write to the log which steps failed, are held, or wait for the first time; the audit has them all.

    Of those whose end is not written the workers tell why.
    """
    if not isinstance(moment, Settled) or moment.became == UNWRITTEN:
        return
    state, run = moment.outcome.state, moment.claim.run
    waits_first = state == "waiting" and moment.claim.attempt == 1
    if not waits_first and state not in _WARNED:
        return
    level = log.info if waits_first else log.warning
    level(
        "step", run=run.id, playbook=run.playbook.name, step=moment.claim.step.name,
        state=state, message=moment.outcome.message, retry_in=moment.outcome.retry_in,
    )  # fmt: skip


class Audit:
    """JSON lines of every attempt: event, playbook and its blob, target, what was sent, how it ended.

    And of what people did: ``{time, level, event, decision, by, playbook, run, step, reason}``; event is null.
    """

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, moment: EngineEvent) -> None:
        """Write the line of an attempt."""
        if isinstance(moment, Settled):
            told = self._line(moment)
        elif isinstance(moment, Decided):
            told = self._decision(moment)
        else:
            return
        coding = self._stream.encoding or "utf-8"  # a terminal's own, which may know few letters
        line = escape_json(encode_json(told).decode()).encode(coding, "replace").decode(coding)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    @staticmethod
    def _decision(moment: Decided) -> dict[str, Any]:
        return {
            "time": format_time(int(moment.time * 1000) * 1_000_000),
            "level": "info",
            "event": None,
            "decision": moment.what,
            "by": moment.by,
            "playbook": moment.playbook,
            "run": moment.run,
            "step": moment.step,
            "reason": moment.reason,
        }

    @staticmethod
    def _line(moment: Settled) -> dict[str, Any]:
        claim, outcome = moment.claim, moment.outcome
        run = claim.run
        return {
            "time": format_time(int(moment.time * 1000) * 1_000_000),
            "level": "warning" if outcome.state in _WARNED else "info",
            "event": identity(run.event),
            "run": run.id,
            "playbook": run.playbook.name,
            "labels": run.playbook.labels,
            "blob": run.playbook.blob,
            "rule": run.event.rule,
            "target": run.target,
            "playbookDigest": run.playbook.digest,
            "uid": outcome.uid,
            "step": claim.step.name,
            "action": claim.step.action,
            "attempt": claim.attempt,
            "state": outcome.state,
            "written": moment.became != UNWRITTEN,
            "message": outcome.message,
            "seconds": round(moment.seconds, 4),
            "conditions": _values(claim),
            "approval": _approval(claim),
            "calls": [call_json(call) for call in outcome.calls],
            "requests": [request_json(request) for request in outcome.requests],
            "answer": _short(outcome.answer),
            "skips": _skips(moment),
        }


def _values(claim: Claim) -> list[dict[str, Any]]:
    """The conditions on the event, each with what it had there.

    Those of the playbook are told with the run's first attempt, those of a ``when`` with its step's first; one
    whose forerunner never reported counts as that.
    """
    if claim.undo or (claim.attempt > 1 and not claim.interrupted):
        return []
    when = [one for one in claim.step.when if isinstance(one, Condition)]
    return [
        {"condition": one.text, "value": _short(one.look(claim.run.event))}
        for condition in (*(() if claim.position else claim.run.playbook.conditions), *when)
        for one in _leaves(condition)
        if one.look
    ]


def _leaves(condition: Condition) -> Iterator[Condition]:
    if not condition.parts:
        yield condition
    for part in condition.parts:
        yield from _leaves(part)


def _short(value: Any) -> Any:
    """The value; of one that is too long the beginning, as text, of a list or an object as JSON."""
    text = value if isinstance(value, str) else encode_json(value).decode()
    return value if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _approval(claim: Claim) -> dict[str, str] | None:
    """Who approved or denied the step, and why; None if nobody did."""
    found = claim.approval
    if found is None:
        return None
    return {"verdict": found.verdict, "by": found.by, "reason": found.reason}


def _skips(moment: Settled) -> list[str]:
    """The steps that are skipped because this one ended so; they have no attempt to be told of."""
    claim, outcome = moment.claim, moment.outcome
    if claim.undo or moment.became in ("waiting", UNWRITTEN):
        return []
    return [result.step for result in advance(claim, outcome)[0][len(claim.results) + 1 :]]
