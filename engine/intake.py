"""From a body of events to an answer: parse, plan, write, answer; the same for every source.

What matched is on disk before anything is answered, because no sender of Falco's events sends twice.
"""

from __future__ import annotations

import base64
import secrets
import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.budget import PREFIX
from engine.errors import EventError
from engine.event import decode, parse
from engine.journal.journal import Accepted, JournalError
from engine.plan import Memory, plan
from engine.recent import Got, Recent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from engine.event import Event
    from engine.journal.journal import Journal
    from engine.match import Playbooks
    from engine.plan import Planned
    from engine.run import Run

MAX_EVENTS = 1_000
_HINT = "send one alert, an array, or one alert a line, as JSON"


class TooManyError(Exception):
    """A body of more than MAX_EVENTS elements."""


@dataclass(slots=True)
class Taken:
    """What a body came to. written: resolves once all of it is on disk; None where nothing is to wait for."""

    accepted: int = 0
    duplicates: int = 0
    runs: list[str] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    written: Future[None] | None = None
    ended: Counter[str] = field(default_factory=Counter)

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "runs": self.runs,
            "errors": self.errors,
        }


@dataclass(frozen=True, slots=True)
class Changed:
    """Windows that changed: what the journal must keep of them, and what they were."""

    changes: dict[str, Any]
    before: dict[str, dict[str, Any] | None]


class KnownRuns(Memory):
    """A memory that also knows the runs on disk, from before a restart.

    before: the windows that changed since it was last emptied, as they were then.
    """

    def __init__(self, journal: Journal) -> None:
        kept = journal.memory()
        super().__init__({k: kept[k] for k in kept if not k.startswith(PREFIX)})
        self._journal = journal
        self.before: dict[str, dict[str, Any] | None] = {}

    def seen(self, run: str) -> bool | None:
        """Whether the run was planned before, by this process or an earlier one."""
        before = super().seen(run)
        return before if before is not None or not self._journal.known({run}) else True

    def taken(self) -> Changed:
        """What changed since it was last taken."""
        changed = Changed(self.changes, self.before)
        self.changes, self.before = {}, {}
        return changed

    def restore(self, changed: Changed) -> None:
        """Put the windows back that nobody has changed since."""
        for key, was in changed.before.items():
            if self.windows.get(key) is not changed.changes[key]:
                continue
            if was is None:
                self.windows.pop(key, None)
            else:
                self.windows[key] = was

    def _change(self, key: str, window: dict[str, Any] | None) -> None:
        self.before.setdefault(key, self.windows.get(key))
        super()._change(key, window)


class Intake:
    """Takes bodies of events; thread-safe. recent: the last ones, and how they ended.

    own: the API server's name of the engine itself.
    """

    def __init__(
        self,
        journal: Journal,
        playbooks: Callable[[], Playbooks],
        now: Callable[[], float],
        own: str | None = None,
    ) -> None:
        self.recent = Recent()
        self._journal, self._playbooks, self._now = journal, playbooks, now
        self._memory = KnownRuns(journal)
        self._memory.own = own
        self._owed: dict[str, Any] = {}
        self._writing: dict[str, Future[None]] = {}
        # entered again where a write fails at once: its callback then runs under the plan's lock
        self._lock = threading.RLock()
        self.pause(journal.paused())

    def take(self, body: bytes) -> Taken:
        """Plan a body's events and begin to write what matched.

        Raises EventError where none is an event, TooManyError, JournalError where nothing can be written.
        """
        taken = Taken()
        events = self._parse(body, taken)
        if not events:
            first = taken.errors[0] if taken.errors else {"error": "an empty array", "hint": _HINT}
            raise EventError(first["error"], first.get("hint"))
        for error in taken.errors:
            error.pop("hint", None)
        size = len(body) // len(events)
        with self._lock:
            self._plan(events, taken, size)
        return taken

    def pause(self, names: Collection[str]) -> None:
        """Suppress the runs of these playbooks from now on; ``*`` is all."""
        with self._lock:
            self._memory.paused = frozenset(names)

    def give_back(self, run: Run) -> None:
        """Give the throttle's slot back of a run that came to nothing."""
        with self._lock:
            self._memory.give_back(run.id)
            changes = self._owed | self._memory.taken().changes
            self._owed = {}
        if not changes:
            return
        try:
            self._journal.remember(changes)
        except JournalError:  # with the next event that is written
            with self._lock:
                self._owed = changes | self._owed

    def _parse(self, body: bytes, taken: Taken) -> list[Event]:
        received = int(self._now() * 1e9)
        events = []
        for index, item in enumerate(_elements(body)):
            if index >= MAX_EVENTS:
                raise TooManyError
            try:
                value = _unwrap(item if not isinstance(item, bytes) else decode(item))
                events.append(parse(value, received_ns=received, salt=secrets.token_hex(8)))
            except EventError as error:
                taken.errors.append({"index": index, "error": str(error), "hint": error.hint})
        taken.ended["error"] += len(taken.errors)
        taken.accepted = len(events)
        return events

    def _plan(self, events: list[Event], taken: Taken, size: int) -> None:
        received, playbooks = self._now(), self._playbooks()
        planned: list[Planned] = []
        try:
            for event in events:
                found = plan(event, playbooks, self._memory, received)
                planned += found
                ended = _ended(found)
                taken.ended[ended] += 1
                self.recent.add(Got(event, received, ended, size))
                taken.duplicates += bool(found) and all(p.suppressed == "duplicate" for p in found)
        except JournalError:
            self._forget(planned, self._memory.taken())
            raise
        new = [p.run for p in planned if p.suppressed is None]
        again = [p.run for p in planned if p.suppressed == "duplicate" and p.ran]
        taken.runs = [run.id for run in (*new, *again)]
        changed = self._memory.taken()
        # a repeated run is answered as written only once the first sending of it is
        waits = [self._writing[run.id] for run in again if run.id in self._writing]
        if new or changed.changes:
            waits.append(self._write(new, changed, planned, received))
        if waits or again:
            taken.written = _all_of(waits)

    def _write(
        self, new: list[Run], changed: Changed, planned: list[Planned], received: float
    ) -> Future[None]:
        owed, self._owed = self._owed, {}
        written = self._journal.accept(Accepted(new, owed | changed.changes), received)
        self._writing |= {run.id: written for run in new}

        def end(done: Future[None]) -> None:
            with self._lock:
                for run in new:
                    self._writing.pop(run.id, None)
                if done.exception() is not None:
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


def _ended(planned: tuple[Planned, ...]) -> str:
    """How an event ended, for the metrics."""
    if not planned:
        return "unmatched"
    if any(one.suppressed is None for one in planned):
        return "run"
    return next(one.suppressed.partition(":")[0] for one in planned if one.suppressed)


def _elements(body: bytes) -> list[Any]:
    """The elements of a body: decoded ones, or the lines of NDJSON as bytes. Raises EventError."""
    if not body.strip():
        raise EventError("the body is empty", _HINT)
    try:
        value = decode(body)
    except EventError:
        lines = [line for line in body.split(b"\n") if line.strip()]
        if len(lines) < 2:  # noqa: PLR2004 - one line is no NDJSON
            raise
        return list(lines)
    return value if isinstance(value, list) else [value]


def _unwrap(value: Any) -> Any:
    """The alert within a CloudEvent in structured mode; anything else as it is. Raises EventError."""
    if not isinstance(value, dict) or "specversion" not in value or "rule" in value:
        return value
    if "data_base64" in value:
        try:
            return decode(base64.b64decode(str(value["data_base64"]), validate=True))
        except ValueError:  # binascii.Error, and what it raises of letters beyond ASCII
            raise EventError("`data_base64` is no base64") from None
    data = value.get("data")
    return decode(data) if isinstance(data, str) else data
