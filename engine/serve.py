"""The composition root: the only place that builds concrete things; threads, signals, drain."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from engine import entrance, loop
from engine.adopt import Adoption
from engine.attempt import Doors
from engine.budget import PREFIX, Ledger
from engine.clock import SteadyClock
from engine.errors import TemporaryError
from engine.guard import Guard
from engine.intake import Intake
from engine.journal.journal import JournalError
from engine.journal.sqlite import SqliteJournal
from engine.language import duration
from engine.language.compile import thaw
from engine.metrics import Metrics
from engine.notes import Notes
from engine.observe import (
    Audit,
    Observers,
    log_decisions,
    log_reloads,
    log_steps,
    tell_story,
)
from engine.operate import Operations
from engine.ports.cluster import Recorder
from engine.ports.given import AssumedCluster
from engine.ports.http import LiveOutside, OutsideRecorder, Secrets
from engine.ports.kubernetes import KubernetesCluster, connect
from engine.record import EventRecord
from engine.reload import Reloader
from engine.settings import SettingsError
from engine.sources.admin import AdminPort
from engine.sources.file import Follow
from engine.sources.http import EventPort
from engine.sources.listener import LIMITS, Listener, allow_files
from engine.sources.nats import JetStream
from engine.sources.pages import Pages
from engine.sources.redis import RedisList
from engine.sources.source import Source, Taker
from engine.tracing import tracing
from engine.upkeep import Upkeep
from engine.worker import Workers

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping

    from engine.journal.journal import Journal
    from engine.playbook import Guardrails
    from engine.run import Claim
    from engine.settings import Settings
    from engine.sources.source import Fetching

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Core:
    """What takes events and works them off."""

    journal: Journal
    reloader: Reloader
    upkeep: Upkeep
    intake: Intake
    guard: Callable[[], Guard]
    workers: Workers

    def ended(self) -> str | None:
        """The name of a thread that should run and does not."""
        return self.workers.ended() or self.reloader.ended() or self.upkeep.ended()


def serve(settings: Settings, *, story: bool = False) -> None:
    """Run the engine until SIGTERM or SIGINT.

    story: tell each run as text on stderr. Raises SettingsError, PlaybookError, FolderError, JournalError,
    ConnectionSettingsError, OSError (an address in use).
    """
    credentials, certificates = entrance.credentials(settings), entrance.certificates(settings)
    operators = entrance.operators(settings)
    cluster = _cluster(settings)
    metrics, traces = Metrics(), tracing(os.environ)
    told = [tell_story] if story else [log_steps, Audit()]
    observers = Observers(metrics, log_reloads, log_decisions, *told, *([traces] if traces else []))
    with contextlib.ExitStack() as stack:
        if traces:
            stack.callback(traces.stop)
        events = stack.enter_context(entrance.listening(settings.listen))
        admin = stack.enter_context(entrance.listening(settings.admin_listen))
        core = _core(settings, cluster, observers, stack)
        wake, about = core.workers.wake, _about(settings, cluster)
        sources = [
            Source(fetching, Taker(fetching.kind, core.intake, observers, wake))
            for fetching in _fetched(settings, core.journal)
        ]

        def shown() -> dict[str, Any]:
            return {**about, "sources": [source.state() for source in sources]}

        pages = _pages(core, observers, metrics, shown)
        event_port = EventPort(core.intake, observers, wake, credentials, traces)
        front = Listener(event_port, events, certificates)
        back = Listener(AdminPort(pages, operators, core.ended), admin)
        for gauges in (pages.gauges, front.gauges, lambda: _gauges(core.guard(), cluster)):
            metrics.ask(gauges)
        allow_files(2 * LIMITS.connections)

        def ready() -> None:
            _say(settings, about, events, admin)
            for source in sources:
                source.start()

        loop.run([front, back], ready)
        for source in sources:
            source.stop(settings.grace)
        whole = core.workers.stop(settings.grace)
    log.info("stopped")
    if not whole:
        log.warning("attempts were cut short, they are made again at the next start")
        os._exit(0)  # their threads would hold the interpreter up


def _core(
    settings: Settings,
    cluster: KubernetesCluster | None,
    observers: Observers,
    stack: contextlib.ExitStack,
) -> _Core:
    """Everything between the ports and the cluster, at work; the stack ends it."""
    journal = SqliteJournal(settings.journal, thaw)
    stack.callback(journal.close)
    reloader = Reloader(settings.playbooks, settings.values, journal, observers, time.time)
    reloader.start()
    stack.callback(reloader.stop)
    notes = Notes(EventRecord(settings.record) if settings.record else None)
    upkeep = Upkeep(journal, notes, settings.retention, time.time)
    upkeep.start()
    stack.callback(upkeep.stop)
    intake = Intake(
        journal,
        lambda: reloader.active.playbooks,
        time.time,
        settings.own.user,
        redaction=settings.redaction,
        notes=notes,
        least=upkeep.least,
    )
    guard = _guard(settings, journal, reloader)
    workers = Workers(
        journal,
        _doors(settings, cluster),
        guard,
        observers,
        sizes={"cluster": settings.workers, "slow": settings.slow_workers},
        now=SteadyClock(),
        over=intake.give_back,
        room=cluster.breaker.room if cluster else lambda: None,
    )
    workers.start()
    stack.callback(workers.stop, 0)
    if cluster and not settings.dry_run:
        adoption = Adoption(cluster, journal, workers.wake)
        adoption.start()
        stack.callback(adoption.stop)
    return _Core(journal, reloader, upkeep, intake, guard, workers)


def _pages(
    core: _Core, observers: Observers, metrics: Metrics, about: Callable[[], Mapping[str, Any]]
) -> Pages:
    """What operators see and do."""
    operations = Operations(
        core.journal, observers, core.workers.wake, core.intake.pause, time.time
    )
    return Pages(core.journal, operations, core.reloader, core.intake.recent, metrics, about)


def _gauges(
    guard: Guard, cluster: KubernetesCluster | None
) -> Iterator[tuple[str, str, dict[str, str], float]]:
    """What a scrape asks of the budgets and of the cluster."""
    for budget, left in guard.left():
        labels = {"effect": budget.effect, "scope": budget.scope, "per": duration.text(budget.per)}
        yield "budget_left", "Targets left in a budget's fullest window.", labels, left
    if cluster:
        answers = float(not cluster.breaker.open)
        yield "cluster_answers", "1 while the API server gives answers.", {}, answers


def _fetched(settings: Settings, journal: Journal) -> Iterator[Fetching]:
    """The sources besides HTTP."""
    if settings.nats:
        yield JetStream(settings.nats)
    if settings.redis:
        yield RedisList(settings.redis)
    if settings.follow:
        yield Follow(settings.follow, journal)


def _guard(settings: Settings, journal: Journal, reloader: Reloader) -> Callable[[], Guard]:
    """The guard of the set in force; what its budgets have spent outlives sets, and a restart."""

    def remember(windows: Mapping[str, Any]) -> None:
        try:
            journal.remember(windows)
        except JournalError as error:  # what is not on disk must not be acted upon
            raise TemporaryError(f"the journal cannot be written: {error}") from None

    spent = {key: window for key, window in journal.memory().items() if key.startswith(PREFIX)}
    ledger = Ledger() if settings.dry_run else Ledger(spent, remember)

    @functools.lru_cache(1)
    def made(guardrails: Guardrails) -> Guard:
        return Guard(guardrails, settings.own, ledger)

    return lambda: made(reloader.active.set.guardrails)


def _cluster(settings: Settings) -> KubernetesCluster | None:
    """The cluster to act on: named by a flag, or the one that this pod runs in; never one happened upon."""
    if settings.kubeconfig or settings.context or "KUBERNETES_SERVICE_HOST" in os.environ:
        return connect(settings.kubeconfig, settings.context, settings.kube_qps)
    if settings.dry_run:
        return None
    raise SettingsError(
        "no cluster to act on: give --kubeconfig FILE (and --context NAME), or run in a pod; "
        "--dry-run shows what would be done without one"
    )


def _doors(settings: Settings, cluster: KubernetesCluster | None) -> Any:
    """The doors for one attempt: dry in a dry run, and for playbooks that do not enforce."""
    outside = LiveOutside(Secrets(settings.secrets_dir))

    def doors(claim: Claim) -> Doors:
        timeout, hosts = claim.step.timeout, settings.http_hosts
        live = cluster.within(timeout) if cluster else None
        if live is None or settings.dry_run or not _acts(claim):
            reads = live or AssumedCluster(claim.run.event)
            return Doors(Recorder(reads), OutsideRecorder(None, hosts), dry=True)
        return Doors(
            Recorder(live, live), OutsideRecorder(outside.within(timeout), hosts), dry=False
        )

    return doors


def _acts(claim: Claim) -> bool:
    """Whether the mode of its playbook lets the step act; ``notify`` lets only its messages."""
    mode = claim.run.playbook.mode
    return mode == "enforce" or (mode == "notify" and claim.step.effect == "notify")


def _about(settings: Settings, cluster: KubernetesCluster | None) -> dict[str, Any]:
    return {
        "version": version("tiercel"),
        "mode": "dry-run" if settings.dry_run else "enforce",
        "cluster": cluster.host if cluster else None,
    }


def _say(
    settings: Settings, about: dict[str, Any], events: socket.socket, admin: socket.socket
) -> None:
    """The first lines: what it listens on, loaded and may do."""
    log.info(
        "listening",
        events=entrance.url(events, tls=settings.tls_cert is not None),
        admin=entrance.url(admin),
        tokens=bool(settings.token_file or settings.path_secret_file),
        client_certificates=settings.client_ca is not None,
    )
    if settings.dry_run:
        seen = about["cluster"] or "assuming that every pod an event names exists"
        log.info("dry run: nothing is changed, nobody is told", cluster=seen)
    else:
        log.info("acting", cluster=about["cluster"], http_hosts=sorted(settings.http_hosts))
