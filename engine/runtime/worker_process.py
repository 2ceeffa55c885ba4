"""The worker process: claims steps from the journal and executes them against the cluster."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from engine.actions.rbac import ACCESS_REVIEWS
from engine.artifacts.api import ArtifactRecorder
from engine.artifacts.live_store import LiveArtifactStore
from engine.cluster.api import CallRecorder
from engine.cluster.client import connect
from engine.cluster.impersonation import as_account
from engine.cluster.kubeconfig import ConnectionSettingsError
from engine.cluster.simulated import AssumedCluster
from engine.execution.adoption import Adoption
from engine.execution.attempt import Clients
from engine.execution.budgets import BudgetLedger
from engine.execution.guardrails import GuardrailChecker
from engine.execution.worker_pool import (
    POLL_INTERVAL,
    SHARED_POLL_INTERVAL,
    Capacity,
    WorkerPool,
)
from engine.language import duration
from engine.model.errors import JournalError, JournalUnavailableError, SettingsError, TemporaryError
from engine.model.playbook import Guardrails
from engine.outbound.api import RequestRecorder
from engine.outbound.client import LiveHttpClient, Senders
from engine.outbound.host_limits import MAX_CONCURRENT, HostLimits
from engine.outbound.secrets import Secrets
from engine.render.story import tell_story
from engine.runtime.cpu_affinity import run_on_one_cpu
from engine.runtime.journals import as_shared, clock_of, open_journal
from engine.runtime.rights_monitor import RightsMonitor
from engine.runtime.worker_channel import (
    Connected,
    HoldExpired,
    OwnCommand,
    RequiredRights,
    RunEnded,
    Scrape,
    Scraped,
    StartFailed,
    Stop,
    Stopped,
    freeze_startup_objects,
)
from engine.telemetry.audit import Audit
from engine.telemetry.events import AttemptEnded, CommandExecuted, CommandRefused, Observers
from engine.telemetry.fault_log import FaultLog
from engine.telemetry.logging import log_steps
from engine.telemetry.metrics import WorkMetrics
from engine.telemetry.tracing import tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from engine.actions.registry import Right
    from engine.cluster.client import KubernetesCluster
    from engine.journal.protocol import BudgetStore, Journal
    from engine.model.run import Claim
    from engine.runtime.settings import Settings
    from engine.runtime.worker_channel import Command, WorkerChannel
    from engine.telemetry.events import EngineEvent
    from engine.telemetry.metrics import Series

T = TypeVar("T")
log = structlog.get_logger()
CHECK_INTERVAL = 1.0
"""Seconds between two checks of the threads and of the API server."""


def run_worker_process(settings: Settings, channel: WorkerChannel, *, story: bool) -> int:
    """Execute runs until the engine process asks to stop. Return the exit code.

    story: print each run as text on stderr instead of the log and audit records.
    Raises EOFError if the engine process ends.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # a terminal sends it to both processes; the engine process decides
        signal.signal(number, signal.SIG_IGN)
    try:
        cluster, traces = _connect(settings), tracing(os.environ)
    except (SettingsError, ConnectionSettingsError) as error:
        channel.send(StartFailed(error))
        return 2
    channel.send(Connected(cluster.host if cluster else None))
    guardrails = None
    while not isinstance(guardrails, Guardrails):  # after the first guardrails, the journal exists
        guardrails = channel.receive()
    metrics = WorkMetrics()
    outputs = [tell_story] if story else [log_steps, Audit()]
    observers = Observers(metrics, *outputs, _HoldObserver(channel), *([traces] if traces else []))
    with contextlib.ExitStack() as stack:
        if traces:
            stack.callback(traces.stop)
        journal = _open_journal(settings, channel)
        if journal is None:
            return 0
        now = clock_of(journal, "worker")
        stack.callback(journal.close)
        resources = _Resources(settings, cluster, journal, guardrails, now, channel.send)
        workers = resources.worker_pool(observers, lambda run: channel.send(RunEnded(run.id)))
        metrics.add_series(resources.series)
        shared = as_shared(journal)
        if shared:
            shared.on_free(workers.wake)
        workers.start()
        threading.Thread(
            target=_forward_wakes, args=(channel.wake_event, workers.wake), daemon=True
        ).start()
        if cluster and not settings.dry_run:
            adoption = Adoption(cluster, journal, workers.wake, now)
            adoption.start()
            stack.callback(adoption.stop)
        monitor = None
        if cluster:
            monitor = RightsMonitor(cluster, settings.own.namespace, channel.send, time.time)
            metrics.add_series(monitor.series)
            monitor.start()
            stack.callback(monitor.stop)
        freeze_startup_objects()
        grace = _serve_commands(channel, resources, workers, observers, metrics, monitor)
        completed = workers.stop(grace)
        channel.send(Stopped(completed))
        if not completed:
            os._exit(0)  # closing the journal would wait for the threads of the running attempts
    return 0


def _open_journal(settings: Settings, channel: WorkerChannel) -> Journal | None:
    """Open the journal as soon as its database answers. Return None if the engine process asks to stop.

    Raises JournalError, EOFError.
    """
    fault = FaultLog("journal", calm=0.0, waiting="workers")
    postponed: list[Command] = []
    while True:
        try:
            journal = open_journal(settings, "worker")
        except JournalUnavailableError as error:
            fault.report(str(error))
        else:
            fault.clear()
            channel.postpone(postponed)
            return journal
        command = channel.receive(CHECK_INTERVAL)
        if isinstance(command, Scrape):
            channel.send(Scraped(b""))
        elif isinstance(command, Stop):
            channel.send(Stopped(completed=True))
            return None
        elif command is not None:
            postponed.append(command)


class _HoldObserver:
    """Tells the engine process of each held step that was not approved in time."""

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel

    def __call__(self, engine_event: EngineEvent) -> None:
        if not isinstance(engine_event, AttemptEnded) or engine_event.outcome.state != "refused":
            return
        claim = engine_event.claim
        step = (claim.attempt_state.get("held") or [None])[0]
        if step == claim.step.name and claim.approval is None:
            self._channel.send(HoldExpired(claim.run.id, engine_event.outcome.message))


def _serve_commands(
    channel: WorkerChannel,
    resources: _Resources,
    workers: WorkerPool,
    observers: Observers,
    metrics: WorkMetrics,
    monitor: RightsMonitor | None,
) -> float:
    """Execute commands until Stop. Return the grace period in seconds.

    monitor: of the rights; None without a cluster.
    Raises EOFError if the engine process or a thread of the workers has ended.
    """
    api_server_fault = FaultLog("api_server", calm=0.0)
    while True:
        run_on_one_cpu()
        command = channel.receive(CHECK_INTERVAL)
        resources.log_api_server_state(api_server_fault)
        resources.divide_rates()
        if isinstance(command, Guardrails):
            resources.guardrails = command
        elif isinstance(command, CommandExecuted | CommandRefused):
            observers.notify(command)
        elif isinstance(command, RequiredRights):
            if monitor:
                monitor.require(resources.required_rights(command))
        elif isinstance(command, Scrape):
            channel.send(Scraped(metrics.text()))
        elif isinstance(command, Stop):
            return command.grace
        thread = workers.ended()
        if thread:
            log.error("worker_thread_ended", thread=thread)
            raise EOFError


def _forward_wakes(wake_event: int, wake: Callable[[], None]) -> None:
    """Wake the workers each time the engine process writes the eventfd."""
    while True:
        os.eventfd_read(wake_event)
        wake()


class _Resources:
    """What the workers share: cluster, HTTP client, journal and budgets.

    guardrails: of the playbooks in force.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: KubernetesCluster | None,
        journal: Journal,
        guardrails: Guardrails,
        now: Callable[[], float],
        send: Callable[[OwnCommand], None],
    ) -> None:
        self._send = send
        self._settings, self._cluster, self._journal = settings, cluster, journal
        self._shared, self._now = as_shared(journal), now
        senders, self._hosts = Senders(settings.http_hosts), HostLimits()
        self._artifacts = LiveArtifactStore(settings.artifact_stores)
        self._http = LiveHttpClient(
            Secrets(settings.secrets_dir), senders=senders, slack_api=settings.slack_api,
            hosts=self._hosts,
        )  # fmt: skip
        self.guardrails = guardrails
        ledger = BudgetLedger(None if settings.dry_run else _Budgets(journal))
        self._guard_of = functools.lru_cache(1)(
            lambda guardrails: GuardrailChecker(guardrails, settings.own, ledger)
        )

    def worker_pool(self, observers: Observers, on_no_effect: Callable[[Any], None]) -> WorkerPool:
        """Return the pool of worker threads. on_no_effect: receives runs without a completed step."""
        settings, cluster = self._settings, self._cluster
        return WorkerPool(
            self._journal,
            self.clients,
            self.checker,
            observers,
            capacity=Capacity(
                {"cluster": settings.workers, "slow": settings.slow_workers},
                cluster.available_slots if cluster else lambda _: None,
            ),
            now=self._now,
            on_no_effect=on_no_effect,
            poll_interval=SHARED_POLL_INTERVAL if self._shared else POLL_INTERVAL,
        )

    def required_rights(self, playbooks: RequiredRights) -> dict[str, frozenset[Right]]:
        """Return the rights that the playbooks and the settings need, by account."""
        own = ACCESS_REVIEWS if self._settings.kubernetes_operators else frozenset()
        needed = playbooks.by_account
        return {**needed, "": needed.get("", frozenset()) | own}

    def checker(self) -> GuardrailChecker:
        """Return the checker for the current guardrails. Spent budgets survive new guardrails and a restart."""
        return self._guard_of(self.guardrails)

    def clients(self, claim: Claim) -> Clients:
        """Return the clients for one attempt. They are dry in a dry run, and if the mode does not enforce."""
        timeout, hosts = claim.step.timeout, self._settings.http_hosts
        stores = self._settings.artifact_stores
        check = functools.partial(self._require_claim, claim)
        live = self._cluster.with_timeout(timeout) if self._cluster else None
        if live is not None:
            live = as_account(
                live.with_check(check), self._settings.own.namespace, claim.run.playbook.run_as
            )
        if live is None or self._settings.dry_run or not _mode_allows(claim):
            reader = live or AssumedCluster(claim.run.event)
            http = RequestRecorder(None, hosts)
            artifacts = ArtifactRecorder(http.requests, None, stores)
            return Clients(CallRecorder(reader), http, dry=True, artifacts=artifacts)
        http = RequestRecorder(self._http.with_timeout(timeout), hosts, check)
        store = self._artifacts.with_timeout(timeout)
        artifacts = ArtifactRecorder(http.requests, store, stores, check)
        return Clients(
            CallRecorder(live, live, check),
            http,
            dry=False,
            artifacts=artifacts,
            redact=self._settings.redaction.redact_text,
            announce=lambda container, seconds: self._announce(container, timeout, seconds),
        )

    def _announce(self, container: str, timeout: float, seconds: float | None) -> None:
        """Tell the engine process that a command runs in a container; see ``StepContext.announce``."""
        now = time.time()
        self._send(OwnCommand(container, now, now + (timeout if seconds is None else seconds)))

    def _require_claim(self, claim: Claim) -> None:
        """Raise TemporaryError if another replica may have taken over the claim."""
        if self._shared and claim.replica is not None and not self._shared.may_act(claim.replica):
            raise TemporaryError(
                "this replica has not renewed its liveness row in time, so another one may have taken over",
                again=1.0,
            )

    def divide_rates(self) -> None:
        """Divide the rate of calls, and the requests per host, by the number of live replicas."""
        if self._shared is None:
            return
        replicas = self._shared.live_replicas()
        self._hosts.set_max_concurrent(max(1, MAX_CONCURRENT // replicas))
        if self._cluster:
            self._cluster.set_rate(self._settings.kube_qps / replicas)

    def log_api_server_state(self, fault: FaultLog) -> None:
        """Log when the API server stops answering, and when it answers again."""
        breaker = self._cluster.breaker if self._cluster else None
        if breaker is None:
            return
        if breaker.open:
            fault.report(breaker.error or "")
        else:
            fault.clear()

    def series(self) -> Iterator[Series]:
        """Yield the metrics of the cluster, and of the budgets unless the journal cannot be read."""
        if self._cluster:
            yield "cluster_answers", {}, float(not self._cluster.breaker.open)
        try:
            budgets = [*self.checker().remaining_budgets()]
        except JournalError:
            return
        for budget, left in budgets:
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


class _Budgets:
    """The budget windows of the journal. A step does not act on a budget that was not saved."""

    def __init__(self, journal: BudgetStore) -> None:
        self._journal = journal

    def budget_windows(self) -> Mapping[str, Any]:
        """See BudgetStore.budget_windows."""
        return self._journal.budget_windows()

    def update_budgets(
        self,
        keys: Collection[str],
        decide: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], T]],
        now: float,
    ) -> T:
        """See BudgetStore.update_budgets. Raises TemporaryError."""
        try:
            return self._journal.update_budgets(keys, decide, now)
        except JournalError as error:
            raise TemporaryError(f"the journal cannot be written: {error}") from None


def _connect(settings: Settings) -> KubernetesCluster | None:
    """Connect to the cluster of the flags, or of this pod. Return None in a dry run without a cluster.

    Never uses the current context of a default kubeconfig. Raises SettingsError, ConnectionSettingsError.
    """
    if settings.has_cluster:
        connections = settings.workers + settings.slow_workers + 1
        return connect(settings.kubeconfig, settings.context, settings.kube_qps, connections)
    if settings.dry_run:
        return None
    raise SettingsError(
        "no cluster to act on: give --kubeconfig FILE (and --context NAME), or run in a pod; "
        "--dry-run shows what would be done without one"
    )


def _mode_allows(claim: Claim) -> bool:
    """Return whether the mode of the playbook allows the step. ``notify`` allows only messages."""
    mode = claim.run.playbook.mode
    return mode == "enforce" or (mode == "notify" and claim.step.effect == "notify")
