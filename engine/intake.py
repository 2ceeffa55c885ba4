"""From a body of events to an answer: parse, plan, write, answer; the same for every source.

What matched is on disk before anything is answered, because no sender of Falco's events sends twice.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from engine.bodies import HINT, elements, unwrap
from engine.errors import EventError
from engine.event import decode, parse
from engine.journal.journal import Accepted, Dead, JournalError
from engine.known import KnownRuns
from engine.notes import LONGEST, Notes
from engine.plan import counted, plan
from engine.recent import Got, Recent
from engine.redact import Redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from engine.event import Event
    from engine.journal.journal import Journal
    from engine.known import Changed
    from engine.match import Playbooks
    from engine.plan import Planned
    from engine.run import Run

MAX_EVENTS = 1_000
SHED: list[Planned] = []
"""What becomes of an event that a journal which is nearly full has no room for."""


class TooManyError(Exception):
    """A body of more than MAX_EVENTS elements."""


class Taken(msgspec.Struct, eq=False):
    """What a body came to. written: resolves once all of it is on disk; None where nothing is to wait for.

    A struct, for there is one at every body, and a dataclass takes longer to make.
    """

    accepted: int = 0
    duplicates: int = 0
    runs: list[str] = msgspec.field(default_factory=list)
    errors: list[dict[str, Any]] = msgspec.field(default_factory=list)
    written: Future[None] | None = None
    ended: dict[str, int] = msgspec.field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "runs": self.runs,
            "errors": self.errors,
        }


class Intake:
    """Takes bodies of events; thread-safe. recent: the last ones, and how they ended.

    own: the API server's name of the engine itself. redaction: takes out what nobody may read. notes: of
    every event, of what was dropped, and of what was no event. least: the least severe priority that is
    taken now, None for any.
    """

    def __init__(
        self,
        journal: Journal,
        playbooks: Callable[[], Playbooks],
        now: Callable[[], float],
        own: str | None = None,
        *,
        redaction: Redaction | None = None,
        notes: Notes | None = None,
        least: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.recent = Recent()
        self._notes = notes or Notes()
        self._redaction = redaction or Redaction(())
        self._least = least
        self._journal, self._playbooks, self._now = journal, playbooks, now
        self._memory = KnownRuns(journal)
        self._memory.own = own
        self._memory.hidden = self._redaction.finds
        self._owed: dict[str, Any] = {}
        self._writing: dict[str, Future[None]] = {}
        # tells untimed events apart, also from those of before a restart; one call of the system for all
        self._salt, self._number = secrets.token_hex(8), itertools.count()
        # entered again where a write fails at once: its callback then runs under the plan's lock
        self._lock = threading.RLock()
        self.pause(journal.paused())

    @property
    def paused(self) -> frozenset[str]:
        """The playbooks that are paused; ``*`` is all."""
        return self._memory.paused

    def take(self, body: bytes, source: str = "http", trace: str = "") -> Taken:
        """Plan a body's events and begin to write what matched.

        source: where it came from. trace: what its runs belong to.

        Raises EventError where none is an event, TooManyError, JournalError where nothing can be written.
        """
        taken = Taken()
        try:
            events = self._parse(body, taken, source)
        except EventError as wrong:
            self.bury(body, str(wrong), source)
            raise
        if not events:
            first = taken.errors[0] if taken.errors else {"error": "an empty array", "hint": HINT}
            raise EventError(first["error"], first.get("hint"))
        for error in taken.errors:
            error.pop("hint", None)
        size = len(body) // len(events)
        with self._lock:
            self._plan(events, taken, size, trace)
        return taken

    def pause(self, names: Collection[str]) -> None:
        """Suppress the runs of these playbooks from now on; ``*`` is all."""
        with self._lock:
            self._memory.paused = frozenset(names)

    def give_back(self, run: str) -> None:
        """Give the throttle's slot back of a run, by its id, that came to nothing."""
        with self._lock:
            self._memory.give_back(run)
            changes = self._owed | self._memory.taken().changes
            self._owed = {}
        if not changes:
            return
        try:
            self._journal.remember(changes)
        except JournalError:  # with the next event that is written
            with self._lock:
                self._owed = changes | self._owed

    def bury(self, content: Any, error: str, source: str) -> None:
        """Keep what was no event, so that somebody may find out who sent it."""
        left = self._redaction.letter(content)[:LONGEST].decode("utf-8", "replace")
        self._notes.bury(Dead(self._now(), source, error, left.encode("utf-8", "replace")))

    def _parse(self, body: bytes, taken: Taken, source: str) -> list[Event]:
        received = int(self._now() * 1e9)
        events = []
        for index, item in enumerate(elements(body)):
            if index >= MAX_EVENTS:
                raise TooManyError
            try:
                value = unwrap(item if not isinstance(item, bytes) else decode(item))
                salt = f"{self._salt}{next(self._number)}"
                events.append(parse(value, received_ns=received, salt=salt))
            except EventError as error:
                taken.errors.append({"index": index, "error": str(error), "hint": error.hint})
                self.bury(item, str(error), source)
        if taken.errors:
            taken.ended["error"] = len(taken.errors)
        taken.accepted = len(events)
        return events

    def _plan(self, events: list[Event], taken: Taken, size: int, trace: str) -> None:
        received, playbooks = self._now(), self._playbooks()
        planned: list[Planned] = []
        try:
            for event in events:
                found = self._one(event, playbooks, received)
                planned += found
                ended = "shed" if found is SHED else _ended(found)
                taken.ended[ended] = taken.ended.get(ended, 0) + 1
                told = found[0].run.event if found else self._redaction.event(event)
                self.recent.add(Got(told, received, ended, size))
                self._notes.event(told)
                taken.duplicates += bool(found) and all(p.suppressed == "duplicate" for p in found)
        except JournalError:
            self._forget(planned, self._memory.taken())
            raise
        new = [p.run for p in planned if p.suppressed is None]
        if trace:
            new = [replace(run, trace=trace) for run in new]
        again = [p.run for p in planned if p.suppressed == "duplicate" and p.ran]
        taken.runs = [run.id for run in (*new, *again)]
        changed = self._memory.taken()
        # a repeated run is answered as written only once the first sending of it is
        waits = [one for run in again if (one := self._writing.get(run.id)) is not None]
        if new or changed.changes:
            waits.append(self._write(new, changed, planned, received))
        if waits or again:
            taken.written = _all_of(waits)

    def _one(self, event: Event, playbooks: Playbooks, received: float) -> Sequence[Planned]:
        """What each playbook does about an event, which from here on says only what may be read."""
        least = self._least()
        if least is not None and (event.priority is None or event.priority > least):
            wanting = playbooks.wanting(event)
            for playbook in wanting:
                self._notes.drop(playbook.name, "shed: journal full", "", received)
            return SHED if wanting else ()
        found: Sequence[Planned] = plan(event, playbooks, self._memory, received)
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

    def _write(
        self, new: list[Run], changed: Changed, planned: list[Planned], received: float
    ) -> Future[None]:
        owed, self._owed = self._owed, {}
        written = self._journal.accept(Accepted(new, owed | changed.changes), received)
        for run in new:
            self._writing[run.id] = written

        def end(done: Future[None]) -> None:
            # without the lock: the writer would wait for the planning of whatever comes meanwhile
            for run in new:
                self._writing.pop(run.id, None)
            if done.exception() is not None:
                with self._lock:
                    self._owed = owed | self._owed
                    self._forget(planned, changed)

        written.add_done_callback(end)
        return written

    def _forget(self, planned: list[Planned], changed: Changed) -> None:
        """What was not written was not seen: sent again, it is new."""
        self._memory.restore(changed)
        for one in planned:
            if one.suppressed != "duplicate":
                self._memory.forget(one.run.id)
        # of windows that others have changed since, a slot was given back: the disk must hear of it
        self._owed |= self._memory.taken().changes


def _all_of(writes: list[Future[None]]) -> Future[None]:
    """Resolves once all have; fails once all have ended and one has failed."""
    if len(writes) == 1:
        return writes[0]
    both: Future[None] = Future()
    both.set_running_or_notify_cancel()
    left = [len(writes)]
    lock = threading.Lock()

    def end(_: Future[None] | None) -> None:
        with lock:
            left[0] -= 1
            if left[0] > 0:
                return
        errors = [error for write in writes if (error := write.exception())]
        if errors:
            both.set_exception(errors[0])
        else:
            both.set_result(None)

    for write in writes:
        write.add_done_callback(end)
    if not writes:
        end(None)
    return both


def _key(run: Run) -> str:
    """What a throttle counts by, as far as it may be read."""
    throttle = run.playbook.throttle
    pairs = counted(run.event, throttle) if throttle else ()
    return ", ".join(f"{name}={_text(value)}" for name, value in pairs)


def _text(value: Any) -> str:
    if value is None:
        return "<NA>"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _ended(planned: Sequence[Planned]) -> str:
    """How an event ended, for the metrics."""
    if not planned:
        return "unmatched"
    if any(one.suppressed is None for one in planned):
        return "run"
    return next(one.suppressed.partition(":")[0] for one in planned if one.suppressed)
