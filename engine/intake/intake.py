"""The entry point for events from every source: parse bodies, plan runs, write them, then answer.

    body -> BodyParser -> events -> RunPlanner -> planned runs -> WritePipeline -> journal -> result

A run is on disk before its body is answered, because no sender of Falco events retries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.intake.body import BodyParser
from engine.intake.body_planner import RunPlanner
from engine.intake.deferred_records import DeferredRecords
from engine.intake.planning_state import PlanningState, SharedPlanningState
from engine.intake.recent_events import RecentEvents
from engine.intake.redaction import Redaction
from engine.intake.write_pipeline import WritePipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from concurrent.futures import Future

    from engine.intake.body import Body
    from engine.intake.planning_state import IntakeJournal
    from engine.planning.matcher import PlaybookIndex

RUNS_PER_WRITE = 1_000
"""Runs that are planned and written at once, about 40 ms. One body can start a hundred times as many."""


class Intake:
    """Accepts bodies of events. Thread-safe.

    own: the engine's user name at the API server, whose audit events must not start runs.
    min_priority: returns the least severe priority to accept (an index into PRIORITIES), or None for all.
    recent: the last events and their results.
    """

    def __init__(
        self,
        journal: IntakeJournal,
        playbooks: Callable[[], PlaybookIndex],
        now: Callable[[], float],
        own: str | None = None,
        *,
        redaction: Redaction | None = None,
        deferred_records: DeferredRecords | None = None,
        min_priority: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._now = now
        redaction, records = redaction or Redaction(()), deferred_records or DeferredRecords()
        self.recent = RecentEvents()
        self._parser = BodyParser(records, redaction)
        self._state = SharedPlanningState(journal) if journal.shared else PlanningState(journal)
        self._state.own_user, self._state.is_secret = own, redaction.matches
        self._planner = RunPlanner(
            self._state, playbooks, redaction, self.recent, records, min_priority
        )
        self._pipeline = WritePipeline(journal, self._state, self._planner.record_decided)
        self.pause(journal.paused())

    @property
    def paused(self) -> frozenset[str]:
        """Names of the paused playbooks; ``*`` means all."""
        return self._state.paused

    def pause(self, names: Collection[str]) -> None:
        """Set the paused playbooks; ``*`` means all. Their runs are suppressed from now on."""
        with self._state.lock:
            self._state.paused = frozenset(names)

    def note_own_command(self, container: str, since: float, until: float) -> None:
        """Suppress the events of a container in which the engine runs a command. See OwnCommands.add."""
        with self._state.lock:
            self._state.own_commands.add(container, since, until)

    def parse(
        self, bodies: Sequence[bytes], source: str = "http", traces: Sequence[str] = ()
    ) -> list[Body]:
        """Parse bodies. traces: a ``traceparent`` for each body, or nothing."""
        received = self._now()
        return [
            self._parser.parse(body, source, traces[n] if traces else "", received)
            for n, body in enumerate(bodies)
        ]

    def submit(self, bodies: Sequence[Body], *, may_wait: bool = False) -> Future[None] | None:
        """Plan the next events of the bodies, and start to write their runs in one transaction.

        Stops after RUNS_PER_WRITE runs, so that other work gets its turn. When the future resolves, submit
        the bodies that have events left again.

        may_wait: the runs may wait in the spool while a shared journal is unavailable.
        Returns a future that resolves when the write has ended, or None if there is nothing to wait for.
        """
        parts = []
        left = RUNS_PER_WRITE
        with self._state.lock:
            for body in bodies:
                if body.result.error is not None:
                    body.events.clear()
                elif body.events and left > 0:
                    part = self._planner.plan(body, left)
                    if part is not None:
                        left -= len(part.planned)
                        if part.is_pending:
                            parts.append(part)
            if not parts:
                return None
            return self._pipeline.write(parts, bodies[0].received, may_wait=may_wait)

    def release_throttle_slot(self, run: str) -> None:
        """Return the throttle slot of a run that did nothing, so that the next event can act. run: its id."""
        self._pipeline.release_throttle_slot(run)

    def dead_letter(self, content: Any, error: str, source: str) -> None:
        """Keep content that is not an event, so that an operator can find its sender."""
        self._parser.dead_letter(content, error, source, self._now())
