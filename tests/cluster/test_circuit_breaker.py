"""The breaker and the pace before the API server, with clocks that tests move."""

from __future__ import annotations

import pytest
from engine.cluster.api import NAMESPACE, POD
from engine.cluster.circuit_breaker import CircuitBreaker
from engine.cluster.client import ApiServerState, KubernetesCluster
from engine.cluster.rate_limiter import RateLimiter
from engine.model.calls import Call
from engine.model.errors import PermanentError, TemporaryError

from tests.support.fakes import ApiServer, response

KEY = ("namespaces", None, "demo")


class Clock:
    def __init__(self):
        self.time = 100.0
        self.slept = []

    def __call__(self):
        return self.time

    def sleep(self, seconds):
        self.slept.append(round(seconds, 6))
        self.time += seconds


@pytest.fixture
def clock():
    return Clock()


def test_it_opens_after_five_silences_in_a_row_and_not_before(clock):
    breaker = CircuitBreaker(clock)
    for _ in range(4):
        breaker.record_failure("refused")
    breaker.record_response()
    for _ in range(4):
        breaker.record_failure("refused")
    assert breaker.acquire_slots() is None
    breaker.record_failure("refused")
    assert (breaker.open, breaker.acquire_slots(), breaker.error) == (True, 0, "refused")


def test_while_it_is_open_one_probe_passes_ever_more_rarely(clock):
    breaker = CircuitBreaker(clock)
    for _ in range(5):
        breaker.record_failure("refused")
    probes = []
    for _ in range(120):
        if breaker.acquire_slots():
            probes.append(clock.time - 100)
            breaker.record_failure("still refused")
        clock.time += 1
    assert probes == [1, 2, 4, 8, 16, 32, 62, 92]


def test_the_first_answer_closes_it(clock):
    breaker = CircuitBreaker(clock)
    for _ in range(9):
        breaker.record_failure("refused")
    clock.time += 1
    assert breaker.acquire_slots() == 1
    breaker.record_response()
    assert (breaker.open, breaker.acquire_slots(), breaker.error) == (False, None, None)


def test_calls_pass_at_the_rate_after_a_seconds_worth_at_once(clock):
    pace = RateLimiter(10, clock, clock.sleep)
    assert [pace.wait(9) for _ in range(13)] == pytest.approx([0.0] * 11 + [0.1] * 2)
    assert clock.slept == [0.1, 0.1]
    clock.time += 60
    clock.slept.clear()
    assert [pace.wait(9) for _ in range(12)] == pytest.approx([0.0] * 11 + [0.1])
    assert clock.slept == [0.1]


def test_a_turn_that_is_too_far_off_is_not_taken(clock):
    pace = RateLimiter(1, clock, clock.sleep)
    assert [pace.wait(0.5) for _ in range(4)] == [0.0, 0.0, None, None]
    assert clock.slept == []


def test_a_rate_that_is_too_much_is_halved_and_comes_back_step_by_step(clock):
    pace = RateLimiter(100, clock, clock.sleep)
    for _ in range(20):
        pace.halve()
    assert pace.rate == 1
    pace.recover()
    assert pace.rate == 2
    for _ in range(200):
        pace.recover()
    assert pace.rate == 100


class Overloaded(ApiServer):
    """Answers 429 to every call, as a server does that sheds load; or the PodDisruptionBudget's 429."""

    details = None

    def request(self, *_):
        return response(429, {"message": "too many", "details": self.details or {}})


def cluster_of(server, clock):
    load = ApiServerState(CircuitBreaker(clock), RateLimiter(100, clock, clock.sleep))
    return KubernetesCluster(server, load), load


@pytest.mark.parametrize(
    ("details", "counts"), [(None, True), ({"causes": [{"reason": "DisruptionBudget"}]}, False)]
)
def test_429_slows_down_and_counts_as_silence_unless_a_budget_said_it(clock, details, counts):
    server = Overloaded()
    server.details = details
    cluster, load = cluster_of(server, clock)
    for _ in range(5):
        with pytest.raises(TemporaryError):
            cluster.send(Call("create", "v1", "pods/eviction", "demo", "a", {}))
    assert (load.breaker.open, load.rate_limiter.rate < 100) == (counts, counts)


def test_waiting_for_turns_is_not_the_attempts_time(clock, monkeypatch):
    monkeypatch.setattr("engine.cluster.client.time.monotonic", clock)
    cluster = KubernetesCluster(
        ApiServer(), ApiServerState(CircuitBreaker(clock), RateLimiter(1, clock, clock.sleep))
    )
    short = cluster.with_timeout(0.5)
    for _ in range(10):  # a second's worth at once, and then a call a second
        short.get(POD, "a", "demo")
    assert clock.slept == [1.0] * 8
    with pytest.raises(TemporaryError, match="--kube-qps"):  # but a lease has an end
        short.get(POD, "a", "demo")


def test_no_more_attempts_begin_than_find_turns(clock):
    cluster, load = cluster_of(ApiServer(), clock)
    assert [cluster.available_slots(under_way) for under_way in (0, 15, 99, 100, 101)] == [
        100,
        85,
        1,
        0,
        0,
    ]
    for _ in range(20):
        load.rate_limiter.halve()
    assert [cluster.available_slots(under_way) for under_way in (0, 1, 16)] == [1, 0, 0]
    for _ in range(5):
        load.breaker.record_failure("refused")
    clock.time += 1
    assert [cluster.available_slots(under_way) for under_way in (1, 0, 0)] == [
        0,
        1,
        0,
    ]  # no probe is used up


def test_labels_of_namespaces_are_asked_for_again_only_after_a_while_and_pods_always(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("engine.cluster.client.time.monotonic", lambda: now[0])
    server = ApiServer({"kind": "Namespace", "metadata": {"name": "demo", "labels": {"a": "1"}}})
    server.put({"kind": "Pod", "metadata": {"name": "web", "namespace": "demo", "labels": {}}})
    cluster = KubernetesCluster(
        server, ApiServerState(CircuitBreaker(lambda: 0.0), RateLimiter(1e9), labels_for=10.0)
    )
    cluster.get(NAMESPACE, "demo")
    cluster.get(POD, "web", "demo")
    server.objects[KEY]["metadata"]["labels"] = {"a": "2"}
    server.find("Pod", "web", "demo")["metadata"]["labels"]["b"] = "new"
    assert cluster.get(NAMESPACE, "demo")["metadata"]["labels"] == {"a": "1"}
    assert cluster.get(POD, "web", "demo")["metadata"]["labels"] == {"b": "new"}
    now[0] += 11
    assert cluster.get(NAMESPACE, "demo")["metadata"]["labels"] == {"a": "2"}


def test_a_namespace_that_is_not_there_is_asked_for_each_time():
    server = ApiServer()
    cluster = KubernetesCluster(
        server, ApiServerState(CircuitBreaker(lambda: 0.0), RateLimiter(1e9), labels_for=10.0)
    )
    assert cluster.get(NAMESPACE, "demo") is None
    server.put({"kind": "Namespace", "metadata": {"name": "demo"}})
    assert cluster.get(NAMESPACE, "demo") is not None


class Forbidding(ApiServer):
    """Answers 403 to every call."""

    def request(self, *_):
        return response(403, {"message": "forbidden"})


def test_a_403_is_not_believed_right_after_an_outage(clock):
    cluster, load = cluster_of(Forbidding(), clock)
    load.breaker.record_failure("refused")
    clock.time += 59
    with pytest.raises(TemporaryError, match="away a moment ago"):
        cluster.get(POD, "a", "demo")
    clock.time += 2
    with pytest.raises(PermanentError, match="missing right: get on pods"):
        cluster.get(POD, "a", "demo")
