"""The records of the journal: what its methods take and return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.model.calls import Object, ObjectChange
    from engine.model.run import Run, StepResult
    from engine.model.throttle_window import ThrottleUse

MAX_IN_FORCE = 10_000
"""Changes that ``History.in_force`` returns."""


class AcceptBatch(msgspec.Struct, frozen=True, eq=False):
    """Runs and throttle windows to write in one transaction.

    runs: the runs of one target start in this order. throttle_windows: the windows that the caller changed,
    key -> JSON value, or None to delete the window. throttles: run id -> the throttle that decides whether the
    run acts; a shared journal decides it (see ``Queue.shared``). may_wait: the runs may wait in the spool while
    a shared journal is unavailable, because their sender would not repeat the event.
    """

    runs: Sequence[Run] = ()
    throttle_windows: Mapping[str, Any] = msgspec.field(default_factory=dict)
    throttles: Mapping[str, ThrottleUse] = msgspec.field(default_factory=dict)
    may_wait: bool = False


@dataclass(frozen=True, slots=True)
class ForwardedRuns:
    """Runs from a spool, each with its number there. They go to a shared journal in one transaction.

    spool: the id of the spool. last: the largest number. throttles: as of an AcceptBatch. letters: instead of
    runs that the journal cannot store.
    """

    spool: str
    last: int
    runs: Sequence[tuple[int, Run]] = ()
    throttles: Mapping[str, ThrottleUse] = field(default_factory=dict)
    letters: Sequence[tuple[int, DeadLetter]] = ()


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The stored state of a run.

    results: one for each step that ended. If the current step was attempted, its result is last, with the
    state ``waiting``, ``held`` or ``running`` and the message of the last attempt. position: index of the
    current step, or None after the end. due_at: epoch seconds, or None after the end. outcome: None until the
    end. undo: step name -> epoch seconds at which the step is undone, or None (only on request). decisions:
    the operator commands on the run, oldest first. copies: the objects that steps of the run deleted, if their
    action keeps copies. notice: the id of the run that notified of the last hold, "" if there is none.
    """

    run: Run
    results: tuple[StepResult, ...]
    position: int | None
    attempt: int
    due_at: float | None
    outcome: str | None
    undo: Mapping[str, float | None] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    copies: tuple[Object, ...] = ()
    notice: str = ""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """A filter for runs and for counters of dropped runs. None matches everything.

    since: epoch seconds; runs received at this time or later. state: ``waiting``, ``running``, ``held`` or an
    outcome. limit: the maximum number of results.
    """

    playbook: str | None = None
    namespace: str | None = None
    since: float | None = None
    state: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Decision:
    """An operator command on a run.

    The journal stores the fields under these names. what: approve, deny, retry or undo. by: the operator.
    at: epoch seconds. step: the names of the steps, as text.
    """

    what: str
    by: str
    at: float
    reason: str = ""
    step: str = ""


@dataclass(frozen=True, slots=True)
class DecisionResult:
    """What a decision does.

    missing: approvals of other operators that the step still needs; with 0 the run continues now.
    approved_by: the operators who have approved the step. counts: False if the same operator had approved
    before; then nothing was written.
    """

    missing: int
    approved_by: tuple[str, ...] = ()
    counts: bool = True


@dataclass(frozen=True, slots=True)
class ChangeInForce:
    """A change of a step that is not undone yet.

    before: of the change is the value from before the first of the steps that made it.
    step: the name of the step. received: when the event of the run was received, epoch seconds.
    until: epoch seconds of the scheduled undo, or None (only on request).
    next_attempt: epoch seconds of the next attempt to undo, or None. attempts: to undo.
    message: why the last attempt did not undo it, or "".
    state: how the step ended: ``done``, or for example ``failed``, after which the change may not exist.
      ``running`` before it ended, "" if the run was deleted because of its age.
    """

    change: ObjectChange
    run: str
    playbook: str
    step: str
    received: float
    until: float | None
    next_attempt: float | None
    attempts: int = 0
    message: str = ""
    state: str = "done"


class SavedSet(NamedTuple):
    """The last good set of playbook files: path -> content. revision: "" if it was not known."""

    digest: str
    files: dict[str, bytes]
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of one playbook or of all playbooks.

    by: the operator. since: epoch seconds. until: epoch seconds, or None for a pause that lasts until it is
    resumed.
    """

    by: str
    since: float
    until: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica of the engine that uses a shared journal.

    digest: of the playbooks in force. started: epoch seconds. age: seconds since its last sign of life.
    """

    name: str
    version: str
    digest: str
    started: float
    age: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A request body that is not a valid event.

    received: epoch seconds. source: the name of the event source. body: the first bytes.
    """

    received: float
    source: str
    error: str
    body: bytes


@dataclass(frozen=True, slots=True)
class DroppedRuns:
    """The number of runs of a playbook that were suppressed for one reason within one clock hour.

    key: the key of the throttle, otherwise empty. first, last: epoch seconds.
    """

    playbook: str
    reason: str
    key: str
    count: int
    first: float
    last: float
