"""Parse request bodies into events, and hold the result that answers each body."""

from __future__ import annotations

import itertools
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from engine.journal.records import DeadLetter
from engine.model.errors import EventError
from engine.model.event import parse_event
from engine.model.event_formats import FORMAT_HINT, Unreadable, body_elements

if TYPE_CHECKING:
    from engine.intake.deferred_records import DeferredRecords
    from engine.intake.redaction import Redaction
    from engine.model.event import Event

MAX_EVENTS = 1_000
"""Elements that one body may contain."""
DEAD_LETTER_BYTES = 16_384
"""Bytes of a dead letter's body that are kept."""


class TooManyEventsError(Exception):
    """A body contains more than MAX_EVENTS elements."""

    def __init__(self) -> None:
        super().__init__(f"a body has at most {MAX_EVENTS:,} events")


class BodyResult(msgspec.Struct, eq=False):
    """The result of one body, from which its response is built.

    accepted: events that were parsed. duplicates: of these, events that were planned before. runs: ids of the
    runs that the body started or repeats. errors: ``{index, error}`` of each element that is not an event.
    results: result of an event (``run``, ``unmatched``, ``throttle``…) -> number of events.
    error: why the body failed: EventError, TooManyEventsError, JournalError or a bug; None if it did not.
    awaits_write: the result is final only when the write has ended; ``error`` may be set until then.
    partly_written: some of the body is on disk, even if ``error`` is set later.

    A struct, because one is made for each body and a dataclass takes longer to make.
    """

    accepted: int = 0
    duplicates: int = 0
    runs: list[str] = msgspec.field(default_factory=list)
    errors: list[dict[str, Any]] = msgspec.field(default_factory=list)
    results: dict[str, int] = msgspec.field(default_factory=dict)
    error: BaseException | None = None
    awaits_write: bool = False
    partly_written: bool = False

    def response(self) -> dict[str, Any]:
        """Return the JSON of the response."""
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "runs": self.runs,
            "errors": self.errors,
        }


class Body(msgspec.Struct, eq=False):
    """A parsed body.

    events: events that are not planned yet. event_bytes: average size of an event. trace: ``traceparent`` for
    its runs, or empty. received: epoch seconds. started: some events are planned.
    """

    result: BodyResult
    events: deque[Event]
    event_bytes: int
    trace: str
    received: float
    started: bool = False


class BodyParser:
    """Parses bodies, and adds each element that is not an event to the dead letters."""

    def __init__(self, deferred_records: DeferredRecords, redaction: Redaction) -> None:
        self._deferred_records, self._redaction = deferred_records, redaction
        # Together they make untimed events distinct, also from events before a restart. The random part is
        # read once, because a system call for each event is slow.
        self._salt, self._number = secrets.token_hex(8), itertools.count()

    def parse(self, content: bytes, source: str, trace: str, received: float) -> Body:
        """Return the events of a body. If the body fails, its result has the error and no events remain."""
        result, events = BodyResult(), []
        try:
            events = self._events(content, result, source, received)
        except TooManyEventsError as error:
            self.dead_letter(content, str(error), source, received)
            result.error = error
        except Exception as error:  # noqa: BLE001 - a bug affects only this body; its response reports it
            result.error = error
        else:
            if not events:
                first = result.errors[0] if result.errors else {"error": "the body has no events"}
                result.error = EventError(first["error"], first.get("hint", FORMAT_HINT))
            for item in result.errors:
                item.pop("hint", None)
        return Body(result, deque(events), len(content) // (len(events) or 1), trace, received)

    def dead_letter(self, content: Any, error: str, source: str, received: float) -> None:
        """Keep content that is not an event, so that an operator can find its sender.

        content: bytes or decoded JSON. received: epoch seconds.
        """
        shown = self._redaction.redact_content(content)[:DEAD_LETTER_BYTES]
        shown = shown.decode("utf-8", "replace").encode("utf-8", "replace")
        self._deferred_records.add_dead_letter(DeadLetter(received, source, error, shown))

    def _events(
        self, content: bytes, result: BodyResult, source: str, received: float
    ) -> list[Event]:
        events = []
        received_ns = int(received * 1e9)
        items = list(itertools.islice(body_elements(content), MAX_EVENTS + 1))
        if len(items) > MAX_EVENTS:
            raise TooManyEventsError
        for index, item in enumerate(items):
            unreadable, error = item if isinstance(item, Unreadable) else (item, None)
            if error is None:
                try:
                    salt = f"{self._salt}{next(self._number)}"
                    events.append(parse_event(item, received_ns=received_ns, salt=salt))
                    continue
                except EventError as invalid:
                    error = invalid
            result.errors.append({"index": index, "error": str(error), "hint": error.hint})
            self.dead_letter(unreadable, str(error), source, received)
        if result.errors:
            result.results["error"] = len(result.errors)
        result.accepted = len(events)
        return events
