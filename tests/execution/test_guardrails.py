"""Guardrails: protected targets and the age of the event."""

from __future__ import annotations

import pytest
from engine.cluster.pods import TargetSearch, find_pod
from engine.cluster.simulated import StaticCluster
from engine.execution.guardrails import GuardrailChecker
from engine.model.errors import RefusedError
from engine.model.own_identity import OwnIdentity
from engine.model.playbook import Guardrails, Match, Playbook, Step
from engine.model.run import Claim, Run
from tests.contracts.test_actions import NOW, a_pod, alert

NODES = [{"kind": "Node", "metadata": {"name": n}} for n in ("worker-1", "worker-2")]
LATER = TargetSearch(now=NOW + 60, received=NOW)


def claim(event, action="pod.delete", effect="disrupt", received=NOW):
    playbook = Playbook("p", Match(), (Step(action, action, {}, effect=effect),))
    return Claim(Run("r", playbook, event, received, "t"), 0)


def check(pod, *objects, own=None, guardrails=None, effect="disrupt"):
    reads = StaticCluster([*NODES, pod, *objects])
    event = alert(**{"k8s.ns.name": pod["metadata"]["namespace"]})
    checker = GuardrailChecker(guardrails, OwnIdentity(own))
    checker.check(claim(event, effect=effect), find_pod(event, reads, LATER), reads)


def test_unprotected_pod_passes():
    check(a_pod(), own="tiercel")
    check(a_pod(labels={"tiercel.dev/protected": "true"}))
    not_so = {"name": "demo", "labels": {"tiercel.dev/protected": "false"}}
    check(a_pod(), {"kind": "Namespace", "metadata": not_so})


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public", "kube-node-lease", "own"])
def test_system_namespaces_and_our_own_are_protected(namespace):
    with pytest.raises(RefusedError, match=namespace):
        check(a_pod(namespace=namespace), own="own")


def test_node_is_protected_by_its_label():
    node = {"kind": "Node", "metadata": {"name": "n", "labels": {"tiercel.dev/protected": "true"}}}
    with pytest.raises(RefusedError):
        GuardrailChecker().check(claim(alert()), node, StaticCluster([]))


def test_our_own_node_is_protected_against_node_actions_only():
    node = {"kind": "Node", "metadata": {"name": "ours"}}
    checker = GuardrailChecker(own=OwnIdentity(node="ours"))
    checker.check(claim(alert(), "kubernetes.event", "mark"), node, StaticCluster([]))
    checker.check(
        claim(alert(), "node.cordon"), {**node, "metadata": {"name": "n"}}, StaticCluster([])
    )
    with pytest.raises(RefusedError, match="itself runs"):
        checker.check(claim(alert(), "node.cordon"), node, StaticCluster([]))


def test_document_adds_to_the_protected_namespaces_and_labels():
    written = Guardrails(namespaces=(*Guardrails().namespaces, "pay-*"), labels=(("team", "bank"),))
    check(a_pod(namespace="pay"), guardrails=written)
    for namespace in ("pay-eu", "kube-system"):
        with pytest.raises(RefusedError, match=namespace):
            check(a_pod(namespace=namespace), guardrails=written)
    labelled = {"kind": "Namespace", "metadata": {"name": "demo", "labels": {"team": "bank"}}}
    with pytest.raises(RefusedError, match="team"):
        check(a_pod(), labelled, guardrails=written)


def test_trusted_pod_can_protect_itself():
    trusting = Guardrails(trust_pods_in=("demo",))
    urgent = a_pod()
    urgent["spec"]["priorityClassName"] = "system-node-critical"
    labelled = a_pod(labels={"tiercel.dev/protected": "true"})
    for pod in (urgent, labelled):
        check(pod)
        with pytest.raises(RefusedError):
            check(pod, guardrails=trusting)
    check(a_pod(), guardrails=trusting)
    with pytest.raises(RefusedError):
        check(labelled, guardrails=Guardrails(trust_pods_in=("de*",)))


def test_trusted_pod_is_protected_by_system_priority_classes_only():
    def of_class(name):
        pod = a_pod()
        pod["spec"]["priorityClassName"] = name
        check(pod, guardrails=Guardrails(trust_pods_in=("demo",)))

    for name in ("system-cluster-critical", "system-node-critical"):
        with pytest.raises(RefusedError, match=name):
            of_class(name)
    for name in ("business-critical", "system-low"):
        of_class(name)


def test_observe_and_notify_are_not_limited_by_protection():
    for effect in ("observe", "notify"):
        check(a_pod(namespace="kube-system"), effect=effect)
    with pytest.raises(RefusedError):
        check(a_pod(namespace="kube-system"), effect="mark")


def test_old_event_can_mark_but_not_disrupt():
    checker, reads, then = GuardrailChecker(), StaticCluster([*NODES, a_pod()]), alert().time
    pod = find_pod(alert(), reads, LATER)
    checker.check(claim(alert(), received=then + 300), pod, reads)
    checker.check(claim(alert(), "pod.label", "mark", received=then + 301), pod, reads)
    with pytest.raises(RefusedError, match="maxEventAge is 5m"):
        checker.check(claim(alert(), received=then + 301), pod, reads)
