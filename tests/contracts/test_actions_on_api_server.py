"""What single actions do on a real API server, beside the contract suite, and the undo of all of them."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from engine.actions.rbac import rights, roles
from engine.cluster.api import CallRecorder
from engine.cluster.client import connect
from engine.execution.attempt import Clients, attempt
from engine.execution.guardrails import GuardrailChecker
from engine.model.errors import GoneError
from engine.model.event import parse_event
from engine.outbound.api import RequestRecorder
from tests.cluster.accounts import create_account, token_of, wait_for_right
from tests.cluster.fixtures import require
from tests.contracts.test_actions import ACTIONS, claim_of
from tests.support.fakes import FakeAttemptStore, FakeHttpClient

RBAC = "/apis/rbac.authorization.k8s.io/v1"
APPS = "/apis/apps/v1/namespaces"
POLICIES = "/apis/networking.k8s.io/v1/namespaces"
TARGETED = [
    a
    for a in ACTIONS
    # a drain would evict the pods of other tests; it has a node of its own below
    if {"pod", "subject", "node"} & set(a.acts_with) and a.name != "node.drain"
]
every_undoable = pytest.mark.parametrize(
    "action", [a for a in TARGETED if a.undoable], ids=lambda action: action.name
)


@pytest.fixture(autouse=True, scope="module")
def streams():
    """Exec and logs need the stand-in of the kubelet."""
    require("kubelet")


@pytest.fixture
def pod(admin, namespace):
    """A running pod of a Deployment with two replicas."""
    labels = {"app": "web"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]},
    }
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    admin.create(
        f"{APPS}/{namespace}/deployments",
        {"metadata": {"name": "web", "labels": labels}, "spec": spec},
    )
    deployment = f"{APPS}/{namespace}/deployments/web"
    admin.wait_for(deployment, lambda it: it["status"].get("readyReplicas") == 2)
    found = admin.list(f"/api/v1/namespaces/{namespace}/pods")[0]
    yield found
    admin.patch(
        f"/api/v1/nodes/{found['spec']['nodeName']}",
        {"spec": {"unschedulable": None, "taints": None}},
    )


@pytest.fixture
def account(admin, namespace, control_plane, tmp_path):
    """Return a function that returns the cluster as an account with these rights, and with no other."""
    made = []

    def connected(needed):
        name = f"{namespace}-{len(made)}"
        create_account(admin, namespace, name)
        (role,) = roles(frozenset(needed), name, namespaced=False)
        admin.create(f"{RBAC}/clusterroles", role)
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
        admin.create(f"{RBAC}/clusterrolebindings", binding)
        made.append(name)
        for verb, resource in needed:
            wait_for_right(admin, f"system:serviceaccount:{namespace}:{name}", verb, resource)
        token = token_of(admin, namespace, name)
        return connect(str(control_plane.kubeconfig(token, tmp_path / name)), None)

    yield connected
    for name in made:
        admin.delete(f"{RBAC}/clusterrolebindings/{name}")
        admin.delete(f"{RBAC}/clusterroles/{name}")


def event_of(pod):
    fields = {"k8s.ns.name": pod["metadata"]["namespace"], "k8s.pod.name": pod["metadata"]["name"]}
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    body = {"rule": "Terminal shell", "time": time, "hostname": pod["spec"]["nodeName"]}
    return parse_event({**body, "output_fields": fields})


TEMPORARY = ("has not started yet", "was changed at the same time")


def act(cluster, claim, store, *, dry=False):
    recorder = CallRecorder(cluster, cluster.with_dry_run() if dry else cluster)
    clients = Clients(recorder, RequestRecorder(FakeHttpClient()), dry=dry)
    now = datetime.now(UTC).timestamp()
    outcome = attempt(claim, clients, GuardrailChecker(), now, store)
    # A controller can write the object between the read and the write. The engine tries again, too.
    if outcome.state == "waiting" and any(reason in outcome.message for reason in TEMPORARY):
        threading.Event().wait(0.05)
        claim = replace(claim, attempt=claim.attempt + 1, attempt_state=dict(store.attempt_state))
        later = act(cluster, claim, store)
        return replace(later, calls=outcome.calls + later.calls)
    return outcome


@every_undoable
def test_undo_restores_the_objects_to_the_byte(action, admin, pod, account):
    claim = claim_of(action, event=event_of(pod))
    cluster, before = account(rights([claim.run.playbook])), restorable(admin, pod, action)
    store = FakeAttemptStore()
    send, intents = cluster.send, []

    def sent(call):
        intents.append(len(store.intents))
        return send(call)

    cluster.send = sent
    assert act(cluster, claim, store).state == "done"
    assert set(intents) == {1}, "the undo intent is on disk before the first call"
    assert restorable(admin, pod, action) != before
    outcome = act(cluster, store.undoing(claim), store)
    assert outcome.state == "undone", outcome.message
    assert restorable(admin, pod, action) == before


def restorable(admin, pod, action):
    """Return the objects as they are, without the fields that only the server writes."""
    namespace, node = pod["metadata"]["namespace"], pod["spec"]["nodeName"]
    scaled = action.name == "workload.scale"
    paths = [
        f"{APPS}/{namespace}/deployments/web",
        f"/api/v1/nodes/{node}",
        *([] if scaled else [f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"]),
        *(
            f"{POLICIES}/{namespace}/networkpolicies/{item['metadata']['name']}"
            for item in admin.list(f"{POLICIES}/{namespace}/networkpolicies")
        ),
    ]
    found = {path: whole(admin, path) for path in paths}
    if scaled:  # a counter of the server
        del found[paths[0]]["metadata"]["generation"]
    return found


def by_name(name):
    return next(action for action in ACTIONS if action.name == name)


def test_a_disruption_budget_postpones_an_eviction(admin, pod, account):
    claim = claim_of(by_name("pod.evict"), event=event_of(pod))
    cluster, path = account(rights([claim.run.playbook])), budgets(pod)
    spec = {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}
    admin.create(path, {"metadata": {"name": "web"}, "spec": spec})
    admin.wait_for(f"{path}/web", lambda it: it.get("status", {}).get("expectedPods") == 2)
    refused = act(cluster, claim, FakeAttemptStore())
    assert (refused.state, refused.answered) == ("waiting", True)
    assert "disruption budget" in refused.message
    assert not cluster.breaker.open
    admin.delete(f"{path}/web")
    assert act(cluster, claim, FakeAttemptStore()).state == "done"


def budgets(pod):
    return f"/apis/policy/v1/namespaces/{pod['metadata']['namespace']}/poddisruptionbudgets"


def test_a_workload_that_was_replaced_is_not_scaled(admin, pod, account):
    claim = claim_of(by_name("workload.scale"), event=event_of(pod))
    cluster = account(rights([claim.run.playbook]))
    call = act(cluster, claim, FakeAttemptStore(), dry=True).calls[0]
    call.body["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(GoneError, match="was replaced"):
        cluster.send(call)
    scale = f"{APPS}/{pod['metadata']['namespace']}/deployments/web/scale"
    assert admin.get(scale)["spec"]["replicas"] == 2


def test_a_restart_replaces_the_pods_once(admin, pod, account):
    claim = claim_of(by_name("workload.restart"), event=event_of(pod))
    cluster = account(rights([claim.run.playbook]))
    path = f"{APPS}/{pod['metadata']['namespace']}/deployments/web"
    generation = admin.get(path)["metadata"]["generation"]
    for _ in range(2):
        assert act(cluster, claim, FakeAttemptStore()).state == "done"
    assert admin.get(path)["metadata"]["generation"] == generation + 1
    admin.wait_for(
        f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods",
        lambda it: pod["metadata"]["uid"] not in {one["metadata"]["uid"] for one in it["items"]},
    )


def configmap(namespace):
    head = {"apiVersion": "v1", "kind": "ConfigMap"}
    return {
        **head,
        "metadata": {"name": "incident", "namespace": namespace},
        "data": {"a": "%rule"},
    }


def audit_event(namespace, **fields):
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    told = {"k8s.ns.name": namespace, **fields}
    return parse_event({"rule": "R", "time": time, "source": "k8s_audit", "output_fields": told})


def test_an_applied_object_is_created_updated_and_deleted_with_the_declared_rights(
    admin, namespace, account
):
    action, event = by_name("resource.apply"), audit_event(namespace)
    claim = claim_of(action, {"manifest": configmap("%k8s.ns.name")}, event)
    path = f"/api/v1/namespaces/{namespace}/configmaps/incident"
    needed = rights([claim.run.playbook])
    cluster, store = account(needed), FakeAttemptStore()
    planned = act(cluster, claim, store, dry=True)
    assert (planned.state, admin.find(path)) == ("planned", None)
    assert act(cluster, claim, store).state == "done"
    made = admin.get(path)
    assert made["data"] == {"a": "R"}
    assert {entry["manager"] for entry in made["metadata"]["managedFields"]} == {"tiercel"}
    assert act(cluster, claim, store).state == "done"
    assert admin.get(path)["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert act(cluster, store.undoing(claim), store).state == "undone"
    assert admin.find(path) is None
    for missing in sorted(needed - {("get", "namespaces")}):
        limited, store = account(needed - {missing}), FakeAttemptStore()
        outcome = act(limited, claim, store)
        if outcome.state == "done":  # the right is for the undo
            outcome = act(limited, store.undoing(claim), store)
        assert missing[0] in outcome.message.partition("missing right: ")[2]


def test_an_object_for_a_namespace_that_does_not_exist_is_skipped(account):
    claim = claim_of(by_name("resource.apply"), {"manifest": configmap("no-such-namespace")})
    outcome = act(account(rights([claim.run.playbook])), claim, FakeAttemptStore())
    assert (outcome.state, outcome.message) == (
        "skipped",
        "namespace no-such-namespace does not exist",
    )


def test_an_applied_object_does_not_take_over_an_object_that_appears_meanwhile(
    admin, namespace, account
):
    claim = claim_of(by_name("resource.apply"), {"manifest": configmap(namespace)})
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    cluster, store = account(rights([claim.run.playbook])), FakeAttemptStore()
    send = cluster.send

    def late(call):
        if not admin.find(f"{path}/incident"):
            admin.create(path, {"metadata": {"name": "incident"}, "data": {"theirs": "1"}})
        return send(call)

    cluster.send = late
    outcome = act(cluster, claim, store)
    assert (outcome.state, "was not created by Tiercel" in outcome.message) == ("failed", True)
    found = admin.get(f"{path}/incident")
    assert (found["data"], found["metadata"].get("labels")) == ({"theirs": "1"}, None)
    assert "stays" in act(cluster, store.undoing(claim), store).message
    assert admin.find(f"{path}/incident")


def test_a_revoked_role_is_deleted_and_its_copy_restores_it(admin, namespace, account):
    user = f"mallory-{namespace}"
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    paths = [f"{RBAC}/clusterrolebindings", f"{RBAC}/namespaces/{namespace}/rolebindings"]
    for path in paths:
        admin.create(path, {"metadata": {"name": user}, "roleRef": role, "subjects": [subject]})
    claim = claim_of(by_name("role.revoke"), {}, audit_event(None, **{"ka.user.name": user}))
    needed = rights([claim.run.playbook])
    for missing in sorted(needed - {("get", "namespaces")}):
        outcome = act(account(needed - {missing}), claim, FakeAttemptStore(), dry=True)
        assert outcome.state == "failed"
        assert missing[0] in outcome.message.partition("missing right: ")[2]
    cluster, store = account(needed), FakeAttemptStore()
    assert act(cluster, claim, store, dry=True).state == "planned"
    assert all(admin.find(f"{path}/{user}") for path in paths)
    done = act(cluster, claim, store)
    assert (done.state, len(done.calls)) == ("done", 2)
    assert not any(admin.find(f"{path}/{user}") for path in paths)
    for path, copy in zip(paths, store.attempt_state["copies"], strict=True):
        restored = admin.apply(f"{path}/{user}", copy)
        assert (restored["roleRef"], restored["subjects"]) == (role, [subject])
        admin.delete(f"{path}/{user}")


@pytest.fixture
def drained(admin, namespace):
    """A node without a kubelet, with two running pods. Yields its name and the path of the pods."""
    name = f"node-{namespace}"
    admin.create("/api/v1/nodes", {"metadata": {"name": name}})
    pods = f"/api/v1/namespaces/{namespace}/pods"
    for pod in ("a", "b"):
        spec = {"nodeName": name, "containers": [{"name": "c", "image": "nginx"}]}
        labels = {"app": pod}
        admin.create(pods, {"metadata": {"name": pod, "labels": labels}, "spec": spec})
        ready = [{"type": "Ready", "status": "True"}]
        admin.patch(f"{pods}/{pod}/status", {"status": {"phase": "Running", "conditions": ready}})
    yield name, pods
    admin.delete(f"/api/v1/nodes/{name}")


def test_a_drain_respects_budgets_and_waits_for_its_pods(admin, namespace, drained, account):
    node, pods = drained
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    event = parse_event({"rule": "R", "time": time, "hostname": node, "output_fields": {}})
    claim = claim_of(by_name("node.drain"), {}, event)
    cluster, store = account(rights([claim.run.playbook])), FakeAttemptStore()

    def drain():
        return act(cluster, replace(claim, attempt_state=dict(store.attempt_state)), store)

    before = whole(admin, f"/api/v1/nodes/{node}")
    planned = act(cluster, claim, store, dry=True)
    assert planned.message == f"drain node {node}: evict 2 pods"
    budget = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}
    admin.create(budget, {"metadata": {"name": "a"}, "spec": spec})
    admin.wait_for(f"{budget}/a", lambda it: it.get("status", {}).get("expectedPods") == 1)
    first = drain()
    assert (first.state, first.answered) == ("waiting", False), first.message
    assert "a stays: " in first.message
    assert "disruption budget" in first.message
    assert admin.get(f"{pods}/b")["metadata"]["deletionTimestamp"]
    assert "deletionTimestamp" not in admin.get(f"{pods}/a")["metadata"]
    admin.delete(f"{budget}/a")
    drain()
    for pod in ("a", "b"):
        admin.delete(f"{pods}/{pod}", {"gracePeriodSeconds": 0})
    done = drain()
    assert (done.state, done.message) == ("done", f"drain node {node}: evict 2 pods")
    assert admin.get(f"/api/v1/nodes/{node}")["spec"]["unschedulable"] is True
    assert act(cluster, store.undoing(claim), store).state == "undone"
    assert whole(admin, f"/api/v1/nodes/{node}") == before


def whole(admin, path):
    """Return an object to the byte, without what the server and its controllers write at any time."""
    found = admin.get(path)
    found.pop("status", None)
    for key in ("managedFields", "resourceVersion"):
        found["metadata"].pop(key, None)
    if found["kind"] == "Node":  # the controllers of nodes follow with a taint and an annotation
        taints = [t for t in found["spec"].pop("taints", []) if "node.kubernetes" not in t["key"]]
        found["spec"] |= {"taints": taints} if taints else {}
        found["metadata"].pop("annotations", None)
    return found
