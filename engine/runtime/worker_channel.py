"""The workers as a process of their own, and the line between it and the one that takes events.

One interpreter runs one thread at a time: beside sixteen attempts that compute, an event waited for its turn
longer than for the disk. The two share the journal, in which a process that dies leaves nothing half
done, and this line, on which nothing goes that a crash must not lose.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing import Pipe
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import structlog

from engine.model.errors import SettingsError
from engine.model.playbook import Guardrails
from engine.telemetry.events import Decided, Reloaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from engine.telemetry.events import EngineEvent

log = structlog.get_logger()
YOUNG = 5_000
"""New objects that may live before the garbage collector looks at them: a body of events makes some 40."""
PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""
LATE = 5.0
"""Seconds that the workers' process may take beyond the grace, and to answer a scrape."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The workers know their cluster: its URL, None where pods are assumed."""

    host: str | None


@dataclass(frozen=True, slots=True)
class Unusable:
    """The workers cannot begin."""

    error: Exception


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run is over and nothing of it was done."""

    run: str


@dataclass(frozen=True, slots=True)
class Scrape:
    """The workers' metrics are asked for."""


@dataclass(frozen=True, slots=True)
class Scraped:
    """Their metrics, in the exposition format."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Stop:
    """Claim nothing more; what is under way has so many seconds."""

    grace: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """The workers have ended. whole: whether every attempt has."""

    whole: bool


Order = Guardrails | Decided | Scrape | Stop


class WorkerChannel:
    """The workers' end of the line. bell: rings when something may be due."""

    def __init__(self, connection: Connection, bell: int) -> None:
        self._connection, self.bell = connection, bell
        self._lock = threading.Lock()

    def say(self, what: Connected | Unusable | RunEnded | Scraped | Stopped) -> None:
        """Tell the other process, as long as it is there."""
        with self._lock, contextlib.suppress(OSError):
            self._connection.send(what)

    def hear(self, patience: float | None = None) -> Order | None:
        """The next order; None where none comes in so many seconds.

        Raises EOFError once the other process is gone.
        """
        try:
            if not self._connection.poll(patience):
                return None
            order: Order = self._connection.recv()
        except OSError:
            raise EOFError from None
        return order


class WorkerProcessError(Exception):
    """The workers' process has ended by itself, so the engine does: whoever watches it starts both again."""


class WorkerProcess:
    """The engine's end of the line; thread-safe. It forks, so it is made before any thread is.

    work: what the process does; gives its exit code. Where that ends untold, the engine is sent SIGTERM.
    """

    def __init__(self, work: Callable[[WorkerChannel], int]) -> None:
        self._connection, theirs = Pipe()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self._sending = threading.Lock()
        self._scraping = threading.Lock()
        self._scraped: SimpleQueue[bytes] = SimpleQueue()
        self._over: Callable[[str], None] = lambda _run: None
        self._whole: bool | None = None
        self._reader: threading.Thread | None = None
        self._stopping = False
        engine = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            self._connection.close()
            _die_with(engine)
            os._exit(_code(work, WorkerChannel(theirs, self._bell)))
        theirs.close()

    def begin(self, guardrails: Guardrails, over: Callable[[str], None]) -> str | None:
        """Let the workers begin; the URL of their cluster.

        over: is told the id of each run that ended without any step done. Raises what kept them from it.
        """
        try:
            said = self._connection.recv()
        except (EOFError, OSError):
            raise SettingsError("the workers' process ended before it began") from None
        if isinstance(said, Unusable):
            raise said.error
        self._over = over
        self._say(guardrails)
        self._reader = threading.Thread(target=self._read, name="tiercel-crew", daemon=True)
        self._reader.start()
        host: str | None = said.host
        return host

    def wake(self) -> None:
        """Something may be due now."""
        with contextlib.suppress(OSError):  # it has ended, which shows elsewhere
            os.eventfd_write(self._bell, 1)

    def __call__(self, moment: EngineEvent) -> None:
        """Pass on what people did, for the audit; and the guardrails of a set that came into force."""
        if isinstance(moment, Decided):
            self._say(moment)
        elif isinstance(moment, Reloaded) and moment.guardrails and self._reader:
            self._say(moment.guardrails)

    def metrics(self) -> bytes:
        """What the workers have counted; nothing where they do not answer in time."""
        with self._scraping:
            with contextlib.suppress(Empty):  # of one that came too late
                while True:
                    self._scraped.get_nowait()
            self._say(Scrape())
            try:
                return self._scraped.get(timeout=LATE)
            except Empty:
                return b""

    def stop(self, grace: float) -> bool:
        """Have the workers end; whether every attempt has come to its own end within the grace.

        Raises CrewError where they had ended before.
        """
        if not self._pid:
            return bool(self._whole)
        reader = self._reader
        lost = reader is not None and not reader.is_alive()
        self._stopping = True
        self._say(Stop(grace))
        if reader is not None:
            reader.join(grace + LATE)
        self._end()
        if lost:
            raise WorkerProcessError(
                "the workers' process has ended; what waits is worked off after a restart"
            )
        return bool(self._whole)

    def _end(self) -> None:
        self._connection.close()  # which a process that still works takes for its end
        until = time.monotonic() + LATE
        while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.01)
        self._pid = 0
        os.close(self._bell)

    def _say(self, order: Order) -> None:
        with self._sending, contextlib.suppress(OSError):
            self._connection.send(order)

    def _read(self) -> None:
        """Hear the workers until they end."""
        while True:
            try:
                said: Any = self._connection.recv()
            except (EOFError, OSError):
                break
            if isinstance(said, RunEnded):
                self._over(said.run)
            elif isinstance(said, Scraped):
                self._scraped.put(said.text)
            elif isinstance(said, Stopped):
                self._whole = said.whole
        if not self._stopping:
            log.error("the workers' process has ended")
            os.kill(os.getpid(), signal.SIGTERM)


def freeze_startup_objects() -> None:
    """Have the garbage collector leave alone what is there for good, once a process has begun.

    It would look through all of it again and again, and an event would wait some 10 ms for that.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


def _die_with(engine: int) -> None:
    """Have the kernel kill this process when the one that made it ends, however that does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != engine:  # it ended before we asked
        os._exit(1)


def _code(work: Callable[[WorkerChannel], int], line: WorkerChannel) -> int:
    """The exit code of the workers' process; whatever it raises ends it."""
    try:
        return work(line)
    except EOFError:  # the other process is gone
        return 1
    except BaseException:
        log.exception("workers")
        return 1
