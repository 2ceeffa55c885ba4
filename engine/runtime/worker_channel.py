"""The worker process, and the channel between it and the engine process.

The interpreter runs one thread at a time. In one process, an event waited longer for sixteen computing
attempts than for the disk. The processes share the journal, in which a process that dies leaves nothing
incomplete, and this channel, which carries only messages that may be lost in a crash.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing import Pipe
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import structlog

from engine.execution.rights_check import RightsReport
from engine.model.errors import SettingsError
from engine.model.playbook import Guardrails
from engine.telemetry.events import CommandExecuted, CommandRefused, Reloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from multiprocessing.connection import Connection

    from engine.actions.registry import Right
    from engine.telemetry.events import EngineEvent

log = structlog.get_logger()
GC_THRESHOLD = 5_000
"""Number of new objects that starts the garbage collector. A body of events creates about 40."""
PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
REPLY_TIMEOUT = 5.0
"""Seconds that the worker process may take after the grace period, and to answer a scrape."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The worker process is connected. host: URL of the cluster, None if pods are assumed."""

    host: str | None


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The worker process cannot start."""

    error: Exception


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run has ended without a completed step."""

    run: str


@dataclass(frozen=True, slots=True)
class HoldExpired:
    """A held step was not approved in time. message: of its outcome."""

    run: str
    message: str


@dataclass(frozen=True, slots=True)
class OwnCommand:
    """A command of the engine runs in a container. container: its id. since, until: epoch seconds."""

    container: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Scrape:
    """Request for the metrics of the worker process."""


@dataclass(frozen=True, slots=True)
class Scraped:
    """Metrics of the worker process, in the exposition format of Prometheus."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Stop:
    """Request to stop. grace: seconds in which running attempts can complete."""

    grace: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """The workers have stopped. completed: whether all attempts were completed."""

    completed: bool


@dataclass(frozen=True, slots=True)
class RequiredRights:
    """The rights that the playbooks in force need, by account (see ``rights_by_account``)."""

    by_account: Mapping[str, frozenset[Right]]


Command = Guardrails | CommandExecuted | CommandRefused | RequiredRights | Scrape | Stop


class WorkerChannel:
    """The worker process's end of the channel. wake_event: eventfd that is written when a run may be due."""

    def __init__(self, connection: Connection, wake_event: int) -> None:
        self._connection, self.wake_event = connection, wake_event
        self._lock = threading.Lock()
        self._postponed: deque[Command] = deque()

    def send(
        self,
        message: Connected
        | StartFailed
        | RunEnded
        | HoldExpired
        | OwnCommand
        | Scraped
        | Stopped
        | RightsReport,
    ) -> None:
        """Send a message. Does nothing if the engine process has ended."""
        with self._lock, contextlib.suppress(OSError):
            self._connection.send(message)

    def receive(self, timeout: float | None = None) -> Command | None:
        """Return the next command, None if none arrives within ``timeout`` seconds.

        Raises EOFError if the engine process has ended.
        """
        if self._postponed:
            return self._postponed.popleft()
        try:
            if timeout is not None and not self._connection.poll(timeout):
                return None
            command: Command = self._connection.recv()
        except OSError:
            raise EOFError from None
        return command

    def postpone(self, commands: Iterable[Command]) -> None:
        """Keep commands that cannot be executed yet for the next calls of ``receive``."""
        self._postponed.extend(commands)


class WorkerProcessError(Exception):
    """The worker process ended unexpectedly. The engine then ends too, and its supervisor restarts both."""


class WorkerProcess:
    """The engine process's end of the channel. Thread-safe. Forks, so create it before any thread.

    rights: the last report about the rights of the engine, None before the first.
    on_hold_expired: receives each held step that was not approved in time; may be set.
    on_own_command: receives each command that runs in a container; may be set.
    work: runs in the worker process and returns its exit code. If the worker process ends unexpectedly, the
    engine process gets SIGTERM.
    """

    def __init__(self, work: Callable[[WorkerChannel], int]) -> None:
        self._connection, worker_end = Pipe()
        self._wake_event = os.eventfd(0, os.EFD_CLOEXEC)
        self._send_lock = threading.Lock()
        self._scrape_lock = threading.Lock()
        self._scraped: SimpleQueue[bytes] = SimpleQueue()
        self._on_no_effect: Callable[[str], None] = lambda _run: None
        self.on_hold_expired: Callable[[HoldExpired], None] = lambda _hold: None
        self.on_own_command: Callable[[OwnCommand], None] = lambda _command: None
        self._completed: bool | None = None
        self.rights: RightsReport | None = None
        self._reader: threading.Thread | None = None
        self._stopping = False
        engine = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            self._connection.close()
            _die_with(engine)
            os._exit(_exit_code(work, WorkerChannel(worker_end, self._wake_event)))
        worker_end.close()

    def start(self, guardrails: Guardrails, on_no_effect: Callable[[str], None]) -> str | None:
        """Let the workers start. Return the URL of their cluster.

        on_no_effect: receives the id of each run that ended without a completed step.
        Raises SettingsError, or the error that the worker process reports.
        """
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            raise SettingsError("the worker process ended before it started to work") from None
        if isinstance(message, StartFailed):
            raise message.error
        self._on_no_effect = on_no_effect
        self._send(guardrails)
        self._reader = threading.Thread(
            target=self._read, name="tiercel-worker-channel", daemon=True
        )
        self._reader.start()
        host: str | None = message.host
        return host

    def wake(self) -> None:
        """Wake the workers, because a run may be due."""
        with contextlib.suppress(OSError):  # the process has ended; the reader reports it
            os.eventfd_write(self._wake_event, 1)

    def __call__(self, event: EngineEvent) -> None:
        """Pass on operator commands, for the audit log, and the guardrails of a new set of playbooks."""
        if isinstance(event, CommandExecuted | CommandRefused):
            self._send(event)
        elif isinstance(event, Reloaded) and event.guardrails and self._reader:
            self._send(event.guardrails)
            self.require_rights(event.rights)

    def require_rights(self, by_account: Mapping[str, frozenset[Right]]) -> None:
        """Let the worker process check these rights."""
        self._send(RequiredRights(by_account))

    def metrics(self) -> bytes:
        """Return the metrics of the worker process, empty if it does not answer in time."""
        with self._scrape_lock:
            with contextlib.suppress(Empty):  # discard late answers to earlier scrapes
                while True:
                    self._scraped.get_nowait()
            self._send(Scrape())
            try:
                return self._scraped.get(timeout=REPLY_TIMEOUT)
            except Empty:
                return b""

    def stop(self, grace: float) -> bool:
        """Stop the workers. Return whether all attempts were completed within ``grace`` seconds.

        Raises WorkerProcessError if the worker process had ended before.
        """
        if not self._pid:
            return bool(self._completed)
        reader = self._reader
        lost = reader is not None and not reader.is_alive()
        self._stopping = True
        self._send(Stop(grace))
        if reader is not None:
            reader.join(grace + REPLY_TIMEOUT)
        self._reap()
        if lost:
            raise WorkerProcessError(
                "the worker process has ended; waiting runs continue after a restart"
            )
        return bool(self._completed)

    def _reap(self) -> None:
        """Wait for the worker process. Kill it if it does not end in time."""
        self._connection.close()  # the worker process ends when it notices this
        deadline = time.monotonic() + REPLY_TIMEOUT
        while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.01)
        self._pid = 0
        os.close(self._wake_event)

    def _send(self, command: Command) -> None:
        with self._send_lock, contextlib.suppress(OSError):
            self._connection.send(command)

    def _read(self) -> None:
        """Receive messages until the worker process ends."""
        while True:
            try:
                message: Any = self._connection.recv()
            except (EOFError, OSError):
                break
            if isinstance(message, RunEnded):
                self._on_no_effect(message.run)
            elif isinstance(message, HoldExpired):
                self.on_hold_expired(message)
            elif isinstance(message, OwnCommand):
                self.on_own_command(message)
            elif isinstance(message, Scraped):
                self._scraped.put(message.text)
            elif isinstance(message, RightsReport):
                self.rights = message
            elif isinstance(message, Stopped):
                self._completed = message.completed
        if not self._stopping:
            log.error("worker_process_ended")
            os.kill(os.getpid(), signal.SIGTERM)


def freeze_startup_objects() -> None:
    """Exclude the objects that exist after the start from garbage collection.

    They live as long as the process. Each collection of them would delay an event by about 10 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def _die_with(engine: int) -> None:
    """Ask the kernel to kill this process when its parent ends for any reason."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != engine:  # the parent ended before the call
        os._exit(1)


def _exit_code(work: Callable[[WorkerChannel], int], channel: WorkerChannel) -> int:
    """Return the exit code of the worker process. Any exception ends it."""
    try:
        return work(channel)
    except EOFError:  # the engine process has ended
        return 1
    except BaseException:
        # after the fork, an exception must not reach the code of the engine process
        log.exception("worker_process_failed")
        return 1
