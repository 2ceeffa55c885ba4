"""The workers' process: what stands between the journal and the cluster is put together here."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import structlog

from engine.actions.registry import load_actions
from engine.cluster.api import CallRecorder
from engine.cluster.client import connect
from engine.cluster.kubeconfig import ConnectionSettingsError
from engine.cluster.simulated import AssumedCluster
from engine.execution.adoption import Adoption
from engine.execution.attempt import Clients
from engine.execution.budgets import BudgetLedger
from engine.execution.guardrails import Guard
from engine.execution.worker_pool import WorkerPool
from engine.journal.protocol import BUDGET_PREFIX
from engine.journal.sqlite.journal import SqliteJournal
from engine.language import duration
from engine.language.compile import playbook_from_snapshot
from engine.model.clock import SteadyClock
from engine.model.errors import JournalError, SettingsError, TemporaryError
from engine.model.playbook import Guardrails
from engine.outbound.api import RequestRecorder
from engine.outbound.client import LiveHttpClient, Senders
from engine.outbound.secrets import Secrets
from engine.render.story import tell_story
from engine.runtime.worker_channel import (
    Connected,
    RunEnded,
    Scrape,
    Scraped,
    Stop,
    Stopped,
    Unusable,
    freeze_startup_objects,
)
from engine.telemetry.audit import Audit
from engine.telemetry.events import Decided, Observers
from engine.telemetry.fault_log import FaultLog
from engine.telemetry.logging import log_steps
from engine.telemetry.metrics import WorkMetrics
from engine.telemetry.tracing import tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.cluster.client import KubernetesCluster
    from engine.journal.protocol import Journal
    from engine.model.run import Claim
    from engine.runtime.settings import Settings
    from engine.runtime.worker_channel import WorkerChannel
    from engine.telemetry.metrics import Series

log = structlog.get_logger()
LOOK = 1.0
"""Seconds between looks whether the thread that claims is still there."""


def run_worker_process(settings: Settings, line: WorkerChannel, *, story: bool) -> int:
    """Claim and attempt until told to stop; the exit code. Raises EOFError once the other process is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(
            number, signal.SIG_IGN
        )  # a terminal sends them to both; the other one decides
    try:
        cluster, traces = _cluster(settings), tracing(os.environ)
    except (SettingsError, ConnectionSettingsError) as error:
        line.say(Unusable(error))
        return 2
    line.say(Connected(cluster.host if cluster else None))
    guardrails = None
    while not isinstance(guardrails, Guardrails):  # the journal is there from then on
        guardrails = line.hear()
    metrics = WorkMetrics()
    told = [tell_story] if story else [log_steps, Audit()]
    observers = Observers(metrics, *told, *([traces] if traces else []))
    with contextlib.ExitStack() as stack:
        if traces:
            stack.callback(traces.stop)
        journal = SqliteJournal(
            settings.journal,
            functools.partial(playbook_from_snapshot, actions=load_actions()),
            worker_process=True,
            dry_run=settings.dry_run,
        )
        stack.callback(journal.close)
        shift = _Shift(settings, cluster, journal, guardrails)
        workers = shift.workers(observers, lambda run: line.say(RunEnded(run.id)))
        metrics.add_series(shift.series)
        workers.start()
        threading.Thread(target=_listen, args=(line.bell, workers.wake), daemon=True).start()
        if cluster and not settings.dry_run:
            adoption = Adoption(cluster, journal, workers.wake, time.time)
            adoption.start()
            stack.callback(adoption.stop)
        freeze_startup_objects()
        grace = _obey(line, shift, workers, observers, metrics)
        whole = workers.stop(grace)
        line.say(Stopped(whole))
        if not whole:
            os._exit(0)  # the threads of what is under way would hold the journal up
    return 0


def _obey(
    line: WorkerChannel,
    shift: _Shift,
    workers: WorkerPool,
    observers: Observers,
    metrics: WorkMetrics,
) -> float:
    """Do as told until it is to stop; the grace. Raises EOFError."""
    silence = FaultLog("api_server", calm=0.0)
    while True:
        order = line.hear(LOOK)
        shift.look(silence)
        if isinstance(order, Guardrails):
            shift.guardrails = order
        elif isinstance(order, Decided):
            observers.notify(order)
        elif isinstance(order, Scrape):
            line.say(Scraped(metrics.text()))
        elif isinstance(order, Stop):
            return order.grace
        ended = workers.ended()
        if ended:
            log.error("a thread has ended, so the workers do", thread=ended)
            raise EOFError


def _listen(bell: int, wake: Callable[[], None]) -> None:
    """Wake the workers whenever the bell rings."""
    while True:
        os.eventfd_read(bell)
        wake()


class _Shift:
    """What the workers work with. guardrails: of the set in force."""

    def __init__(
        self,
        settings: Settings,
        cluster: KubernetesCluster | None,
        journal: Journal,
        guardrails: Guardrails,
    ) -> None:
        self._settings, self._cluster, self._journal = settings, cluster, journal
        senders = Senders(settings.http_hosts)
        self._outside = LiveHttpClient(Secrets(settings.secrets_dir), senders=senders)
        self.guardrails = guardrails
        spent = {
            key: window
            for key, window in journal.key_values().items()
            if key.startswith(BUDGET_PREFIX)
        }
        ledger = BudgetLedger() if settings.dry_run else BudgetLedger(spent, self._remember)
        self._made = functools.lru_cache(1)(
            lambda guardrails: Guard(guardrails, settings.own, ledger)
        )

    def workers(self, observers: Observers, over: Callable[[Any], None]) -> WorkerPool:
        """The threads."""
        settings, cluster = self._settings, self._cluster
        return WorkerPool(
            self._journal,
            self.clients,
            self.guard,
            observers,
            sizes={"cluster": settings.workers, "slow": settings.slow_workers},
            now=SteadyClock(),
            on_no_effect=over,
            available_slots=cluster.available_slots if cluster else lambda _: None,
        )

    def guard(self) -> Guard:
        """The guard of the set in force; what its budgets have spent outlives sets, and a restart."""
        return self._made(self.guardrails)

    def clients(self, claim: Claim) -> Clients:
        """The clients for one attempt: dry in a dry run, and for playbooks that do not enforce."""
        timeout, hosts = claim.step.timeout, self._settings.http_hosts
        live = self._cluster.with_timeout(timeout) if self._cluster else None
        if live is None or self._settings.dry_run or not _acts(claim):
            reads = live or AssumedCluster(claim.run.event)
            return Clients(CallRecorder(reads), RequestRecorder(None, hosts), dry=True)
        return Clients(
            CallRecorder(live, live),
            RequestRecorder(self._outside.with_timeout(timeout), hosts),
            dry=False,
        )

    def look(self, silence: FaultLog) -> None:
        """Tell when the API server begins to give no answers, and when it gives some again."""
        breaker = self._cluster.breaker if self._cluster else None
        if breaker is None:
            return
        if breaker.open:
            silence.report(breaker.error or "")
        else:
            silence.clear()

    def series(self) -> Iterator[Series]:
        """What a scrape asks of the budgets and of the cluster."""
        for budget, left in self.guard().remaining_budgets():
            yield (
                "budget_left",
                {
                    "effect": budget.effect,
                    "scope": budget.scope,
                    "limit": str(budget.limit),
                    "per": duration.text(budget.per),
                    "actions": ",".join(budget.actions or ()),
                    "playbooks": ",".join(budget.playbooks or ()),
                },
                left,
            )
        if self._cluster:
            answers = float(not self._cluster.breaker.open)
            yield "cluster_answers", {}, answers

    def _remember(self, windows: Mapping[str, Any]) -> None:
        try:
            self._journal.save_key_values(windows)
        except JournalError as error:  # what is not on disk must not be acted upon
            raise TemporaryError(f"the journal cannot be written: {error}") from None


def _cluster(settings: Settings) -> KubernetesCluster | None:
    """The cluster to act on: named by a flag, or the one that this pod runs in; never one happened upon."""
    if settings.kubeconfig or settings.context or "KUBERNETES_SERVICE_HOST" in os.environ:
        at_once = settings.workers + settings.slow_workers + 1
        return connect(settings.kubeconfig, settings.context, settings.kube_qps, at_once)
    if settings.dry_run:
        return None
    raise SettingsError(
        "no cluster to act on: give --kubeconfig FILE (and --context NAME), or run in a pod; "
        "--dry-run shows what would be done without one"
    )


def _acts(claim: Claim) -> bool:
    """Whether the mode of its playbook lets the step act; ``notify`` lets only its messages."""
    mode = claim.run.playbook.mode
    return mode == "enforce" or (mode == "notify" and claim.step.effect == "notify")
