"""Engine events: records of what the engine did, and their delivery to observers.

The observers are the log, the audit log, the metrics, the traces and the story of ``serve --story``.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.model.errors import Finding
    from engine.model.playbook import Guardrails
    from engine.model.run import Claim, Outcome, StepResult

log = structlog.get_logger()
UNWRITTEN = "unwritten"
"""State of an attempt whose outcome is not in the journal."""
WARNING_STATES = ("failed", "held")
"""States of a step that an operator should look at."""


class Received(msgspec.Struct, frozen=True):
    """A body was answered.

    status: the HTTP status, or None if a source fetched the body. results: result (``run``, ``duplicate``,
    ``unmatched``…) -> number of elements. seconds: from the first byte to the response, None if unknown.

    A struct, because one is made for each body and a frozen dataclass takes longer to make.
    """

    status: int | None
    results: dict[str, int]
    seconds: float | None = None
    source: str = "http"


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt ended.

    became: ``waiting``, ``next``, or the outcome of the run. It is UNWRITTEN if the outcome is not in the
    journal, because another attempt has replaced this one, or the journal accepted no writes until the engine
    stopped. time: epoch seconds. results: of the run's steps, if the run is over. seconds: of the attempt.
    """

    claim: Claim
    outcome: Outcome
    became: str
    time: float
    results: tuple[StepResult, ...] = ()
    seconds: float = 0.0

    @property
    def over(self) -> bool:
        """Whether this attempt ended its run. An undo does not end a run."""
        return self.became not in ("waiting", "next", UNWRITTEN) and not self.claim.undo

    @property
    def undo_refused(self) -> bool:
        """Whether the API server refused an undo, which is attempted again."""
        outcome = self.outcome
        return bool(self.claim.undo and outcome.state == "waiting" and outcome.answered)

    @property
    def needs_attention(self) -> bool:
        """Whether an operator should look at the outcome."""
        return self.outcome.state in WARNING_STATES or self.undo_refused


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The playbook folder was read. Without findings, its set is in force; else the last good set stays.

    digest: of the set, as ``tiercel digest`` prints it. playbooks: their number. guardrails: of a set that is
    now in force. changes: ``added``, ``changed`` and ``removed`` names; None at the start.
    revision: of a set that is now in force, "" if unknown.
    rights: that a set which is now in force needs, by account (see ``rights_by_account``).
    """

    digest: str
    playbooks: int
    findings: Sequence[Finding | str] = ()
    guardrails: Guardrails | None = None
    changes: Mapping[str, Sequence[str]] | None = None
    revision: str = ""
    rights: Mapping[str, frozenset[tuple[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CommandExecuted:
    """An operator gave a command.

    what: approve, deny, retry, undo, pause or resume. by: the operator's name. time: epoch seconds.
    missing: approvals of other operators that the step still needs.
    """

    what: str
    by: str
    time: float
    playbook: str
    run: str | None = None
    step: str | None = None
    reason: str = ""
    missing: int = 0


@dataclass(frozen=True, slots=True)
class CommandRefused:
    """A command that came through Slack was refused.

    what, by, run: as given, "" if unknown. time: epoch seconds. why: one sentence.
    """

    what: str
    by: str
    time: float
    run: str
    why: str


EngineEvent = Received | AttemptEnded | Reloaded | CommandExecuted | CommandRefused


class Observers:
    """Notifies all observers of an engine event. Thread-safe if they are."""

    def __init__(self, *observers: Callable[[EngineEvent], None]) -> None:
        self._observers = observers

    def add(self, observer: Callable[[EngineEvent], None]) -> None:
        """Also notify this observer."""
        self._observers = (*self._observers, observer)

    def notify(self, engine_event: EngineEvent) -> None:
        """Call every observer. An observer that fails does not affect the others, or the caller."""
        for observer in self._observers:
            try:
                observer(engine_event)
            except OSError:  # the pipe of the audit log or the story is closed
                continue
            except Exception:  # a bug in an observer must not stop the work that it observes
                name = getattr(observer, "__name__", type(observer).__name__)
                with contextlib.suppress(Exception):  # the log itself may be what fails
                    log.exception(
                        "observer_failed", observer=name, engine_event=type(engine_event).__name__
                    )
