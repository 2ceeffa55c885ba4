"""From a body of events to an answer: parse, plan, write, answer; the same for every source.

What matched is on disk before anything is answered, because no sender of Falco's events sends twice.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import EventError
from engine.event import decode, parse
from engine.journal.journal import Accepted
from engine.plan import Memory, plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

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


class KnownRuns(Memory):
    """A memory that also knows the runs on disk, from before a restart."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal.memory())
        self._journal = journal

    def seen(self, run: str) -> bool | None:
        """Whether the run was planned before, by this process or an earlier one."""
        before = super().seen(run)
        return before if before is not None or not self._journal.known({run}) else True


class Intake:
    """Takes bodies of events; thread-safe."""

    def __init__(
        self, journal: Journal, playbooks: Callable[[], Playbooks], now: Callable[[], float]
    ) -> None:
        self._journal, self._playbooks, self._now = journal, playbooks, now
        self._memory = KnownRuns(journal)
        self._lock = threading.Lock()

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
        with self._lock:
            self._plan(events, taken)
        return taken

    def give_back(self, run: Run) -> None:
        """Give the throttle's slot back of a run that came to nothing."""
        with self._lock:
            self._memory.give_back(run.id)
            changes, self._memory.changes = self._memory.changes, {}
        if changes:
            self._journal.remember(changes)

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

    def _plan(self, events: list[Event], taken: Taken) -> None:
        received, playbooks = self._now(), self._playbooks()
        planned: list[Planned] = []
        for event in events:
            found = plan(event, playbooks, self._memory, received)
            planned += found
            taken.ended[_ended(found)] += 1
            taken.duplicates += bool(found) and all(p.suppressed == "duplicate" for p in found)
        new = [p.run for p in planned if p.suppressed is None]
        again = [p.run for p in planned if p.suppressed == "duplicate" and p.ran]
        taken.runs = [run.id for run in (*new, *again)]
        changes, self._memory.changes = self._memory.changes, {}
        if new or changes or again:
            # a repeated run is answered as written only once the first sending of it is
            taken.written = self._journal.accept(Accepted(new, changes), received)
            taken.written.add_done_callback(lambda done: self._forget(planned, done))

    def _forget(self, planned: list[Planned], done: Future[None]) -> None:
        """What was not written was not seen: sent again, it is new."""
        if done.exception() is None:
            return
        with self._lock:
            for one in planned:
                if one.suppressed != "duplicate":
                    self._memory.forget(one.run.id)
            self._memory.changes = {}


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
        except binascii.Error:
            raise EventError("`data_base64` is no base64") from None
    data = value.get("data")
    return decode(data) if isinstance(data, str) else data
