"""node.drain: many short attempts, until the pods of the node have ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine.cluster.api import CallRecorder
from engine.execution.attempt import Clients, attempt
from engine.execution.guardrails import GuardrailChecker
from engine.model.own_identity import OwnIdentity
from engine.outbound.api import RequestRecorder
from tests.contracts.test_actions import (
    ACTIONS,
    NOW,
    ON_THE_NODE,
    a_pod,
    act,
    claim_of,
    owner,
    plan,
    reference,
    undo,
    world,
)
from tests.support.fakes import FakeAttemptStore

DRAIN = next(action for action in ACTIONS if action.name == "node.drain")


class Drain:
    """A drain of worker-1, attempt by attempt."""

    def __init__(self, server, given=None, checker=None):
        self.server, self.checker, self.store = server, checker, FakeAttemptStore()
        self.claim = claim_of(DRAIN, given or {}, ON_THE_NODE)
        self.calls = []

    def step(self, now=NOW):
        recorder = CallRecorder(self.server.cluster, self.server.cluster)
        clients = Clients(recorder, RequestRecorder(), dry=False)
        checker = self.checker or GuardrailChecker()
        self.claim = replace(self.claim, attempt_state=dict(self.store.attempt_state))
        outcome = attempt(self.claim, clients, checker, now, self.store)
        self.calls += outcome.calls
        return outcome

    def evicted(self):
        return [call.name for call in self.calls if call.resource == "pods/eviction"]


def node(server):
    return server.find("Node", "worker-1")


def put(server, name, controller="ReplicaSet", namespace="demo", **metadata):
    owners = [reference(controller, f"{name}-owner")] if controller else []
    metadata = {"ownerReferences": owners, **metadata}
    return server.put(a_pod(name=name, namespace=namespace, **metadata))


def test_the_node_is_cordoned_and_the_drain_waits_until_the_pods_have_ended():
    server = world()
    put(server, "bare", None)
    drain = Drain(server)
    first = drain.step()
    assert (first.state, first.answered, first.retry_in) == ("waiting", False, 5.0)
    assert node(server)["spec"]["unschedulable"] is True
    assert drain.evicted() == ["bare", "web-0"]
    assert drain.step(NOW + 5).state == "waiting"
    server.let_go()
    done = drain.step(NOW + 10)
    assert (done.state, done.message) == ("done", "drain node worker-1: evict 2 pods")
    assert drain.evicted() == ["bare", "web-0"]


def test_mirror_pods_daemonset_pods_own_pods_and_protected_pods_stay():
    server = world()
    put(server, "mirror", None, annotations={"kubernetes.io/config.mirror": "x"})
    put(server, "agent", "DaemonSet")
    put(server, "dns", namespace="kube-system")
    put(server, "engine", namespace="tiercel")
    put(server, "db", "StatefulSet")
    drain = Drain(
        server, {"skipKinds": ["StatefulSet"]}, GuardrailChecker(own=OwnIdentity("tiercel"))
    )
    drain.step()
    server.let_go()
    done = drain.step()
    assert drain.evicted() == ["web-0"]
    stay = "stay: 1 DaemonSet, 1 StatefulSet, 1 mirror, 2 protected"
    assert done.message == f"drain node worker-1: evict 1 pod; {stay}"


def test_skip_kinds_sees_the_owner_above_the_controller():
    server = world()
    drain = Drain(server, {"skipKinds": ["Deployment"]})
    assert drain.step().message == "drain node worker-1: evict 0 pods; stay: 1 Deployment"


def test_an_eviction_that_a_budget_does_not_allow_is_tried_again():
    server = world()
    drain = Drain(server, {"timeout": "10m"})
    drain.step()  # cordons, and evicts
    server.put(a_pod())
    server.answers = [(429, {}, {"causes": [{"reason": "DisruptionBudget"}]})]
    outcome = drain.step(NOW + 5)
    assert (outcome.state, outcome.answered) == ("waiting", False)
    assert "1 pod left (demo/web-0 stays: pods/eviction/web-0: 429" in outcome.message
    drain.step(NOW + 10)
    server.let_go()
    assert drain.step(NOW + 15).state == "done"


def test_the_drain_fails_after_its_timeout_and_the_node_stays_cordoned():
    server = world()
    drain = Drain(server, {"timeout": "10m"})
    drain.step()
    assert drain.step(NOW + 599).state == "waiting"
    failed = drain.step(NOW + 600)
    assert failed.state == "failed"
    assert "demo/web-0 is terminating" in failed.message
    assert "after 10m; the node stays cordoned" in failed.message
    assert node(server)["spec"]["unschedulable"] is True


def test_the_drain_ends_if_somebody_uncordons_the_node():
    server = world()
    drain = Drain(server)
    drain.step()
    node(server)["spec"].pop("unschedulable")
    outcome = drain.step()
    assert (outcome.state, "was uncordoned" in outcome.message) == ("failed", True)
    assert "unschedulable" not in node(server)["spec"]


def test_min_ready_lets_the_pods_of_an_owner_go_one_by_one():
    server = world(pod=a_pod("StatefulSet"))
    server.put(owner("StatefulSet", "web"))
    server.put(a_pod("StatefulSet", name="web-1"))
    drain = Drain(server, {"minReady": 2})
    assert "waits for another pod of its owner" in drain.step().message
    assert drain.evicted() == ["web-0"]
    server.let_go()
    server.find("StatefulSet", "web", "demo")["status"]["readyReplicas"] = 2
    assert "1 of 3 would stay ready" in drain.step().message
    server.find("StatefulSet", "web", "demo")["status"]["readyReplicas"] = 3
    drain.step()
    assert drain.evicted() == ["web-0", "web-1"]


def test_one_attempt_evicts_few_pods_and_the_next_one_follows_soon():
    server = world(None)
    for number in range(45):
        put(server, f"p{number}", None)
    drain = Drain(server)
    first = drain.step()
    assert (len(drain.evicted()), first.retry_in) == (20, 0.2)
    drain.step()
    last = drain.step()
    assert (len(drain.evicted()), last.retry_in) == (46, 5.0)
    assert len(set(drain.evicted())) == 46


def test_a_server_that_does_not_answer_ends_the_attempt():
    server = world()
    server.answers = [(503, {})]
    assert Drain(server).step().state == "waiting"
    drain = Drain(world())
    drain.server.answers = [(403, {})]
    outcome = drain.step()
    assert (outcome.state, "missing right: patch on nodes" in outcome.message) == ("failed", True)


def test_a_replaced_node_is_skipped():
    server = world()
    drain = Drain(server)
    drain.step()
    server.put({"kind": "Node", "metadata": {"name": "worker-1", "uid": "another"}, "spec": {}})
    assert drain.step().state == "skipped"
    assert node(server)["spec"] == {}


def test_a_drain_that_its_own_pod_started_goes_on_after_the_pod_is_gone():
    server, store = world(), FakeAttemptStore()
    claim = claim_of(DRAIN, {})
    act(server, claim, store=store)
    server.let_go()
    again = replace(claim, attempt=2, attempt_state=dict(store.attempt_state))
    assert act(server, again, store=store).state == "done"


@pytest.mark.parametrize("cordoned", [True, False])
def test_undo_uncordons_the_node_only_if_the_engine_cordoned_it(cordoned):
    server = world()
    node(server)["spec"] = {"unschedulable": True} if cordoned else {}
    drain = Drain(server)
    drain.step()
    assert undo(server, drain.claim, drain.store).state == "undone"
    assert node(server)["spec"].get("unschedulable", False) is cordoned


def test_a_preview_shows_the_cordon_and_the_evictions():
    outcome = plan(world(), claim_of(DRAIN, {}, ON_THE_NODE))
    assert (outcome.state, outcome.message) == ("planned", "drain node worker-1: evict 1 pod")
    assert [call.resource for call in outcome.calls] == ["nodes", "pods/eviction"]
