"""Prometheus metrics, of low cardinality: never a pod, a command line or an output."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import prometheus_client
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from engine.model.run import RETRIED
from engine.telemetry.events import Decided, Received, Reloaded, Settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from engine.telemetry.events import EngineEvent

    Series = tuple[str, Mapping[str, str], float]
    """A family's name without prefix, the labels and the value of one of its series."""

_ACCEPT = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
"""Seconds: an fsync of a good disk is a fraction of a millisecond, of a network's volume several."""
_ATTEMPT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: an API server answers in milliseconds; a step's timeout is 30 unless told."""
_DONE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
"""Seconds: from a quiet moment to an outage of an hour."""


class Described(NamedTuple):
    """A family of metrics: counter, gauge or histogram, what it tells, the labels of its series."""

    kind: str
    what: str
    labels: tuple[str, ...] = ()


METRICS = {
    "bodies_total": Described(
        "counter", "Requests to the event port, by the status that answered them.", ("status",)
    ),
    "events_total": Described(
        "counter",
        "Elements of bodies and of sources' messages, by how they ended.",
        ("source", "result"),
    ),
    "suppressed_runs_total": Described(
        "counter", "Runs of playbooks that were suppressed, by why.", ("playbook", "reason")
    ),
    "accept_seconds": Described("histogram", "From a body's arrival to its answer."),
    "connections": Described("gauge", "Connections of senders that are open."),
    "connections_refused_total": Described(
        "counter",
        "Connections that were too many or made room for others, and late requests.",
        ("reason",),
    ),
    "source_connected": Described("gauge", "1 while events come from the source.", ("kind",)),
    "playbooks": Described("gauge", "Playbooks in force, by mode.", ("mode",)),
    "playbook_info": Described(
        "gauge",
        "1 for each playbook in force, with its metadata.labels as label_NAME.",
        ("playbook", "mode"),
    ),
    "playbooks_current": Described("gauge", "1 while the set in force is that of the folder."),
    "playbooks_loaded_timestamp_seconds": Described("gauge", "When a set last came into force."),
    "reloads_total": Described("counter", "Reloads of the playbooks.", ("result",)),
    "dry_run": Described("gauge", "1 in a dry run, where nothing is changed and nobody told."),
    "paused": Described("gauge", "Pauses in force."),
    "decisions_total": Described("counter", "What people did.", ("decision",)),
    "queue_runs": Described("gauge", "Runs that are not over.", ("state",)),
    "queue_oldest_due_seconds": Described("gauge", "For how long the oldest due run has waited."),
    "attempts_total": Described("counter", "Attempts, by action and state.", ("action", "state")),
    "attempt_seconds": Described("histogram", "Of an attempt.", ("action",)),
    "runs_total": Described(
        "counter",
        "Runs that are over; one that is retried is over once more.",
        ("playbook", "outcome"),
    ),
    "wait_seconds": Described("histogram", "From a run's receipt to its first attempt."),
    "done_seconds": Described("histogram", "From a run's receipt to its first end.", ("outcome",)),
    "budget_left": Described(
        "gauge",
        "Targets left in a budget's fullest window.",
        ("effect", "scope", "limit", "per", "actions", "playbooks"),
    ),
    "cluster_answers": Described("gauge", "1 while the API server gives answers."),
    "journal_writable": Described("gauge", "1 while the journal takes writes."),
    "journal_fill_ratio": Described("gauge", "How much of what it may have the journal uses."),
}
"""Every family by its name without prefix: here alone it is said what there is, for scrapes and for docs."""


class _Registry:
    """What the two processes' metrics share: how they are made, asked for and told."""

    def __init__(self) -> None:
        # a second series for each, which nobody asks for
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = prometheus_client.CollectorRegistry()

    def ask(self, asked: Callable[[], Iterable[Series]]) -> None:
        """Ask for these at each scrape."""
        self.registry.register(_Asked(asked))

    def text(self) -> bytes:
        """The exposition format."""
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
    """A family's full name, help and labels."""
    return f"tiercel_{name}", METRICS[name].what, METRICS[name].labels


class Metrics(_Registry):
    """Counts what comes in, reloads and what people do; what stands is asked for when somebody scrapes."""

    def __init__(self) -> None:
        super().__init__()
        self._arrivals = _Arrivals()
        self.registry.register(self._arrivals)
        self._decisions = self._counter("decisions_total")
        self._reloads = self._counter("reloads_total")
        self._healthy = self._gauge("playbooks_current")
        self._loaded = self._gauge("playbooks_loaded_timestamp_seconds")

    def __call__(self, moment: EngineEvent) -> None:
        """Count the moment."""
        if isinstance(moment, Received):
            self._arrivals.add(moment)
        elif isinstance(moment, Decided):
            self._decisions.labels(moment.what).inc()
        elif isinstance(moment, Reloaded):
            self._reloaded(moment)

    def _reloaded(self, moment: Reloaded) -> None:
        self._reloads.labels("refused" if moment.findings else "accepted").inc()
        self._healthy.set(0 if moment.findings else 1)
        if not moment.findings:
            self._loaded.set_to_current_time()


class WorkMetrics(_Registry):
    """Counts attempts and runs."""

    def __init__(self) -> None:
        super().__init__()
        self._attempts = self._counter("attempts_total")
        self._runs = self._counter("runs_total")
        self._attempt = self._histogram("attempt_seconds", _ATTEMPT)
        self._wait = self._histogram("wait_seconds", _DONE)
        self._done = self._histogram("done_seconds", _DONE)

    def __call__(self, moment: EngineEvent) -> None:
        """Count the moment."""
        if not isinstance(moment, Settled):
            return
        claim, run = moment.claim, moment.claim.run
        self._attempts.labels(claim.step.action, moment.outcome.state).inc()
        self._attempt.labels(claim.step.action).observe(moment.seconds)
        retried = RETRIED in claim.attempt_state  # long after its receipt, by a person's will
        if not (claim.position or claim.undo or retried) and claim.attempt == 1:
            self._wait.observe(max(0.0, moment.time - moment.seconds - run.received))
        if moment.over:
            self._runs.labels(run.playbook.name, moment.became).inc()
        if moment.over and not retried:
            self._done.labels(moment.became).observe(max(0.0, moment.time - run.received))


class _Arrivals:
    """A collector of what is counted at every body, in a third of the time of the library's own counters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._statuses: Counter[int] = Counter()
        self._within = [0] * (len(_ACCEPT) + 1)
        self._seconds = 0.0

    def add(self, moment: Received) -> None:
        """Count a body."""
        with self._lock:
            if moment.status is not None:
                self._statuses[moment.status] += 1
            ended = self._ended[moment.source]
            for result, number in moment.ended.items():
                ended[result] += number
            if moment.seconds is not None:
                self._within[bisect_left(_ACCEPT, moment.seconds)] += 1
                self._seconds += moment.seconds

    def collect(self) -> Iterator[Metric]:
        """The two counters and the histogram, as they stand."""
        events, bodies = (
            CounterMetricFamily(full, what, labels=labels)
            for full, what, labels in map(_described, ("events_total", "bodies_total"))
        )
        accept = HistogramMetricFamily(*_described("accept_seconds")[:2])
        with self._lock:
            for source, ended in self._ended.items():
                for result, number in ended.items():
                    events.add_metric([source, result], number)
            for status, number in self._statuses.items():
                bodies.add_metric([str(status)], number)
            bounds = [*map(str, _ACCEPT), "+Inf"]
            within = zip(bounds, accumulate(self._within), strict=True)
            accept.add_metric([], [*within], self._seconds)
        yield from (events, bodies, accept)


class _Asked:
    """A collector of counters and gauges whose values are asked for at the scrape."""

    def __init__(self, asked: Callable[[], Iterable[Series]]) -> None:
        self._asked = asked

    def collect(self) -> Iterator[Metric]:
        """The families. Of series with the same labels the last counts: two would spoil the whole scrape."""
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for name, labels, value in self._asked():
            found.setdefault(name, {})[tuple(sorted(labels.items()))] = value
        for name, series in found.items():
            described = METRICS[name]
            full = f"tiercel_{name}"
            family = Metric(full.removesuffix("_total"), described.what, described.kind)
            for told, value in series.items():
                family.add_sample(full, dict(told), value)
            yield family

    def describe(self) -> list[Metric]:
        """None beforehand: they are asked for when they are wanted."""
        return []
