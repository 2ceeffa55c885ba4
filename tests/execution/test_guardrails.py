"""Guardrails, and the search for the pod of an event that comes before them."""

from __future__ import annotations

import base64
import json

import pytest
from engine.cluster.pods import TargetSearch, find_node, find_pod
from engine.cluster.simulated import StaticCluster
from engine.execution.guardrails import Guard
from engine.model.errors import GoneError, RefusedError, SkippedError, TemporaryError
from engine.model.event import parse_event
from engine.model.own_identity import OwnIdentity
from engine.model.playbook import Guardrails, Match, Playbook, Step
from engine.model.run import Claim, Run
from tests.contracts.test_actions import CONTAINER, NOW, a_pod, alert

NODES = [{"kind": "Node", "metadata": {"name": n}} for n in ("worker-1", "worker-2")]
LATER = TargetSearch(now=NOW + 60, received=NOW)
SOON = TargetSearch(now=NOW + 9.9, received=NOW)
OTHER = "f" * 12


def find(event, *pods, search=LATER):
    return find_pod(event, StaticCluster([*NODES, *(pods or [a_pod(uid="u")])]), search)


def young(**metadata):
    return a_pod(creationTimestamp="2026-03-01T10:00:06Z", uid="u", **metadata)


def test_pod_is_found_by_name():
    assert (str(find(alert())), find(alert()).uid) == ("demo/web-0", "u")


def test_uid_in_the_event_decides():
    same = alert(**{"k8s.pod.uid": "u", "container.id": OTHER})
    assert find(same, young()).uid == "u"
    with pytest.raises(GoneError):
        find(alert(**{"k8s.pod.uid": "another", "container.id": CONTAINER}))


@pytest.mark.parametrize("digits", [CONTAINER, CONTAINER + "0" * 52])
def test_container_id_decides_before_the_creation_time(digits):
    assert find(alert(**{"container.id": digits}), young())


@pytest.mark.parametrize(
    "status",
    [
        {"initContainerStatuses": [{"containerID": f"cri-o://{OTHER}0"}]},
        {"ephemeralContainerStatuses": [{"containerID": f"containerd://{OTHER}0"}]},
        {
            "containerStatuses": [
                {"lastState": {"terminated": {"containerID": f"docker://{OTHER}0"}}}
            ]
        },
        {"containerStatuses": [{"state": {"terminated": {"containerID": f"docker://{OTHER}0"}}}]},
    ],
    ids=str,
)
def test_init_ephemeral_and_terminated_containers_count(status):
    assert find(alert(**{"container.id": OTHER}), {**young(), "status": status}, search=SOON)


def test_sandbox_id_counts_as_a_container_of_the_pod():
    assert find(alert(**{"container.id": OTHER, "k8s.pod.sandbox_id": OTHER}), young(), search=SOON)


def test_missing_container_is_waited_for_and_then_the_creation_time_decides():
    event = alert(**{"container.id": OTHER})
    with pytest.raises(TemporaryError) as error:
        find(event, search=SOON)
    assert (error.value.again, error.value.answered) == (1.0, False)
    assert find(event, search=LATER)
    assert find(event, search=TargetSearch(now=NOW, received=NOW, wait_for_status=False))
    with pytest.raises(SkippedError, match="younger"):
        find(event, young(), search=LATER)


def test_container_of_another_pod_contradicts():
    other = {
        **a_pod(name="web-1"),
        "status": {"containerStatuses": [{"containerID": f"x://{OTHER}"}]},
    }
    with pytest.raises(SkippedError, match="web-1"):
        find(alert(**{"container.id": OTHER}), a_pod(), other, search=SOON)


def on_host(host, source="syscall"):
    fields = {"k8s.ns.name": "demo", "k8s.pod.name": "web-0"}
    return parse_event({"rule": "r", "time": "2026-03-01T10:00:00Z", "hostname": host, "source": source,
                  "output_fields": fields})  # fmt: skip


def test_hostname_contradicts_only_if_it_is_another_node_and_only_for_syscall_events():
    with pytest.raises(SkippedError, match="worker-2"):
        find(on_host("worker-2"))
    assert find(on_host("falco-x7k2p"))
    assert find(on_host("worker-2", "k8s_audit"))
    assert find(on_host("worker-1"))
    assert find(on_host(None))
    assert find(on_host("../worker-2"))


def test_pod_must_not_be_younger_than_the_event_except_for_clock_skew():
    with pytest.raises(SkippedError, match="younger"):
        find(alert(), young())
    assert find(alert(), a_pod(creationTimestamp="2026-03-01T10:00:05Z"))
    assert find(alert(), a_pod(creationTimestamp=None))
    untimed = parse_event(
        {"rule": "r", "output_fields": {"k8s.ns.name": "demo", "k8s.pod.name": "web-0"}}
    )
    assert find(untimed, young())


def test_gone_terminating_or_replaced_pod_is_not_found():
    with pytest.raises(GoneError, match="does not exist"):
        find(alert(**{"k8s.pod.name": "web-7"}))
    with pytest.raises(GoneError, match="terminating"):
        find(alert(), a_pod(deletionTimestamp="2026-03-01T10:00:00Z"))
    with pytest.raises(GoneError, match="replaced"):
        find(alert(), search=TargetSearch(now=NOW, received=NOW, uid="before"))


def test_terminating_pod_is_accepted_if_the_run_found_it_before():
    going = a_pod(uid="u", deletionTimestamp="2026-03-01T10:00:00Z")
    assert find(
        alert(), going, search=TargetSearch(now=NOW, received=NOW, uid="u", allow_terminating=True)
    )
    with pytest.raises(GoneError):
        find(alert(), going, search=TargetSearch(now=NOW, received=NOW, allow_terminating=True))


def nameless(**fields):
    return alert(**{"k8s.ns.name": None, "k8s.pod.name": None} | fields)


def test_pod_without_a_name_is_found_by_its_container_on_the_node():
    assert str(find(nameless(**{"container.id": CONTAINER}))) == "demo/web-0"
    elsewhere = a_pod()
    elsewhere["spec"]["nodeName"] = "worker-2"
    with pytest.raises(SkippedError):
        find(nameless(**{"container.id": CONTAINER}), elsewhere)
    with pytest.raises(SkippedError):
        find(nameless(**{"container.id": "host"}))


def test_node_is_that_of_the_pod_or_the_hostname():
    def node(event, *pods):
        return find_node(event, StaticCluster([*NODES, *pods]), LATER)["metadata"]["name"]

    assert node(on_host("falco-x7k2p"), a_pod()) == "worker-1"
    assert node(nameless()) == "worker-1"
    with pytest.raises(SkippedError):
        node(parse_event({"rule": "r", "hostname": "nowhere"}))
    with pytest.raises(SkippedError):
        node(on_host("worker-1"))


def claim(event, action="pod.delete", effect="disrupt", received=NOW):
    playbook = Playbook("p", Match(), (Step(action, action, {}, effect=effect),))
    return Claim(Run("r", playbook, event, received, "t"), 0)


def check(pod, *objects, own=None, guardrails=None, effect="disrupt"):
    reads = StaticCluster([*NODES, pod, *objects])
    event = alert(**{"k8s.ns.name": pod["metadata"]["namespace"]})
    guard = Guard(guardrails, OwnIdentity(own))
    guard.check(claim(event, effect=effect), find_pod(event, reads, LATER), reads)


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
        Guard().check(claim(alert()), node, StaticCluster([]))


def test_our_own_node_is_protected_against_node_actions_only():
    node = {"kind": "Node", "metadata": {"name": "ours"}}
    guard = Guard(own=OwnIdentity(node="ours"))
    guard.check(claim(alert(), "kubernetes.event", "mark"), node, StaticCluster([]))
    guard.check(
        claim(alert(), "node.cordon"), {**node, "metadata": {"name": "n"}}, StaticCluster([])
    )
    with pytest.raises(RefusedError, match="itself runs"):
        guard.check(claim(alert(), "node.cordon"), node, StaticCluster([]))


def mounted(folder, claims, namespace="tiercel\n"):
    """Write the folder that the kubelet mounts for a service account: a token with these claims, a namespace."""
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    (folder / "token").write_text(f"e30.{body}.c2ln")
    if namespace is not None:
        (folder / "namespace").write_text(namespace)
    return folder


def test_own_identity_comes_from_the_downward_api_or_the_mounted_token(tmp_path):
    folder = mounted(tmp_path, {"sub": "system:serviceaccount:tiercel:hawk"})
    own = OwnIdentity.from_environment({}, folder)
    assert (own.namespace, own.user) == ("tiercel", "system:serviceaccount:tiercel:hawk")
    told = {"TIERCEL_POD_NAMESPACE": "a", "TIERCEL_SERVICE_ACCOUNT": "b"}
    assert OwnIdentity.from_environment(told, folder).user == "system:serviceaccount:a:b"
    assert (
        OwnIdentity.from_environment({}).user is None
    )  # the result of a preview does not depend on where it runs


@pytest.mark.parametrize("claims", [{}, {"sub": 7}, {"sub": "ada"}, [], "x", {"sub": None}])
def test_token_without_a_service_account_gives_no_identity(tmp_path, claims):
    assert OwnIdentity.from_environment({}, mounted(tmp_path, claims)).user is None


@pytest.mark.parametrize("token", ["", "opaque", "a.b.c", "a.%%%.c", "a.4pyT.c"])
def test_invalid_token_gives_no_identity(tmp_path, token):
    mounted(tmp_path, {})
    (tmp_path / "token").write_text(token)
    assert OwnIdentity.from_environment({}, tmp_path).user is None
    assert OwnIdentity.from_environment({}, tmp_path / "absent") == OwnIdentity()


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
    guard, pod, then = Guard(), find(alert()), alert().time
    reads = StaticCluster(NODES)
    guard.check(claim(alert(), received=then + 300), pod, reads)
    guard.check(claim(alert(), "pod.label", "mark", received=then + 301), pod, reads)
    with pytest.raises(RefusedError, match="maxEventAge is 5m"):
        guard.check(claim(alert(), received=then + 301), pod, reads)
