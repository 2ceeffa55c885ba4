"""The circuit breaker and the rate limiter of the API server, with a clock that the tests advance."""

from __future__ import annotations

import pytest
from engine.cluster.api import NAMESPACE, POD
from engine.cluster.circuit_breaker import CircuitBreaker
from engine.cluster.client import KubernetesCluster
from engine.cluster.rate_limiter import RateLimiter
from engine.cluster.requests import ApiServerState
from engine.cluster.transport import NoResponseError
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


def test_it_opens_after_five_consecutive_failures(clock):
    breaker = CircuitBreaker(clock)
    for _ in range(4):
        breaker.record_failure("refused")
    breaker.record_response()
    for _ in range(4):
        breaker.record_failure("refused")
    assert (breaker.open, breaker.available_slots(), breaker.try_acquire()) == (False, None, True)
    breaker.record_failure("refused")
    assert (breaker.open, breaker.available_slots(), breaker.try_acquire()) == (True, 0, False)
    assert breaker.error == "refused"


def test_while_it_is_open_probes_are_allowed_at_increasing_intervals(clock):
    breaker = CircuitBreaker(clock)
    for _ in range(5):
        breaker.record_failure("refused")
    probes = []
    for _ in range(120):
        slots = breaker.available_slots()
        acquired = breaker.try_acquire()
        assert (slots, breaker.available_slots()) == (acquired, 0)
        if acquired:
            probes.append(clock.time - 100)
            breaker.record_failure("still refused")
        clock.time += 1
    assert probes == [1, 2, 4, 8, 16, 32, 62, 92]


def test_the_first_response_closes_it(clock):
    breaker = CircuitBreaker(clock)
    for _ in range(9):
        breaker.record_failure("refused")
    clock.time += 1
    assert breaker.try_acquire()
    breaker.record_response()
    assert (breaker.open, breaker.available_slots(), breaker.error) == (False, None, None)


def test_the_calls_of_one_second_may_start_together_after_a_quiet_time(clock):
    limiter = RateLimiter(10, clock, clock.sleep)
    assert [limiter.wait(9) for _ in range(13)] == pytest.approx([0.0] * 11 + [0.1] * 2)
    assert clock.slept == [0.1, 0.1]
    clock.time += 60
    clock.slept.clear()
    assert [limiter.wait(9) for _ in range(12)] == pytest.approx([0.0] * 11 + [0.1])
    assert clock.slept == [0.1]


def test_a_wait_that_is_too_long_is_refused_at_once(clock):
    limiter = RateLimiter(1, clock, clock.sleep)
    assert [limiter.wait(0.5) for _ in range(4)] == [0.0, 0.0, None, None]
    assert clock.slept == []


def test_the_rate_is_halved_and_recovers_in_steps(clock):
    limiter = RateLimiter(100, clock, clock.sleep)
    for _ in range(20):
        limiter.halve()
    assert limiter.rate == 1
    limiter.recover()
    assert limiter.rate == 2
    for _ in range(200):
        limiter.recover()
    assert limiter.rate == 100


class Overloaded(ApiServer):
    """Answers 429 to every call: overload, or an eviction that a PodDisruptionBudget does not allow."""

    details = None

    def request(self, *_):
        return response(429, {"message": "too many", "details": self.details or {}})


class Unreachable(ApiServer):
    """Gives no response and counts the calls."""

    calls = 0

    def request(self, *_):
        self.calls += 1
        raise NoResponseError("refused")


def cluster_of(server, clock):
    state = ApiServerState(CircuitBreaker(clock), RateLimiter(100, clock, clock.sleep))
    return KubernetesCluster(server, state), state


@pytest.mark.parametrize(
    ("details", "counts"), [(None, True), ({"causes": [{"reason": "DisruptionBudget"}]}, False)]
)
def test_a_429_halves_the_rate_and_counts_as_failure_unless_a_disruption_budget_causes_it(
    clock, details, counts
):
    server = Overloaded()
    server.details = details
    cluster, state = cluster_of(server, clock)
    for _ in range(5):
        with pytest.raises(TemporaryError):
            cluster.send(Call("create", "v1", "pods/eviction", "demo", "a", {}))
    assert (state.breaker.open, state.rate_limiter.rate < 100) == (counts, counts)


def test_waiting_for_the_rate_limiter_does_not_use_the_time_of_the_attempt(clock, monkeypatch):
    monkeypatch.setattr("engine.cluster.client.time.monotonic", clock)
    cluster = KubernetesCluster(
        ApiServer(), ApiServerState(CircuitBreaker(clock), RateLimiter(1, clock, clock.sleep))
    )
    short = cluster.with_timeout(0.5)
    for _ in range(10):  # the calls of one second at once, then one call a second
        short.get(POD, "a", "demo")
    assert clock.slept == [1.0] * 8
    with pytest.raises(TemporaryError, match="--kube-qps"):  # the lease would expire
        short.get(POD, "a", "demo")


def test_a_claim_that_is_lost_while_a_call_waits_for_the_rate_prevents_the_call(clock):
    """The process can be stopped during the wait, and another replica can take over."""

    def check():
        if clock.slept:
            raise TemporaryError("another replica may have taken over")

    server = Unreachable()
    limiter = RateLimiter(1, clock, clock.sleep)
    cluster = KubernetesCluster(server, ApiServerState(CircuitBreaker(clock), limiter))
    for _ in range(2):
        limiter.wait(0)
    with pytest.raises(TemporaryError, match="taken over"):
        cluster.with_timeout(30).with_check(check).send(
            Call("delete", "v1", "pods", "demo", "a", {})
        )
    assert (clock.slept, server.calls) == ([1.0], 0)


def test_no_more_attempts_start_than_the_rate_allows(clock):
    cluster, state = cluster_of(ApiServer(), clock)
    slots = [cluster.available_slots(running) for running in (0, 15, 99, 100, 101)]
    assert slots == [100, 85, 1, 0, 0]
    for _ in range(20):
        state.rate_limiter.halve()
    assert [cluster.available_slots(running) for running in (0, 1, 16)] == [1, 0, 0]


def test_while_the_breaker_is_open_an_attempt_may_start_only_when_a_probe_is_due(clock):
    cluster, state = cluster_of(ApiServer(), clock)
    for _ in range(5):
        state.breaker.record_failure("refused")
    assert cluster.available_slots(0) == 0
    clock.time += 1
    assert [cluster.available_slots(running) for running in (100, 0, 0)] == [0, 1, 1]


def test_while_the_breaker_is_open_no_call_is_sent_except_the_probe(clock):
    server = Unreachable()
    cluster, _ = cluster_of(server, clock)
    for _ in range(9):
        with pytest.raises(TemporaryError) as caught:
            cluster.get(POD, "a", "demo")
    assert server.calls == 5
    assert "refused; waiting for a successful probe" in str(caught.value)
    assert not caught.value.answered
    clock.time += 1
    for _ in range(3):
        with pytest.raises(TemporaryError):
            cluster.get(POD, "a", "demo")
    assert server.calls == 6


def test_namespaces_are_cached_for_a_while_and_pods_never(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("engine.cluster.client.time.monotonic", lambda: now[0])
    server = ApiServer({"kind": "Namespace", "metadata": {"name": "demo", "labels": {"a": "1"}}})
    server.put({"kind": "Pod", "metadata": {"name": "web", "namespace": "demo", "labels": {}}})
    cluster = KubernetesCluster(
        server, ApiServerState(CircuitBreaker(lambda: 0.0), RateLimiter(1e9), cache_seconds=10.0)
    )
    cluster.get(NAMESPACE, "demo")
    cluster.get(POD, "web", "demo")
    server.objects[KEY]["metadata"]["labels"] = {"a": "2"}
    server.find("Pod", "web", "demo")["metadata"]["labels"]["b"] = "new"
    assert cluster.get(NAMESPACE, "demo")["metadata"]["labels"] == {"a": "1"}
    assert cluster.get(POD, "web", "demo")["metadata"]["labels"] == {"b": "new"}
    now[0] += 11
    assert cluster.get(NAMESPACE, "demo")["metadata"]["labels"] == {"a": "2"}


def test_a_missing_namespace_is_not_cached():
    server = ApiServer()
    cluster = KubernetesCluster(
        server, ApiServerState(CircuitBreaker(lambda: 0.0), RateLimiter(1e9), cache_seconds=10.0)
    )
    assert cluster.get(NAMESPACE, "demo") is None
    server.put({"kind": "Namespace", "metadata": {"name": "demo"}})
    assert cluster.get(NAMESPACE, "demo") is not None


class Forbidding(ApiServer):
    """Answers 403 to every call."""

    def request(self, *_):
        return response(403, {"message": "forbidden"})


def test_a_403_is_temporary_right_after_an_outage(clock):
    cluster, state = cluster_of(Forbidding(), clock)
    state.breaker.record_failure("refused")
    clock.time += 59
    with pytest.raises(TemporaryError, match="recently unavailable"):
        cluster.get(POD, "a", "demo")
    clock.time += 2
    with pytest.raises(PermanentError, match="missing right: get on pods"):
        cluster.get(POD, "a", "demo")


def test_a_list_is_limited_in_bytes_over_all_its_pages(monkeypatch):
    monkeypatch.setattr("engine.cluster.client.PAGE_SIZE", 2)
    monkeypatch.setattr("engine.cluster.client.MAX_LIST_BYTES", 3 << 20)
    text = "x" * (1 << 20)
    server = ApiServer()
    for number in range(3):
        metadata = {"name": f"p{number}", "namespace": "demo", "annotations": {"a": text}}
        server.put({"kind": "Pod", "metadata": metadata})
        if number < 2:
            assert len(server.cluster.list(POD, "demo")) == number + 1
    with pytest.raises(PermanentError, match="pods: the list is larger than 3 MiB"):
        server.cluster.list(POD, "demo")
