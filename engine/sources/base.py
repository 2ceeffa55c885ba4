"""The thread and the protocol of the sources that fetch events: NATS, Redis and a file.

A source removes an event from its origin only when the event is on the engine's disk. After an error the
thread waits and starts the source again.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import structlog

from engine.intake.body import TooManyEventsError
from engine.model.errors import EventError
from engine.telemetry.events import Received

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.intake.intake import Intake
    from engine.telemetry.events import Observers

log = structlog.get_logger()
_FIRST_WAIT, _MAX_WAIT = 0.5, 30.0
"""Seconds before a new start after an error. The wait doubles each time, up to the maximum."""
NOT_CONNECTED = "not connected yet"
"""The error of a source that has just started."""


class SourceError(Exception):
    """A source cannot continue: its server is unavailable, or the journal accepts no writes."""


class Source(Protocol):
    """One kind of source.

    kind: the name of its flag. target: where the events come from, without credentials.
    """

    kind: str
    target: str

    def run(self, sink: EventSink) -> None:
        """Fetch, deliver and remove events until ``sink.stopping`` is set. Raises SourceError."""
        ...


class EventSink:
    """Delivers the bodies of a source to the intake.

    stopping: set when the engine stops. error: why no events arrive, or None.
    """

    def __init__(
        self, kind: str, intake: Intake, observers: Observers, wake: Callable[[], None]
    ) -> None:
        self._kind, self._intake, self._observers, self._wake = kind, intake, observers, wake
        self.stopping = threading.Event()
        self.error: str | None = NOT_CONNECTED

    @property
    def is_error_logged(self) -> bool:
        """Whether the log contains the current error."""
        return self.error not in (None, NOT_CONNECTED)

    def connected(self) -> None:
        """Report that the source works, which ends its error."""
        if self.is_error_logged:
            log.info("source_available", kind=self._kind)
        self.error = None

    def deliver(self, *contents: bytes) -> None:
        """Return when each body is on disk, or is known not to be an event.

        Each body is parsed alone, as if it was posted. The runs of all of them are written together.
        Raises SourceError if the journal refuses one; then remove none from the origin.
        """
        bodies = self._intake.parse(contents, self._kind)
        while any(body.events for body in bodies):
            written = self._intake.submit(bodies)
            if written is not None:
                written.result()
                self._wake()
        results = [body.result for body in bodies]
        for result in results:
            if isinstance(result.error, (EventError, TooManyEventsError)):
                result.results = Counter(error=1)
            elif result.error is not None:
                self._notify(Counter(refused=1))
                raise SourceError(f"no event is removed from the source: {result.error}")
        for result in results:
            self._notify(result.results)

    def _notify(self, results: dict[str, int]) -> None:
        self._observers.notify(Received(None, results, source=self._kind))


class SourceThread:
    """Runs a source in a thread, and starts it again after each error."""

    def __init__(self, source: Source, sink: EventSink) -> None:
        self._source, self._sink = source, sink
        self._thread = threading.Thread(
            target=self._run, name=f"tiercel-{source.kind}", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, grace: float | None = None) -> None:
        """Stop after the current batch. Wait up to ``grace`` seconds (None: without limit).

        An event that is not on disk by then stays at its origin.
        """
        self._sink.stopping.set()
        if self._thread.is_alive():
            self._thread.join(grace)

    def status(self) -> dict[str, str | None]:
        """Return the kind, target and error, as ``/status`` shows them."""
        source = self._source
        return {"kind": source.kind, "target": source.target, "error": self._sink.error}

    def _run(self) -> None:
        wait = _FIRST_WAIT
        while not self._sink.stopping.is_set():
            try:
                self._source.run(self._sink)
            except SourceError as error:
                wait = self._back_off(str(error), wait)
            # The entry point of a source: whatever its client library raises, the thread must go on.
            except Exception as error:  # noqa: BLE001 - logged with its type
                wait = self._back_off(f"{type(error).__name__}: {error}", wait)

    def _back_off(self, error: str, wait: float) -> float:
        """Log an error once, and wait. Returns the next wait in seconds."""
        if not self._sink.is_error_logged:
            log.error("source_unavailable", kind=self._source.kind, error=error)
            wait = _FIRST_WAIT
        self._sink.error = error
        self._sink.stopping.wait(wait)
        return min(wait * 2, _MAX_WAIT)
