"""The engine process: accepts events and serves operators. Starts and stops its parts.

The worker process, which executes runs, is set up in ``engine.runtime.worker_process``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from engine.actions.rbac import rights_by_account
from engine.intake.body_planner import throttle_text
from engine.intake.deferred_records import DeferredRecords
from engine.intake.event_recorder import EventRecorder
from engine.intake.intake import Intake
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.errors import JournalError
from engine.model.event import format_time
from engine.render.rights import rights_json
from engine.runtime import event_loop, listeners, worker_process
from engine.runtime.journals import as_shared, clock_of, log_journal, open_journal, open_spool
from engine.runtime.maintenance import Maintenance
from engine.runtime.reload import Reloader
from engine.runtime.slack_buttons import check_slack, start_slack
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
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from engine.journal.protocol import Journal
    from engine.journal.spool.queue import SpooledQueue
    from engine.runtime.settings import Settings
    from engine.sources.base import Source
    from engine.telemetry.tracing import Tracing

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Core:
    """The parts that accept events. fault: the fault log of the journal. now: its clock."""

    journal: Journal
    reloader: Reloader
    maintenance: Maintenance
    fault: FaultLog
    deferred_records: DeferredRecords
    intake: Intake
    now: Callable[[], float]
    spool: SpooledQueue | None

    def ended_thread(self) -> str | None:
        """Return the name of a thread that has ended but should run, else None."""
        ended = self.reloader.ended_thread() or self.maintenance.ended_thread()
        return ended or (self.spool.ended_thread() if self.spool else None)


def serve(settings: Settings, *, story: bool = False) -> None:
    """Run the engine until SIGTERM or SIGINT.

    story: print each run as text on stderr.
    Raises SettingsError, PlaybookError, FolderError, JournalError, ConnectionSettingsError,
    WorkerProcessError.
    """
    access = listeners.load_access(settings)
    check_slack(settings, access.operators)
    workers = WorkerProcess(  # first, because it forks and must do so before any thread starts
        functools.partial(worker_process.run_worker_process, settings, story=story)
    )
    metrics = Metrics()
    with contextlib.ExitStack() as stack:
        stack.callback(workers.stop, 0)
        stack.callback(access.authenticator.close)
        traces = _start_tracing(stack)
        observers = Observers(
            metrics, log_reloads, log_operator_commands, workers, *([traces] if traces else [])
        )
        event_socket = stack.enter_context(listeners.listen(settings.listen))
        admin_socket = stack.enter_context(listeners.listen(settings.admin_listen))
        core = _start_core(settings, observers, stack)
        playbook_set = core.reloader.active.set
        workers.on_own_command = lambda command: core.intake.note_own_command(
            command.container, command.since, command.until
        )
        cluster = workers.start(playbook_set.guardrails, core.intake.release_throttle_slot)
        workers.require_rights(rights_by_account(playbook_set.playbooks))
        about = _about(settings, cluster)
        sources = [
            SourceThread(source, EventSink(source.kind, core.intake, observers, workers.wake))
            for source in _sources(settings, core.journal)
        ]

        commands = _operator_commands(core, workers, observers)
        slack = start_slack(settings, access.operators, core.journal, commands, workers, stack)
        reports = [*(source.status for source in sources), *(one.status for one in slack)]
        status = functools.partial(_status, about, core, workers if cluster else None, reports)
        api = _admin_api(core, commands, workers, metrics, status)
        event_port = EventPort(
            core.intake, observers, workers.wake, access.sender_checks, traces,
            dry_run=settings.dry_run, fault=core.fault,
        )  # fmt: skip
        event_limits, admin_limits = allow_files(EVENT_LIMITS, ADMIN_LIMITS)
        event_listener = Listener(event_port, event_socket, access.certificates, event_limits)
        admin_port = AdminPort(api, access.authenticator, core.ended_thread)
        admin_listener = Listener(admin_port, admin_socket, limits=admin_limits)
        for series in (api.series, event_listener.series, core.deferred_records.series):
            metrics.add_series(series)

        log_start = functools.partial(_log_start, settings, about, event_socket, admin_socket)
        on_ready = functools.partial(_begin, settings, core, sources, log_start)
        event_loop.run([event_listener, admin_listener], on_ready)
        completed = _drain(sources, workers, settings.grace)
    log.info("stopped")
    if not completed:
        log.warning("attempts_interrupted", effect="they are repeated at the next start")


def _start_tracing(stack: contextlib.ExitStack) -> Tracing | None:
    """Start the export of traces, if the environment asks for it. The stack stops it."""
    traces = tracing(os.environ)
    if traces:
        stack.callback(traces.stop)
    return traces


def _begin(
    settings: Settings,
    core: _Core,
    sources: Sequence[SourceThread],
    log_start: Callable[[], None],
) -> None:
    """Start the sources, once the ports answer."""
    log_start()
    freeze_startup_objects()
    log_journal(settings, core.journal)
    for source in sources:
        source.start()


def _status(
    about: Mapping[str, Any],
    core: _Core,
    workers: WorkerProcess | None,
    reports: Sequence[Callable[[], dict[str, str | None]]],
) -> dict[str, Any]:
    """Return what /status shows beside the queue and the playbooks.

    workers: None without a cluster. reports: the status of each source, and of Slack.
    """
    return {
        **about,
        "rights": rights_json(workers.rights) if workers else None,
        "sources": [report() for report in reports],
        "replicas": _replicas(core.journal),
        "spool": core.spool.status() if core.spool else None,
    }


def _drain(sources: Sequence[SourceThread], workers: WorkerProcess, grace: float) -> bool:
    """Stop sources and workers within ``grace`` seconds. Return whether all attempts were completed.

    Raises WorkerProcessError.
    """
    log.info("draining", seconds=grace)
    deadline = time.monotonic() + grace
    for source in sources:
        source.stop(0)
    for source in sources:
        source.stop(max(0.0, deadline - time.monotonic()))
    return workers.stop(max(0.0, deadline - time.monotonic()))


def _operator_commands(
    core: _Core, workers: WorkerProcess, observers: Observers
) -> OperatorCommands:
    """Return the commands. Ends the pauses that expired while the engine was stopped."""
    shared = as_shared(core.journal)
    commands = OperatorCommands(
        journal=core.journal,
        observers=observers,
        wake=workers.wake,
        apply_pauses=core.intake.pause,
        now=core.now,
        playbooks=lambda: {one.name for one in core.reloader.active.set.playbooks},
    )
    if not (shared and not shared.is_open):
        commands.end_pauses()
    core.maintenance.add_task("end pauses", commands.end_pauses)
    if shared:
        core.maintenance.add_task("read pauses", lambda: core.intake.pause(shared.paused()))
        core.maintenance.add_task(
            "publish the digest", lambda: shared.set_digest(core.reloader.active.set.digest)
        )
    return commands


def _admin_api(
    core: _Core,
    commands: OperatorCommands,
    workers: WorkerProcess,
    metrics: Metrics,
    status: Callable[[], dict[str, Any]],
) -> AdminApi:
    return AdminApi(
        core.journal,
        commands,
        lambda: core.reloader.active,
        core.intake.recent,
        lambda: metrics.text() + workers.metrics(),
        status,
        accept_error=core.spool.write_error if core.spool else None,
    )


def _start_core(settings: Settings, observers: Observers, stack: contextlib.ExitStack) -> _Core:
    """Start journal, reloader, maintenance and intake. The stack stops them."""
    journal = open_journal(settings, "engine")
    stack.callback(journal.close)
    now = clock_of(journal, "engine")
    if isinstance(journal, SqliteJournal) and journal.postponed_runs:
        log.info("runs_postponed", reason="dry run", runs=journal.postponed_runs)
    spool = open_spool(settings, journal)
    if spool:
        stack.callback(spool.close)
    reloader = Reloader(settings.playbooks, settings.values, spool or journal, observers, now)
    reloader.start()
    stack.callback(reloader.stop)
    recorder = EventRecorder(settings.record) if settings.record else None
    deferred_records = DeferredRecords(recorder)
    fault = (
        FaultLog("journal", spooling="events") if spool else FaultLog("journal", refusing="events")
    )
    maintenance = Maintenance(journal, deferred_records, settings.retention, now, fault)
    maintenance.start()
    stack.callback(maintenance.stop)
    intake = Intake(
        spool or journal,
        lambda: reloader.active.playbooks,
        now,
        settings.own.user,
        redaction=settings.redaction,
        deferred_records=deferred_records,
        min_priority=maintenance.min_priority,
    )
    if spool:
        maintenance.add_task("save the playbooks", spool.save_pending)
        spool.on_throttled = lambda run: deferred_records.count_dropped_run(
            run.playbook.name, "throttle", throttle_text(run), run.received
        )
        spool.start()
    return _Core(journal, reloader, maintenance, fault, deferred_records, intake, now, spool)


def _sources(settings: Settings, journal: Journal) -> Iterator[Source]:
    """Yield the configured event sources besides HTTP."""
    if settings.nats:
        yield JetStream(settings.nats)
    if settings.redis:
        yield RedisList(settings.redis, _replica_names(settings, journal))
    if settings.follow:
        yield FollowedFile(settings.follow, journal, _offset_key(settings))


def _replica_names(
    settings: Settings, journal: Journal
) -> tuple[str, Callable[[], list[str]]] | None:
    """Return the name of this replica, and a function that returns those of all; None without replicas."""
    shared = as_shared(journal)
    if shared is None:
        return None
    return settings.replica, lambda: [one.name for one in shared.replicas()]


def _offset_key(settings: Settings) -> str:
    """Return the key of the offset of the followed file. In a shared journal, each node has its own file."""
    node = settings.own.node or socket.gethostname()
    return f"{node}:{settings.follow}" if settings.journal_url else str(settings.follow)


def _replicas(journal: Journal) -> list[dict[str, Any]] | None:
    """Return the replicas as JSON, None if the journal is not shared or cannot be read."""
    shared = as_shared(journal)
    if shared is None:
        return None
    try:
        return [
            {
                "name": one.name,
                "version": one.version,
                "digest": one.digest or None,
                "startedAt": format_time(int(one.started) * 1_000_000_000),
                "seenSecondsAgo": round(one.age, 1),
            }
            for one in shared.replicas()
        ]
    except JournalError:
        return None


def _about(settings: Settings, cluster: str | None) -> dict[str, Any]:
    return {
        "version": version("tiercel"),
        "mode": "dry-run" if settings.dry_run else "enforce",
        "cluster": cluster,
    }


def _log_start(
    settings: Settings,
    about: dict[str, Any],
    event_socket: socket.socket,
    admin_socket: socket.socket,
) -> None:
    """Log the addresses, the journal and what the engine acts on."""
    log.info(
        "listening",
        events=listeners.url(event_socket, tls=settings.tls_cert is not None),
        admin=listeners.url(admin_socket),
        tokens=bool(settings.token_file or settings.path_secret_file),
        client_certificates=settings.client_ca is not None,
    )
    if settings.dry_run:
        cluster = about["cluster"] or "assuming that every pod an event names exists"
        log.info("dry_run", effect="no changes, no messages", cluster=cluster)
    else:
        log.info(
            "enforcing",
            cluster=about["cluster"],
            http_hosts=sorted(settings.http_hosts),
            artifact_stores=[str(store) for store in settings.artifact_stores],
        )
