"""The search for the pod or node of an event."""

from __future__ import annotations

import pytest
from engine.cluster.pods import TargetSearch, find_node, find_pod
from engine.cluster.simulated import StaticCluster
from engine.model.errors import GoneError, SkippedError, TemporaryError
from engine.model.event import parse_event

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
    with pytest.raises(SkippedError, match="created after"):
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
    with pytest.raises(SkippedError, match="created after"):
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
