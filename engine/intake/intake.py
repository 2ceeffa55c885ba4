"""From a body of events to an answer: parse, plan, write, answer; the same for every source.

What matched is on disk before anything is answered, because no sender of Falco's events sends twice.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from engine.intake.deferred_records import LONGEST, DeferredRecords
from engine.intake.planning_state import PlanningState
from engine.intake.recent_events import RecentEvent, RecentEvents
from engine.intake.redaction import Redaction
from engine.intake.write_batch import Part, Taken, Writing
from engine.journal.protocol import DeadLetter
from engine.model.errors import EventError
from engine.model.event import parse_event
from engine.model.event_formats import FORMAT_HINT, Unreadable, body_elements
from engine.planning.planner import plan
from engine.planning.throttle import throttle_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from engine.intake.planning_state import IntakeJournal
    from engine.model.event import Event
    from engine.model.run import Run
    from engine.planning.matcher import PlaybookIndex
    from engine.planning.planner import PlannedRun

MAX_EVENTS = 1_000
SLICE = 1_000
"""Runs that are planned and written at one go, some 40 ms; one body may start a hundred times as many."""
SHED: list[PlannedRun] = []
"""What becomes of an event that a journal which is nearly full has no room for."""


class TooManyError(Exception):
    """A body of more than MAX_EVENTS elements."""

    def __init__(self) -> None:
        super().__init__(f"a body has at most {MAX_EVENTS:,} events")


class Body(msgspec.Struct, eq=False):
    """A body on its way. events: those that are not planned yet.

    size: bytes of an event. trace: what its runs belong to. received: epoch seconds. begun: whether a part of
    it is planned.
    """

    taken: Taken
    events: deque[Event]
    size: int
    trace: str
    received: float
    begun: bool = False


class Intake:
    """Takes bodies of events; thread-safe. recent: the last ones, and how they ended. writing: to the disk.

    own: the API server's name of the engine itself. redaction: takes out what nobody may read. notes: of
    every event, of what was dropped, and of what was no event. least: the least severe priority that is
    taken now, None for any.
    """

    def __init__(
        self,
        journal: IntakeJournal,
        playbooks: Callable[[], PlaybookIndex],
        now: Callable[[], float],
        own: str | None = None,
        *,
        redaction: Redaction | None = None,
        notes: DeferredRecords | None = None,
        least: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.recent = RecentEvents()
        self._notes = notes or DeferredRecords()
        self._redaction = redaction or Redaction(())
        self._least = least
        self._journal, self._playbooks, self._now = journal, playbooks, now
        self._memory = PlanningState(journal)
        self._memory.own_user = own
        self._memory.is_secret = self._redaction.finds
        # tells untimed events apart, also from those of before a restart; one call of the system for all
        self._salt, self._number = secrets.token_hex(8), itertools.count()
        # entered again where a write fails at once: its callback then runs under the plan's lock
        self._lock = threading.RLock()
        self.writing = Writing(journal, self._memory, self._lock)
        self.pause(journal.paused())

    @property
    def paused(self) -> frozenset[str]:
        """The playbooks that are paused; ``*`` is all."""
        return self._memory.paused

    def read(
        self, bodies: Sequence[bytes], source: str = "http", traces: Sequence[str] = ()
    ) -> list[Body]:
        """Parse bodies. source: where they came from. traces: what the runs of each belong to."""
        received = self._now()
        return [
            self._read(body, source, traces[n] if traces else "", received)
            for n, body in enumerate(bodies)
        ]

    def take(self, bodies: Sequence[Body]) -> Future[None] | None:
        """Plan the next events of bodies, and begin to write what matched, all of it together.

        Stops after SLICE runs, so that other work gets its turn. Give the bodies that have events left again
        once the write is decided.

        Returns what resolves then, None if nothing is to be written.
        """
        written: Future[None] = Future()
        parts: list[Part] = []
        left = SLICE
        with self._lock:
            for body in bodies:
                if body.taken.failed is not None:
                    body.events.clear()
                elif body.events and left > 0:
                    part, planned = self._plan(body, written, left)
                    left -= planned
                    if part is not None:
                        parts.append(part)
            if parts:
                self.writing.begin(parts, bodies[0].received, written)
        return written if parts else None

    def pause(self, names: Collection[str]) -> None:
        """Suppress the runs of these playbooks from now on; ``*`` is all."""
        with self._lock:
            self._memory.paused = frozenset(names)

    def bury(self, content: Any, error: str, source: str) -> None:
        """Keep what was no event, so that somebody may find out who sent it."""
        left = self._redaction.letter(content)[:LONGEST].decode("utf-8", "replace")
        self._notes.bury(DeadLetter(self._now(), source, error, left.encode("utf-8", "replace")))

    def _read(self, body: bytes, source: str, trace: str, received: float) -> Body:
        """The events of a body; none where it failed."""
        taken, events = Taken(), []
        try:
            events = self._parse(body, taken, source, int(received * 1e9))
        except TooManyError as error:
            self.bury(body, str(error), source)
            taken.failed = error
        except Exception as error:  # noqa: BLE001 - a bug: told by whoever answers, and costs this body alone
            taken.failed = error
        else:
            if not events:
                first = taken.errors[0] if taken.errors else {"error": "the body has no events"}
                taken.failed = EventError(first["error"], first.get("hint", FORMAT_HINT))
            for wrong in taken.errors:
                wrong.pop("hint", None)
        size = len(body) // (len(events) or 1)
        return Body(taken, deque(events), size, trace, received)

    def _parse(self, body: bytes, taken: Taken, source: str, received_ns: int) -> list[Event]:
        events = []
        items = list(itertools.islice(body_elements(body), MAX_EVENTS + 1))
        if len(items) > MAX_EVENTS:
            raise TooManyError
        for index, item in enumerate(items):
            content, error = item if isinstance(item, Unreadable) else (item, None)
            if error is None:
                try:
                    salt = f"{self._salt}{next(self._number)}"
                    events.append(parse_event(item, received_ns=received_ns, salt=salt))
                    continue
                except EventError as wrong:
                    error = wrong
            taken.errors.append({"index": index, "error": str(error), "hint": error.hint})
            self.bury(content, str(error), source)
        if taken.errors:
            taken.ended["error"] = len(taken.errors)
        taken.accepted = len(events)
        return events

    def _plan(self, body: Body, written: Future[None], most: int) -> tuple[Part | None, int]:
        """Plan events of a body until that makes so many runs or more; how many it made.

        The part is None if nothing is to be written, nor waited for.
        """
        taken, received = body.taken, body.received
        body.begun = True
        playbooks = self._playbooks()
        planned: list[PlannedRun] = []
        try:
            while body.events and len(planned) < most:
                event = body.events.popleft()
                found = self._one(event, playbooks, received)
                planned += found
                ended = "shed" if found is SHED else _ended(found)
                taken.ended[ended] = taken.ended.get(ended, 0) + 1
                told = found[0].run.event if found else self._redaction.event(event)
                quiet = tuple((p.run.playbook.name, p.suppressed) for p in found if p.suppressed)
                self.recent.add(RecentEvent(told, received, ended, body.size, quiet))
                self._notes.event(told)
                taken.duplicates += bool(found) and all(p.suppressed == "duplicate" for p in found)
        except Exception as error:  # noqa: BLE001 - the journal's, or a bug: it costs this body alone
            self.writing.forget(planned, self._memory.taken())
            body.events.clear()
            taken.failed = error
            return None, len(planned)
        return self._part(body, planned, written), len(planned)

    def _part(self, body: Body, planned: list[PlannedRun], written: Future[None]) -> Part | None:
        taken = body.taken
        if not planned:
            return None
        new = [p.run for p in planned if p.suppressed is None]
        if body.trace:
            new = [replace(run, trace=body.trace) for run in new]
        again = [p.run for p in planned if p.suppressed == "duplicate" and p.ran]
        taken.runs += [run.id for run in (*new, *again)]
        # runs of one part start by playbook name, whichever of its events they are of
        new.sort(key=_name)
        changed = self._memory.taken()
        if not (new or again or changed.changes):
            return None
        taken.waits = True
        # a repeated run is answered as written only once the first sending of it is
        after = [first for run in again if (first := self.writing.of(run.id)) is not None]
        part = Part(body.taken, planned, new, changed, after, written)
        self.writing.expect(part)
        return part

    def _one(self, event: Event, playbooks: PlaybookIndex, received: float) -> Sequence[PlannedRun]:
        """What each playbook does about an event, which from here on says only what may be read."""
        least = self._least()
        if least is not None and (event.priority is None or event.priority > least):
            wanting = playbooks.matching(event)
            for playbook in wanting:
                self._notes.drop(playbook.name, "shed: journal full", "", received)
            return SHED if wanting else ()
        found: Sequence[PlannedRun] = plan(event, playbooks, self._memory, received)
        left = self._redaction.event(event)
        if left is not event:
            found = [replace(one, run=self._readable(one.run, left)) for one in found]
        for one in found:
            if one.suppressed is not None and one.suppressed != "duplicate":
                key = _key(one.run) if one.suppressed == "throttle" else ""
                self._notes.drop(one.run.playbook.name, one.suppressed, key, received)
        return found

    def _readable(self, run: Run, left: Event) -> Run:
        return replace(run, event=left, target=self._redaction.lane(run.event, run.target))


def _name(run: Run) -> str:
    return run.playbook.name


def _key(run: Run) -> str:
    """What a throttle counts by, as far as it may be read."""
    throttle = run.playbook.throttle
    pairs = throttle_key(run.event, throttle) if throttle else ()
    return ", ".join(f"{name}={_text(value)}" for name, value in pairs)


def _text(value: Any) -> str:
    if value is None:
        return "<NA>"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _ended(planned: Sequence[PlannedRun]) -> str:
    """How an event ended, for the metrics."""
    if not planned:
        return "unmatched"
    if any(one.suppressed is None for one in planned):
        return "run"
    return next(one.suppressed.partition(":")[0] for one in planned if one.suppressed)
