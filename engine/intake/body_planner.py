"""Plan the events of a body: bodies in, planned runs out. Nothing is written here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from engine.intake.recent_events import RecentEvent
from engine.planning.planner import plan
from engine.planning.throttle import throttle_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.intake.body import Body, BodyResult
    from engine.intake.deferred_records import DeferredRecords
    from engine.intake.planning_state import PlanningState, WindowChanges
    from engine.intake.recent_events import RecentEvents
    from engine.intake.redaction import Redaction
    from engine.model.event import Event
    from engine.model.run import Run
    from engine.planning.matcher import PlaybookIndex
    from engine.planning.planner import PlannedRun

_encode = msgspec.json.Encoder().encode


class PlannedPart(msgspec.Struct, eq=False):
    """The plan for some events of a body, to be written as a whole.

    result: of the body. planned: every planned run, also those that are suppressed. runs: the runs to write,
    by playbook name. repeated: ids of earlier runs that these events started before. undecided: events whose
    runs the journal decides, and that are recorded after the write. throttled: ids of the runs that the journal
    did not accept.
    """

    body: Body
    undecided: list[tuple[Event, Sequence[PlannedRun]]]
    result: BodyResult
    planned: list[PlannedRun]
    runs: list[Run]
    repeated: list[str]
    changes: WindowChanges
    throttled: frozenset[str] = frozenset()

    @property
    def has_writes(self) -> bool:
        """Whether the journal must write something."""
        return bool(self.runs or self.changes.after)

    @property
    def is_pending(self) -> bool:
        """Whether the body must wait for a write, its own or that of a run that it repeats."""
        return bool(self.runs or self.repeated or self.changes.after)

    def share_outcome(self, earlier: PlannedPart) -> None:
        """Take over the outcome of a part that these events repeat: its error, and which runs do not exist."""
        result = self.result
        if result.error is None:
            result.error = earlier.result.error
        result.runs = [run for run in result.runs if run not in earlier.throttled]


class RunPlanner:
    """Plans events. Not thread-safe: hold ``state.lock``.

    min_priority: see Intake.
    """

    def __init__(
        self,
        state: PlanningState,
        playbooks: Callable[[], PlaybookIndex],
        redaction: Redaction,
        recent: RecentEvents,
        deferred_records: DeferredRecords,
        min_priority: Callable[[], int | None],
    ) -> None:
        self._state, self._playbooks, self._redaction = state, playbooks, redaction
        self._recent, self._deferred_records = recent, deferred_records
        self._min_priority = min_priority

    def plan(self, body: Body, limit: int) -> PlannedPart | None:
        """Plan events of the body, until they make ``limit`` runs or more.

        An error, of the journal or a bug, affects only this body: it is set in the result, the plan is rolled
        back, and the remaining events are discarded.

        Returns None if no playbook matched, or after an error.
        """
        body.started = True
        playbooks = self._playbooks()
        planned: list[PlannedRun] = []
        undecided: list[tuple[Event, Sequence[PlannedRun]]] = []
        try:
            while body.events and len(planned) < limit:
                event = body.events.popleft()
                event, found, result = self._plan_event(event, playbooks, body.received)
                planned += found
                if self._state.journal_decides and result == "run":
                    undecided.append((event, found))
                else:
                    self._record(event, found, result, body)
        except Exception as error:  # noqa: BLE001 - it affects only this body; its response reports it
            self._state.rollback(planned, self._state.take_changes())
            body.events.clear()
            body.result.error = error
            return None
        return self._part(body, planned, undecided) if planned else None

    def record_decided(self, part: PlannedPart, rejected: Mapping[str, str]) -> None:
        """Record the events of a part whose runs the journal has decided. Runs in the thread of the journal.

        rejected: run id -> why the run was not accepted.
        """
        throttled = {id_ for id_, why in rejected.items() if why != "duplicate"}
        part.throttled = frozenset(throttled)
        if throttled:
            part.result.runs = [id_ for id_ in part.result.runs if id_ not in throttled]
        for event, found in part.undecided:
            decided = [
                replace(one, suppressed=rejected[one.run.id], ran=one.run.id not in throttled)
                if one.suppressed is None and one.run.id in rejected
                else one
                for one in found
            ]
            self._record(event, decided, _result(decided), part.body)

    def _part(
        self,
        body: Body,
        planned: list[PlannedRun],
        undecided: list[tuple[Event, Sequence[PlannedRun]]],
    ) -> PlannedPart:
        runs = [one.run for one in planned if one.suppressed is None]
        if body.trace:
            runs = [replace(run, trace=body.trace) for run in runs]
        repeated = [one.run.id for one in planned if one.suppressed == "duplicate" and one.ran]
        body.result.runs += [*(run.id for run in runs), *repeated]
        # The runs of a part start in the order of playbook names, whichever of its events they belong to.
        runs.sort(key=lambda run: run.playbook.name)
        changes = self._state.take_changes()
        return PlannedPart(body, undecided, body.result, planned, runs, repeated, changes)

    def _plan_event(
        self, event: Event, playbooks: PlaybookIndex, received: float
    ) -> tuple[Event, Sequence[PlannedRun], str]:
        """Return the redacted event, its planned runs (with the redacted event) and its result."""
        if self._is_shed(event):
            return self._redaction.redact_event(event), (), self._shed(event, playbooks, received)
        planned: Sequence[PlannedRun] = plan(event, playbooks, self._state, received)
        redacted = self._redaction.redact_event(event)
        if redacted is not event:
            planned = [replace(one, run=self._redact_run(one.run, redacted)) for one in planned]
        return redacted, planned, _result(planned)

    def _record(self, event: Event, planned: Sequence[PlannedRun], result: str, body: Body) -> None:
        """Count the result of an event, and keep it for operators."""
        counts, received = body.result, body.received
        counts.results[result] = counts.results.get(result, 0) + 1
        counts.duplicates += bool(planned) and all(p.suppressed == "duplicate" for p in planned)
        suppressed = tuple((p.run.playbook.name, p.suppressed) for p in planned if p.suppressed)
        alert = _encode(event.sent)
        self._recent.add(RecentEvent(alert, received, result, suppressed))
        self._deferred_records.record_event(alert)
        if not suppressed:
            return
        for run, reason in ((one.run, one.suppressed) for one in planned):
            if reason is not None and reason != "duplicate":
                key = throttle_text(run) if reason == "throttle" else ""
                self._deferred_records.count_dropped_run(run.playbook.name, reason, key, received)

    def _is_shed(self, event: Event) -> bool:
        """Whether the journal is too full for an event of this priority."""
        least = self._min_priority()
        return least is not None and (event.priority is None or event.priority > least)

    def _shed(self, event: Event, playbooks: PlaybookIndex, received: float) -> str:
        """Count the runs that a shed event would have started. Returns the result of the event."""
        wanting = playbooks.matching(event)
        for playbook in wanting:
            self._deferred_records.count_dropped_run(
                playbook.name, "shed: journal full", "", received
            )
        return "shed" if wanting else "unmatched"

    def _redact_run(self, run: Run, redacted: Event) -> Run:
        target = self._redaction.redact_target(run.event, run.target)
        return replace(run, event=redacted, target=target)


def _result(planned: Sequence[PlannedRun]) -> str:
    """The result of an event, as metrics and ``/events/recent`` show it."""
    if not planned:
        return "unmatched"
    if any(one.suppressed is None for one in planned):
        return "run"
    return next(one.suppressed.partition(":")[0] for one in planned if one.suppressed)


def throttle_text(run: Run) -> str:
    """Return the values that the throttle of a run counts by, as text for operators."""
    throttle = run.playbook.throttle
    pairs = throttle_key(run.event, throttle) if throttle else ()
    return ", ".join(f"{name}={_text(value)}" for name, value in pairs)


def _text(value: Any) -> str:
    if value is None:
        return "<NA>"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
