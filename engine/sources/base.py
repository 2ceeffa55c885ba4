"""What every source besides HTTP shares: events are fetched, and taken off only once they are on our disk.

Each has a thread that connects, fetches and takes off; whatever goes wrong, it begins again after a while.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import structlog

from engine.intake.intake import TooManyError
from engine.model.errors import EventError
from engine.telemetry.events import Received

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.intake.intake import Intake
    from engine.telemetry.events import Observers

log = structlog.get_logger()
_FIRST, _LONGEST = 0.5, 30.0
"""Seconds before it begins again after a fault; doubled each time, up to the longest."""
NOT_YET = "not connected yet"
"""What is wrong with a source that has just begun."""


class SourceError(Exception):
    """A source that cannot go on now: its server is away, or our journal takes no writes."""


class Fetching(Protocol):
    """How one kind of source is worked off.

    kind: its flag's name. target: where it comes from, without credentials.
    """

    kind: str
    target: str

    def work(self, taker: Taker) -> None:
        """Fetch, hand over and take off until the taker is told to stop. Raises SourceError."""
        ...


class Taker:
    """Hands bodies to the intake; ``stopping`` is set once the engine ends.

    error: why nothing comes, None while all is well.
    """

    def __init__(
        self, kind: str, intake: Intake, observers: Observers, wake: Callable[[], None]
    ) -> None:
        self._kind, self._intake, self._observers, self._wake = kind, intake, observers, wake
        self.stopping = threading.Event()
        self.error: str | None = NOT_YET

    @property
    def told(self) -> bool:
        """Whether the log has what is wrong."""
        return self.error not in (None, NOT_YET)

    def connected(self) -> None:
        """Nothing is wrong any more."""
        if self.told:
            log.info("source is back", kind=self._kind)
        self.error = None

    def take(self, *bodies: bytes) -> None:
        """Return once each body is on disk, or is known to be no event. Raises SourceError: keep them all.

        Each is read by itself, as one that is posted is; what they come to is written together.
        """
        read = self._intake.read(bodies, self._kind)
        taken = [body.taken for body in read]
        while any(body.events for body in read):
            written = self._intake.take(read)
            if written is not None:
                written.result()
                self._wake()
        for one in taken:
            if isinstance(one.failed, (EventError, TooManyError)):
                one.ended = Counter(error=1)
            elif one.failed is not None:
                self._tell(Counter(refused=1))
                raise SourceError(f"nothing is taken off: {one.failed}")
        for one in taken:
            self._tell(one.ended)

    def _tell(self, ended: dict[str, int]) -> None:
        self._observers.tell(Received(None, ended, source=self._kind))


class Source:
    """A thread that works one source off, again and again."""

    def __init__(self, fetching: Fetching, taker: Taker) -> None:
        self._fetching, self._taker = fetching, taker
        self._thread = threading.Thread(
            target=self._run, name=f"tiercel-{fetching.kind}", daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, grace: float | None = None) -> None:
        """End after what is at hand; what is not on disk by then stays where it comes from."""
        self._taker.stopping.set()
        if self._thread.is_alive():
            self._thread.join(grace)

    def state(self) -> dict[str, str | None]:
        """As ``/status`` shows it."""
        fetching = self._fetching
        return {"kind": fetching.kind, "target": fetching.target, "error": self._taker.error}

    def _run(self) -> None:
        wait = _FIRST
        while not self._taker.stopping.is_set():
            try:
                self._fetching.work(self._taker)
            except SourceError as error:
                wait = self._fault(str(error), wait)
            # a source's door: whatever its client raises, it begins again
            except Exception as error:  # noqa: BLE001 - told once, with its type
                wait = self._fault(f"{type(error).__name__}: {error}", wait)

    def _fault(self, why: str, wait: float) -> float:
        """Tell a fault once, wait, and give how long to wait the next time."""
        if not self._taker.told:
            log.error("source", kind=self._fetching.kind, error=why)
            wait = _FIRST
        self._taker.error = why
        self._taker.stopping.wait(wait)
        return min(wait * 2, _LONGEST)
