"""Prometheus metrics. Their labels never contain a pod, a command line or an output."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import prometheus_client
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from engine.model.attempt_state import RETRIED
from engine.telemetry.events import AttemptEnded, CommandExecuted, Received, Reloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from engine.telemetry.events import EngineEvent

    Series = tuple[str, Mapping[str, str], float]
    """The name of a family without its prefix, the labels of a series, and its value."""

_ACCEPT_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
"""Seconds. An fsync takes a fraction of a millisecond on a good disk, and several on a network volume."""
_ATTEMPT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds. An API server answers in milliseconds; the default timeout of a step is 30 seconds."""
_RUN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
"""Seconds, from an idle engine to an outage of an hour."""


class Family(NamedTuple):
    """A metric family. kind: counter, gauge or histogram. labels: of its series."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()


METRICS = {
    "bodies_total": Family(
        "counter", "Requests to the event port, by HTTP status of the response.", ("status",)
    ),
    "events_total": Family(
        "counter",
        "Elements of bodies and of messages from sources, by result.",
        ("source", "result"),
    ),
    "suppressed_runs_total": Family(
        "counter", "Suppressed runs, by playbook and reason.", ("playbook", "reason")
    ),
    "accept_seconds": Family(
        "histogram", "Time from the arrival of a body to its response, in seconds."
    ),
    "connections": Family("gauge", "Open connections of senders."),
    "connections_refused_total": Family(
        "counter",
        "Connections that were refused or closed because of a limit, and late requests, by reason.",
        ("reason",),
    ),
    "source_connected": Family(
        "gauge", "1 while the source has no error. Kind slack: presses of buttons.", ("kind",)
    ),
    "playbooks": Family("gauge", "Playbooks in force, by mode.", ("mode",)),
    "playbook_info": Family(
        "gauge",
        "1 for each playbook in force, with its metadata.labels as label_NAME.",
        ("playbook", "mode"),
    ),
    "playbooks_current": Family("gauge", "1 while the set in force is that of the folder."),
    "playbooks_loaded_timestamp_seconds": Family(
        "gauge", "Time when a set last came into force, in seconds since the epoch."
    ),
    "reloads_total": Family("counter", "Reloads of the playbook folder, by result.", ("result",)),
    "dry_run": Family("gauge", "1 in a dry run, which changes nothing and sends no messages."),
    "paused": Family("gauge", "Pauses in force."),
    "decisions_total": Family("counter", "Operator commands, by command.", ("decision",)),
    "queue_runs": Family("gauge", "Runs that are not over, by state.", ("state",)),
    "queue_oldest_due_seconds": Family(
        "gauge", "Time for which the oldest due run has waited, in seconds."
    ),
    "attempts_total": Family("counter", "Attempts, by action and state.", ("action", "state")),
    "attempt_seconds": Family("histogram", "Duration of an attempt, in seconds.", ("action",)),
    "runs_total": Family(
        "counter",
        "Runs that are over, by outcome. A run that is retried is counted again.",
        ("playbook", "outcome"),
    ),
    "wait_seconds": Family(
        "histogram", "Time from the receipt of a run to its first attempt, in seconds."
    ),
    "done_seconds": Family(
        "histogram", "Time from the receipt of a run to its first end, in seconds.", ("outcome",)
    ),
    "budget_left": Family(
        "gauge",
        "Targets left in the fullest window of a budget.",
        ("effect", "scope", "limit", "per", "actions", "playbooks"),
    ),
    "cluster_answers": Family("gauge", "1 while the API server answers."),
    "rights_known": Family(
        "gauge",
        "1 if the last check of the rights had a result, by ServiceAccount (empty: the engine's own).",
        ("account",),
    ),
    "rights_missing": Family(
        "gauge", "Rights that the playbooks need and the account does not have.", ("account",)
    ),
    "rights_excess": Family(
        "gauge", "Rights that the account has and no playbook needs.", ("account",)
    ),
    "journal_writable": Family("gauge", "1 while the journal accepts writes."),
    "journal_fill_ratio": Family("gauge", "Used part of the journal's quota, 0 to 1."),
    "spool_runs": Family("gauge", "Runs that wait in the spool for the database (`--spool`)."),
    "spool_fill_ratio": Family("gauge", "Used part of the spool, 0 to 1; 0 without a spool."),
}
"""Every family by its name without prefix. Scrapes and the documentation use this table."""


class _Registry:
    """The registry and the exposition that both processes share."""

    def __init__(self) -> None:
        # The library would add a second series, with the creation time, for each counter and histogram.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = prometheus_client.CollectorRegistry()

    def add_series(self, series: Callable[[], Iterable[Series]]) -> None:
        """Add a function that returns series. Each scrape calls it."""
        self.registry.register(_SeriesCollector(series))

    def text(self) -> bytes:
        """Return all metrics in the Prometheus exposition format."""
        return prometheus_client.generate_latest(self.registry)

    def _counter(self, name: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(*_described(name), registry=self.registry)

    def _gauge(self, name: str) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(*_described(name), registry=self.registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(
            *_described(name), buckets=buckets, registry=self.registry
        )


def _described(name: str) -> tuple[str, str, tuple[str, ...]]:
    """The full name, help and labels of a family."""
    return f"tiercel_{name}", METRICS[name].help, METRICS[name].labels


class Metrics(_Registry):
    """The metrics of the engine's main process: bodies, reloads and operator commands.

    Current values, such as those of the queue, are read at each scrape (see add_series).
    """

    def __init__(self) -> None:
        super().__init__()
        self._bodies = _BodyCollector()
        self.registry.register(self._bodies)
        self._decisions = self._counter("decisions_total")
        self._reloads = self._counter("reloads_total")
        self._current = self._gauge("playbooks_current")
        self._loaded = self._gauge("playbooks_loaded_timestamp_seconds")

    def __call__(self, engine_event: EngineEvent) -> None:
        """Count an engine event."""
        if isinstance(engine_event, Received):
            self._bodies.add(engine_event)
        elif isinstance(engine_event, CommandExecuted):
            self._decisions.labels(engine_event.what).inc()
        elif isinstance(engine_event, Reloaded):
            self._reloaded(engine_event)

    def _reloaded(self, reloaded: Reloaded) -> None:
        self._reloads.labels("refused" if reloaded.findings else "accepted").inc()
        self._current.set(0 if reloaded.findings else 1)
        if not reloaded.findings:
            self._loaded.set_to_current_time()


class WorkMetrics(_Registry):
    """The metrics of the worker process: attempts and runs."""

    def __init__(self) -> None:
        super().__init__()
        self._attempts = self._counter("attempts_total")
        self._runs = self._counter("runs_total")
        self._attempt = self._histogram("attempt_seconds", _ATTEMPT_BUCKETS)
        self._wait = self._histogram("wait_seconds", _RUN_BUCKETS)
        self._done = self._histogram("done_seconds", _RUN_BUCKETS)

    def __call__(self, engine_event: EngineEvent) -> None:
        """Count an attempt, and the run if it is over."""
        if not isinstance(engine_event, AttemptEnded):
            return
        settled, claim, run = engine_event, engine_event.claim, engine_event.claim.run
        self._attempts.labels(claim.step.action, settled.outcome.state).inc()
        self._attempt.labels(claim.step.action).observe(settled.seconds)
        # An operator can retry a run long after its receipt, which says nothing about the engine's speed.
        is_retried = RETRIED in claim.attempt_state
        if not (claim.position or claim.undo or is_retried) and claim.attempt == 1:
            self._wait.observe(max(0.0, settled.time - settled.seconds - run.received))
        if settled.over:
            self._runs.labels(run.playbook.name, settled.became).inc()
        if settled.over and not is_retried:
            self._done.labels(settled.became).observe(max(0.0, settled.time - run.received))


class _BodyCollector:
    """Counts bodies, in a third of the time that the library's own counters take."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._statuses: Counter[int] = Counter()
        self._buckets = [0] * (len(_ACCEPT_BUCKETS) + 1)
        self._seconds = 0.0

    def add(self, received: Received) -> None:
        """Count a body."""
        with self._lock:
            if received.status is not None:
                self._statuses[received.status] += 1
            results = self._results[received.source]
            for result, number in received.results.items():
                results[result] += number
            if received.seconds is not None:
                self._buckets[bisect_left(_ACCEPT_BUCKETS, received.seconds)] += 1
                self._seconds += received.seconds

    def collect(self) -> Iterator[Metric]:
        """Yield the two counters and the histogram."""
        events, bodies = (
            CounterMetricFamily(name, text, labels=labels)
            for name, text, labels in map(_described, ("events_total", "bodies_total"))
        )
        accept = HistogramMetricFamily(*_described("accept_seconds")[:2])
        with self._lock:
            for source, results in self._results.items():
                for result, number in results.items():
                    events.add_metric([source, result], number)
            for status, number in self._statuses.items():
                bodies.add_metric([str(status)], number)
            bounds = [*map(str, _ACCEPT_BUCKETS), "+Inf"]
            buckets = zip(bounds, accumulate(self._buckets), strict=True)
            accept.add_metric([], [*buckets], self._seconds)
        yield from (events, bodies, accept)


class _SeriesCollector:
    """Reads counters and gauges at each scrape."""

    def __init__(self, series: Callable[[], Iterable[Series]]) -> None:
        self._series = series

    def collect(self) -> Iterator[Metric]:
        """Yield the families. The last of several series with the same labels wins.

        Prometheus refuses the whole scrape if it contains the same series twice.
        """
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for name, labels, value in self._series():
            found.setdefault(name, {})[tuple(sorted(labels.items()))] = value
        for name, series in found.items():
            described = METRICS[name]
            full_name = f"tiercel_{name}"
            family = Metric(full_name.removesuffix("_total"), described.help, described.kind)
            for pairs, value in series.items():
                family.add_sample(full_name, dict(pairs), value)
            yield family

    def describe(self) -> list[Metric]:
        """Return nothing. Otherwise the registry would call ``collect`` when it registers this collector."""
        return []
