"""The control plane of the tests: it behaves as a cluster, and leaves no process."""

import threading

import pytest
import urllib3

from tests.cluster import build, fixtures
from tests.cluster.api import Api, ApiError
from tests.cluster.control_plane import ControlPlane, StartError
from tests.cluster.kubelet import NODES, Kubelet

pytestmark = pytest.mark.cluster

GRANTED = [
    ("GET", "/api/v1/pods", None),
    ("GET", "/api/v1/namespaces/default", None),
    ("GET", "/api/v1/nodes/worker-1", None),
    ("GET", "/apis/networking.k8s.io/v1/networkpolicies", None),
    ("DELETE", "/api/v1/namespaces/default/pods/none?dryRun=All", None),
    ("POST", "/api/v1/namespaces/default/events?dryRun=All", {}),
]
REFUSED = [
    ("GET", "/api/v1/secrets", "cannot list resource"),
    ("GET", "/api/v1/nodes", "cannot list resource"),
    ("GET", "/api/v1/namespaces", "cannot list resource"),
    ("DELETE", "/api/v1/namespaces/default/pods", "cannot deletecollection resource"),
    ("POST", "/api/v1/namespaces/default/pods", "cannot create resource"),
    ("POST", "/api/v1/namespaces/default/pods/none/eviction", 'resource "pods/eviction"'),
    ("GET", "/api/v1/namespaces/default/pods/none/log", 'resource "pods/log"'),
    ("DELETE", "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", "deletecollection"),
    ("GET", "/apis/apps/v1/deployments", "cannot list resource"),
]


def deployment(replicas):
    labels = {"app": "nginx"}
    container = {"name": "nginx", "image": "nginx:1.29"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    meta = {"name": "nginx"}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def deploy(admin, namespace, replicas=1):
    """Create the Deployment nginx and return its pods when all are ready."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    admin.create(path, deployment(replicas))
    admin.wait_for(f"{path}/nginx", lambda it: it["status"].get("readyReplicas") == replicas)
    return admin.list(f"/api/v1/namespaces/{namespace}/pods")


@pytest.fixture
def engine(control_plane, engine_token):
    client = Api(control_plane.server, engine_token, control_plane.ca)
    yield client
    client.close()


@pytest.fixture
def cordoned(admin):
    """The name of a node that is cordoned during one test."""
    admin.patch("/api/v1/nodes/worker-1", {"spec": {"unschedulable": True}})
    yield "worker-1"
    admin.patch("/api/v1/nodes/worker-1", {"spec": {"unschedulable": None}})


def test_a_deployment_becomes_ready_pods_on_different_nodes(admin, namespace):
    pods = deploy(admin, namespace, replicas=2)
    assert {pod["spec"]["nodeName"] for pod in pods} == set(NODES)
    for pod in pods:
        status = pod["status"]
        scheme, _, digits = status["containerStatuses"][0]["containerID"].partition("://")
        assert (status["phase"], scheme, len(digits)) == ("Running", "containerd", 64)
        assert pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"
    assert len({pod["status"]["podIP"] for pod in pods}) == 2


def test_a_deleted_pod_is_replaced(admin, namespace):
    [old] = deploy(admin, namespace)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    admin.delete(f"{pods}/{old['metadata']['name']}")
    gone = admin.wait_for(f"{pods}/{old['metadata']['name']}", lambda pod: pod is None)
    assert gone is None
    came = admin.wait_for(
        pods,
        lambda it: [pod["status"]["phase"] for pod in it["items"]] == ["Running"],
    )
    assert came["items"][0]["metadata"]["uid"] != old["metadata"]["uid"]


def test_a_cordoned_node_gets_only_pods_of_daemon_sets(admin, namespace, cordoned):
    assert [pod["spec"]["nodeName"] for pod in deploy(admin, namespace)] == ["worker-2"]
    template = deployment(1)
    del template["spec"]["replicas"]
    path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets"
    admin.create(path, {**template, "kind": "DaemonSet", "metadata": {"name": "agent"}})
    admin.wait_for(f"{path}/agent", lambda it: it["status"].get("numberReady") == len(NODES))
    pods = admin.list(f"/api/v1/namespaces/{namespace}/pods")
    on = [pod["spec"]["nodeName"] for pod in pods if pod["metadata"]["name"].startswith("agent-")]
    assert cordoned in on
    assert sorted(on) == sorted(NODES)


def test_a_pod_with_a_finalizer_stays_terminating(admin, namespace):
    pods = f"/api/v1/namespaces/{namespace}/pods"
    meta = {"name": "kept", "finalizers": ["tests.example/keep"]}
    spec = {"containers": [{"name": "main", "image": "busybox"}]}
    admin.create(pods, {"metadata": meta, "spec": spec})
    admin.wait_for(f"{pods}/kept", lambda pod: pod["status"]["phase"] == "Running")
    admin.delete(f"{pods}/kept")
    admin.wait_for(
        f"{pods}/kept", lambda pod: pod["metadata"].get("deletionGracePeriodSeconds") == 0
    )
    admin.patch(f"{pods}/kept", {"metadata": {"finalizers": None}})
    assert admin.wait_for(f"{pods}/kept", lambda pod: pod is None) is None


@pytest.mark.parametrize(("method", "path", "body"), GRANTED, ids=lambda it: str(it)[:60])
def test_the_engine_has_the_rights_of_base(engine, method, path, body):
    try:
        engine.request(method, path, body)
    except ApiError as error:
        # Past RBAC all the same: there is no such pod, or the Event is empty.
        if error.status not in {404, 422}:
            raise


@pytest.mark.parametrize(("method", "path", "reason"), REFUSED, ids=lambda it: str(it)[:60])
def test_the_engine_gets_a_403_without_a_right(engine, method, path, reason):
    with pytest.raises(ApiError, match=reason) as refused:
        engine.request(method, path, {} if method == "POST" else None)
    assert refused.value.status == 403
    assert "system:serviceaccount:tiercel:tiercel" in str(refused.value)


def test_the_kubeconfig_has_the_identity_of_the_engine(engine_kubeconfig):
    from kubernetes import client, config  # noqa: PLC0415  # half a second to import

    with config.new_client_from_config(str(engine_kubeconfig)) as api:
        review = client.AuthenticationV1Api(api).create_self_subject_review({})
    assert review.status.user_info.username == "system:serviceaccount:tiercel:tiercel"


def test_objects_remain_after_a_restart_of_the_api_server(control_plane, admin, namespace):
    [pod] = deploy(admin, namespace)
    path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"
    control_plane.stop_api()
    try:
        with pytest.raises(urllib3.exceptions.NewConnectionError):
            admin.get(path)
    finally:
        control_plane.start_api()
    assert admin.get(path)["metadata"]["uid"] == pod["metadata"]["uid"]
    admin.delete(path)
    admin.wait_for(path, lambda it: it is None)
    admin.wait_for(
        f"/apis/apps/v1/namespaces/{namespace}/deployments/nginx",
        lambda it: it["status"].get("readyReplicas") == 1,
    )


def test_a_failed_start_shows_the_log_and_leaves_no_process(control_plane, tmp_path):
    broken = tmp_path / "kube-apiserver"
    broken.write_text("#!/bin/sh\necho the cause of it all\nexit 3\n")
    broken.chmod(0o755)
    plane = ControlPlane(tmp_path, lambda name: broken if name == broken.name else build.find(name))
    with pytest.raises(StartError, match=r"(?s)kube-apiserver ended with 3.*the cause of it all"):
        plane.__enter__()
    assert control_plane.running() == ["etcd", "kube-apiserver", "kube-controller-manager"]
    assert plane.running() == []
    with urllib3.PoolManager() as pool, pytest.raises(urllib3.exceptions.HTTPError):
        pool.request("GET", f"http://127.0.0.1:{plane.etcd_port}/readyz", retries=False)


def test_a_kubelet_leaves_no_thread(admin):
    with Kubelet(admin):
        assert sum(thread.name == "kubelet" for thread in threading.enumerate()) == 2
    assert sum(thread.name == "kubelet" for thread in threading.enumerate()) == 1


def test_without_binaries_a_test_is_skipped_with_the_command_that_builds_them(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="run `make control-plane`"):
        fixtures.require("control-plane")
