"""The composition root: the process that takes events and talks with people; signals, drain.

The one that works runs off is put together in ``engine.runtime.worker_process``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from engine.actions.registry import load_actions
from engine.intake.deferred_records import DeferredRecords
from engine.intake.event_recorder import EventRecorder
from engine.intake.intake import Intake
from engine.journal.sqlite.journal import SqliteJournal
from engine.journal.sqlite.storage import max_journal_bytes
from engine.language.compile import playbook_from_snapshot
from engine.runtime import event_loop, listeners, worker_process
from engine.runtime.maintenance import Maintenance
from engine.runtime.reload import Reloader
from engine.runtime.worker_channel import WorkerProcess, freeze_startup_objects
from engine.server.admin_api import AdminApi
from engine.server.admin_port import AdminPort
from engine.server.listener import ADMIN_LIMITS, EVENT_LIMITS, Listener, allow_files
from engine.server.operator_commands import OperatorCommands
from engine.sources.base import EventSink, SourceThread
from engine.sources.file import FollowedFile
from engine.sources.http import EventPort
from engine.sources.nats import JetStream
from engine.sources.redis import RedisList
from engine.telemetry.events import Observers
from engine.telemetry.fault_log import FaultLog
from engine.telemetry.logging import log_operator_commands, log_reloads
from engine.telemetry.metrics import Metrics
from engine.telemetry.tracing import tracing

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from engine.journal.protocol import Journal, State
    from engine.runtime.settings import Settings
    from engine.sources.base import Source

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Core:
    """What takes events."""

    journal: Journal
    reloader: Reloader
    upkeep: Maintenance
    fault: FaultLog
    notes: DeferredRecords
    intake: Intake

    def ended(self) -> str | None:
        """The name of a thread that should run and does not."""
        return self.reloader.ended() or self.upkeep.ended()


def serve(settings: Settings, *, story: bool = False) -> None:
    """Run the engine until SIGTERM or SIGINT.

    story: tell each run as text on stderr. Raises SettingsError, PlaybookError, FolderError, JournalError,
    ConnectionSettingsError, CrewError.
    """
    certificates = listeners.certificates(settings)
    access, operators = listeners.senders(settings, certificates), listeners.operators(settings)
    crew = WorkerProcess(
        functools.partial(worker_process.run_worker_process, settings, story=story)
    )
    metrics = Metrics()
    with contextlib.ExitStack() as stack:
        stack.callback(crew.stop, 0)
        traces = tracing(os.environ)
        if traces:
            stack.callback(traces.stop)
        observers = Observers(
            metrics, log_reloads, log_operator_commands, crew, *([traces] if traces else [])
        )
        events = stack.enter_context(listeners.listening(settings.listen))
        admin = stack.enter_context(listeners.listening(settings.admin_listen))
        core = _core(settings, observers, stack)
        host = crew.begin(core.reloader.active.set.guardrails, core.intake.release_throttle_slot)
        about = _about(settings, host)
        sources = [
            SourceThread(source, EventSink(source.kind, core.intake, observers, crew.wake))
            for source in _fetched(settings, core.journal)
        ]

        pages = _pages(core, crew, observers, metrics, lambda: _shown(about, sources))
        event_port = EventPort(
            core.intake,
            observers,
            crew.wake,
            access,
            traces,
            dry_run=settings.dry_run,
            fault=core.fault,
        )
        front_limits, back_limits = allow_files(EVENT_LIMITS, ADMIN_LIMITS)
        front = Listener(event_port, events, certificates, front_limits)
        back = Listener(AdminPort(pages, operators, core.ended), admin, limits=back_limits)
        for series in (pages.series, front.series, core.notes.series):
            metrics.add_series(series)

        def ready() -> None:
            freeze_startup_objects()
            _say(settings, about, events, admin)
            for source in sources:
                source.start()

        event_loop.run([front, back], ready)
        whole = _drain(sources, crew, settings.grace)
    log.info("stopped")
    if not whole:
        log.warning("attempts were cut short, they are made again at the next start")


def _drain(sources: Sequence[SourceThread], crew: WorkerProcess, grace: float) -> bool:
    """End what works, all within one grace; whether every attempt has come to its own end. Raises CrewError."""
    log.info("draining", seconds=grace)
    until = time.monotonic() + grace
    for source in sources:
        source.stop(0)
    for source in sources:
        source.stop(max(0.0, until - time.monotonic()))
    return crew.stop(max(0.0, until - time.monotonic()))


def _pages(
    core: _Core,
    crew: WorkerProcess,
    observers: Observers,
    metrics: Metrics,
    shown: Callable[[], dict[str, Any]],
) -> AdminApi:
    """What operators see and do."""
    operations = OperatorCommands(
        journal=core.journal,
        observers=observers,
        wake=crew.wake,
        apply_pauses=core.intake.pause,
        now=time.time,
        playbooks=lambda: {one.name for one in core.reloader.active.set.playbooks},
    )
    operations.end_pauses()  # those that ended while the engine was down
    core.upkeep.add(operations.end_pauses)
    return AdminApi(
        core.journal,
        operations,
        core.reloader,
        core.intake.recent,
        lambda: metrics.text() + crew.metrics(),
        shown,
    )


def _shown(about: dict[str, Any], sources: Sequence[SourceThread]) -> dict[str, Any]:
    return {**about, "sources": [source.status() for source in sources]}


def _core(settings: Settings, observers: Observers, stack: contextlib.ExitStack) -> _Core:
    """Everything behind the ports, at work; the stack ends it."""
    journal = SqliteJournal(
        settings.journal,
        functools.partial(playbook_from_snapshot, actions=load_actions()),
        dry_run=settings.dry_run,
    )
    stack.callback(journal.close)
    if journal.postponed_runs:
        log.info(
            "dry run: what was accepted before it waits for its end", runs=journal.postponed_runs
        )
    reloader = Reloader(settings.playbooks, settings.values, journal, observers, time.time)
    reloader.start()
    stack.callback(reloader.stop)
    notes = DeferredRecords(EventRecorder(settings.record) if settings.record else None)
    fault = FaultLog("journal", refusing="events")
    upkeep = Maintenance(journal, notes, settings.retention, time.time, fault)
    upkeep.start()
    stack.callback(upkeep.stop)
    intake = Intake(
        journal,
        lambda: reloader.active.playbooks,
        time.time,
        settings.own.user,
        redaction=settings.redaction,
        deferred_records=notes,
        min_priority=upkeep.least,
    )
    return _Core(journal, reloader, upkeep, fault, notes, intake)


def _fetched(settings: Settings, journal: State) -> Iterator[Source]:
    """The sources besides HTTP."""
    if settings.nats:
        yield JetStream(settings.nats)
    if settings.redis:
        yield RedisList(settings.redis)
    if settings.follow:
        yield FollowedFile(settings.follow, journal)


def _about(settings: Settings, host: str | None) -> dict[str, Any]:
    return {
        "version": version("tiercel"),
        "mode": "dry-run" if settings.dry_run else "enforce",
        "cluster": host,
    }


def _say(
    settings: Settings, about: dict[str, Any], events: socket.socket, admin: socket.socket
) -> None:
    """The first lines: what it listens on, loaded and may do."""
    log.info(
        "listening",
        events=listeners.url(events, tls=settings.tls_cert is not None),
        admin=listeners.url(admin),
        tokens=bool(settings.token_file or settings.path_secret_file),
        client_certificates=settings.client_ca is not None,
    )
    most = max_journal_bytes(settings.journal.resolve().parent)
    log.info("journal", file=str(settings.journal), most=f"{most >> 20:,} MiB")
    if settings.dry_run:
        seen = about["cluster"] or "assuming that every pod an event names exists"
        log.info("dry run: nothing is changed, nobody is told", cluster=seen)
    else:
        log.info("acting", cluster=about["cluster"], http_hosts=sorted(settings.http_hosts))
