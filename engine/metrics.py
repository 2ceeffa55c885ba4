"""Prometheus metrics, of low cardinality: never a pod, a command line or an output."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING

import prometheus_client
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from engine.observe import Decided, Received, Reloaded, Settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from engine.observe import Moment

_ACCEPT = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
"""Seconds: an fsync of a good disk is a fraction of a millisecond, of a network's volume several."""
_ATTEMPT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: an API server answers in milliseconds; a step's timeout is 30 unless told."""
_DONE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
"""Seconds: from a quiet moment to an outage of an hour."""

Gauges = "Callable[[], Iterable[tuple[str, str, Mapping[str, str], float]]]"
"""Name without prefix, help, labels and value of what is asked for at each scrape."""


class _Registry:
    """What the two processes' metrics share: how they are made, asked for and told."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()

    def ask(
        self, gauges: Callable[[], Iterable[tuple[str, str, Mapping[str, str], float]]]
    ) -> None:
        """Ask for these at each scrape: name, help, labels, value."""
        self.registry.register(_Asked(gauges))

    def text(self) -> bytes:
        """The exposition format."""
        return prometheus_client.generate_latest(self.registry)

    def _counter(self, name: str, what: str, labels: list[str]) -> prometheus_client.Counter:
        return prometheus_client.Counter(f"tiercel_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(f"tiercel_{name}", what, registry=self.registry)

    def _histogram(
        self, name: str, what: str, buckets: tuple[float, ...], labels: Iterable[str] = ()
    ) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(
            f"tiercel_{name}_seconds", what, labels, buckets=buckets, registry=self.registry
        )


class Metrics(_Registry):
    """Counts what comes in, reloads and what people do; what stands is asked for when somebody scrapes."""

    def __init__(self) -> None:
        super().__init__()
        self._arrivals = _Arrivals()
        self.registry.register(self._arrivals)
        self._decisions = self._counter("decisions", "What people did.", ["decision"])
        self._reloads = self._counter("reloads", "Reloads of the playbooks.", ["result"])
        self._healthy = self._gauge(
            "playbooks_current", "1 while the set in force is that of the folder."
        )
        self._loaded = self._gauge(
            "playbooks_loaded_timestamp_seconds", "When the folder was last taken over."
        )
        self._playbooks = self._gauge("playbooks", "Playbooks in force.")

    def __call__(self, moment: Moment) -> None:
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
        self._playbooks.set(moment.playbooks)
        if not moment.findings:
            self._loaded.set_to_current_time()


class WorkMetrics(_Registry):
    """Counts attempts and runs."""

    def __init__(self) -> None:
        super().__init__()
        self._attempts = self._counter(
            "attempts", "Attempts, by action and state.", ["action", "state"]
        )
        self._runs = self._counter("runs", "Runs that are over.", ["playbook", "outcome"])
        self._attempt = self._histogram("attempt", "Of an attempt.", _ATTEMPT, ["action"])
        self._wait = self._histogram("wait", "From a run's receipt to its first attempt.", _DONE)
        self._done = self._histogram("done", "From a run's receipt to its end.", _DONE, ["outcome"])

    def __call__(self, moment: Moment) -> None:
        """Count the moment."""
        if not isinstance(moment, Settled):
            return
        claim, run = moment.claim, moment.claim.run
        self._attempts.labels(claim.step.action, moment.outcome.state).inc()
        self._attempt.labels(claim.step.action).observe(moment.seconds)
        if not claim.position and claim.attempt == 1 and not claim.undo:
            self._wait.observe(max(0.0, moment.time - moment.seconds - run.received))
        if moment.over:
            self._runs.labels(run.playbook.name, moment.became).inc()
            self._done.labels(moment.became).observe(max(0.0, moment.time - run.received))


class _Arrivals:
    """A collector of what is counted at every body, in a third of the time of the library's own counters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._within = [0] * (len(_ACCEPT) + 1)
        self._seconds = 0.0

    def add(self, moment: Received) -> None:
        """Count a body."""
        with self._lock:
            self._statuses[moment.status] += 1
            for result, number in moment.ended.items():
                self._ended[result] += number
            if moment.seconds is not None:
                self._within[bisect_left(_ACCEPT, moment.seconds)] += 1
                self._seconds += moment.seconds

    def collect(self) -> Iterator[Metric]:
        """The two counters and the histogram, as they stand."""
        events = CounterMetricFamily(
            "tiercel_events", "Elements of bodies, by how they ended.", labels=["result"]
        )
        bodies = CounterMetricFamily(
            "tiercel_bodies", "Bodies, by the status that answered them.", labels=["status"]
        )
        accept = HistogramMetricFamily(
            "tiercel_accept_seconds", "From a body's arrival to its answer."
        )
        with self._lock:
            for result, number in self._ended.items():
                events.add_metric([result], number)
            for status, number in self._statuses.items():
                bodies.add_metric([str(status)], number)
            bounds = [*map(str, _ACCEPT), "+Inf"]
            within = zip(bounds, accumulate(self._within), strict=True)
            accept.add_metric([], [*within], self._seconds)
        yield from (events, bodies, accept)


class _Asked:
    """A collector of gauges whose values are asked for at the scrape."""

    def __init__(
        self, gauges: Callable[[], Iterable[tuple[str, str, Mapping[str, str], float]]]
    ) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families: dict[str, GaugeMetricFamily] = {}
        for name, what, labels, value in self._gauges():
            family = families.setdefault(
                name, GaugeMetricFamily(f"tiercel_{name}", what, labels=list(labels))
            )
            family.add_metric(list(labels.values()), value)
        yield from families.values()

    def describe(self) -> list[GaugeMetricFamily]:
        """None beforehand: they are asked for when they are wanted."""
        return []
