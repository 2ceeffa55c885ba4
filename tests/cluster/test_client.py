"""The live cluster with a real API server, with the rights of the engine."""

from __future__ import annotations

import pytest
from engine.cluster.api import (
    DEPLOYMENT,
    EVENT,
    NAMESPACE,
    NETWORK_POLICY,
    NODE,
    POD,
    AlreadyExistsError,
)
from engine.cluster.client import connect
from engine.cluster.kubeconfig import ConnectionSettingsError
from engine.model.calls import Call, Kind
from engine.model.errors import GoneError, PermanentError, TemporaryError

SECRET = Kind("v1", "secrets", "Secret")
CONTAINERS = {"containers": [{"name": "app", "image": "nginx"}]}


@pytest.fixture
def cluster(engine_kubeconfig):
    return connect(str(engine_kubeconfig), None)


@pytest.fixture
def pod(admin, namespace):
    made = admin.create(
        f"/api/v1/namespaces/{namespace}/pods",
        {"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": CONTAINERS},
    )
    path = f"/api/v1/namespaces/{namespace}/pods/web"
    admin.wait_for(path, lambda it: it and it["status"].get("phase") == "Running")
    return made["metadata"]


def patch(pod, uid, labels):
    body = {"metadata": {"uid": uid, "labels": labels}}
    return Call("patch", "v1", "pods", pod["namespace"], pod["name"], body)


def delete(pod, uid):
    body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
    return Call("delete", "v1", "pods", pod["namespace"], pod["name"], body)


def policy(namespace, types):
    body = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": "p",
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/managed-by": "tiercel"
            },  # base lets the engine change only these
        },
        "spec": {"podSelector": {}, "policyTypes": types},
    }
    return Call("apply", "networking.k8s.io/v1", "networkpolicies", namespace, "p", body)


def test_get_returns_an_object_or_none(cluster, pod):
    assert cluster.get(POD, "web", pod["namespace"])["metadata"]["uid"] == pod["uid"]
    assert cluster.get(POD, "absent", pod["namespace"]) is None
    assert cluster.get(NAMESPACE, "absent") is None
    assert cluster.get(NODE, "absent") is None
    assert cluster.get(DEPLOYMENT, "absent", pod["namespace"]) is None


def test_list_returns_the_pods_of_a_namespace_or_of_a_node(cluster, pod):
    (found,) = cluster.list(POD, pod["namespace"])
    node = found["spec"]["nodeName"]
    assert "web" in {one["metadata"]["name"] for one in cluster.list(POD, node=node)}
    assert cluster.list(POD, node="absent") == []


def test_a_merge_patch_sets_and_removes_labels(cluster, pod):
    answer = cluster.send(patch(pod, pod["uid"], {"a": "b", "app": None}))
    assert answer["metadata"]["labels"] == {"a": "b"}


def test_a_pod_with_another_uid_is_not_changed(cluster, pod, admin):
    other = "11111111-1111-1111-1111-111111111111"
    with pytest.raises(GoneError, match="was replaced"):
        cluster.send(patch(pod, other, {"a": "b"}))
    with pytest.raises(GoneError, match="was replaced"):
        cluster.send(delete(pod, other))
    left = admin.get(f"/api/v1/namespaces/{pod['namespace']}/pods/web")["metadata"]
    assert left["labels"] == {"app": "web"}
    assert "deletionTimestamp" not in left


def test_a_write_to_a_missing_pod_raises_gone(cluster, namespace):
    ghost = {"namespace": namespace, "name": "ghost"}
    with pytest.raises(GoneError, match="is gone"):
        cluster.send(delete(ghost, "11111111-1111-1111-1111-111111111111"))
    with pytest.raises(GoneError, match="is gone"):
        cluster.send(patch(ghost, "11111111-1111-1111-1111-111111111111", {"a": "b"}))


def test_a_dry_run_changes_nothing_for_any_verb(cluster, pod, admin):
    asking = cluster.with_dry_run()
    asking.send(patch(pod, pod["uid"], {"a": "b"}))
    asking.send(delete(pod, pod["uid"]))
    asking.send(policy(pod["namespace"], ["Egress"]))
    left = admin.get(f"/api/v1/namespaces/{pod['namespace']}/pods/web")["metadata"]
    assert "deletionTimestamp" not in left
    assert "a" not in left["labels"]
    assert cluster.list(NETWORK_POLICY, pod["namespace"]) == []


def test_apply_creates_and_updates_an_object(cluster, namespace):
    cluster.send(policy(namespace, ["Egress"]))
    answer = cluster.send(policy(namespace, ["Ingress", "Egress"]))
    assert answer["spec"]["policyTypes"] == ["Ingress", "Egress"]
    managers = {entry["manager"] for entry in answer["metadata"]["managedFields"]}
    assert managers == {"tiercel"}


def test_a_field_of_another_manager_is_not_overwritten(cluster, namespace, admin):
    path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/p"
    admin.apply(path, policy(namespace, ["Ingress"]).body, manager="somebody")
    with pytest.raises(PermanentError, match="somebody"):
        cluster.send(policy(namespace, ["Egress"]))


def test_create_fails_if_the_object_exists(cluster, namespace):
    about = {"kind": "Pod", "name": "x", "namespace": namespace}
    body = {"metadata": {"name": "e", "namespace": namespace}, "involvedObject": about}
    call = Call("create", "v1", "events", namespace, "e", body)
    cluster.send(call)
    with pytest.raises(AlreadyExistsError):
        cluster.send(call)
    assert cluster.get(EVENT, "e", namespace) is not None


def test_the_message_contains_the_missing_right(cluster, namespace):
    with pytest.raises(PermanentError, match="missing right: list on secrets"):
        cluster.list(SECRET, namespace)
    body = {"metadata": {"name": "x"}}
    with pytest.raises(PermanentError, match="missing right: create on pods"):
        cluster.send(Call("create", "v1", "pods", namespace, "x", body))


def test_an_invalid_object_is_permanent(cluster, pod):
    with pytest.raises(PermanentError, match="422"):
        cluster.send(patch(pod, pod["uid"], {"a": "not a label"}))


def test_an_unreachable_api_server_is_temporary_and_uses_no_attempt_up(engine_kubeconfig, tmp_path):
    text = engine_kubeconfig.read_text()
    gone = tmp_path / "kubeconfig"
    gone.write_text(text.replace(connect(str(engine_kubeconfig), None).host, "https://127.0.0.1:1"))
    with pytest.raises(TemporaryError) as error:
        connect(str(gone), None).get(NAMESPACE, "default")
    assert not error.value.answered


def test_a_timeout_is_temporary(cluster):
    with pytest.raises(TemporaryError, match="timed out"):
        cluster.with_timeout(0).get(NAMESPACE, "default")


def test_a_missing_or_broken_kubeconfig_is_a_settings_error(tmp_path):
    with pytest.raises(ConnectionSettingsError):
        connect(str(tmp_path / "absent"), None)
    broken = tmp_path / "broken"
    broken.write_text("a: [")
    with pytest.raises(ConnectionSettingsError):
        connect(str(broken), None)
