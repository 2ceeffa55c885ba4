"""The ValidatingAdmissionPolicy of base, against someone who has stolen the engine's token.

RBAC is made wider than it is, so that only the policy is in the way.
"""

from __future__ import annotations

import contextlib
import threading

import pytest

from tests.cluster.accounts import create_account, token_of, wait_for_right
from tests.cluster.api import Api, ApiError
from tests.cluster.custom_kinds import POLICIES
from tests.cluster.fixtures import create_engine_token
from tests.kustomize.rendering import KUSTOMIZE, compose, find, path_of, render

pytestmark = pytest.mark.cluster
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
NETWORK = "/apis/networking.k8s.io/v1/namespaces"
CNP = {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy"}
CNPS = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"
CALICO = "/apis/crd.projectcalico.org/v1"
OWN = {"app.kubernetes.io/managed-by": "tiercel"}
POD = {"spec": {"containers": [{"name": "main", "image": "nginx"}]}}


@pytest.fixture
def thief(admin, control_plane):
    """A client with the engine's token, which RBAC allows everything, once the policy is in force."""
    token = create_engine_token(admin)  # applies the policy again, whatever other tests left
    subject = {"kind": "ServiceAccount", "name": "tiercel", "namespace": "tiercel"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    all_rights = {"metadata": {"name": "too-wide"}, "roleRef": role, "subjects": [subject]}
    admin.create(BINDINGS, all_rights)
    client = Api(control_plane.server, token, control_plane.ca)
    try:
        _wait_until_in_force(client)
        yield client
    finally:
        client.close()
        admin.delete(f"{BINDINGS}/too-wide")


def _wait_until_in_force(client):
    """Wait until the API server has compiled the policy and read its parameter, and RBAC the binding."""
    pause, said = threading.Event(), "it was accepted"
    for _ in range(1200):
        try:
            client.create("/api/v1/namespaces/kube-public/configmaps", named("probe"))
            client.delete("/api/v1/namespaces/kube-public/configmaps/probe")
        except ApiError as error:
            said = str(error)
            if "ValidatingAdmissionPolicy" in said:
                return
        pause.wait(0.05)
    raise AssertionError(f"the policy was never in force: {said}")


def named(name, **more):
    return {"metadata": {"name": name, **more}}


def refused(message, function, *arguments):
    with pytest.raises(ApiError, match=message) as error:
        function(*arguments)
    assert "ValidatingAdmissionPolicy 'tiercel'" in str(error.value)


def protected_namespaces(admin, namespace):
    """Yield a namespace of each protected kind. The given one gets the label."""
    yield from ("kube-system", "kube-public", "kube-node-lease", "tiercel")
    admin.patch(
        f"/api/v1/namespaces/{namespace}",
        {"metadata": {"labels": {"tiercel.dev/protected": "true"}}},
    )
    yield namespace


def test_a_stolen_token_changes_nothing_in_protected_namespaces(admin, thief, namespace):
    for protected in protected_namespaces(admin, namespace):
        pods, said = f"/api/v1/namespaces/{protected}/pods", "Tiercel"
        restricted = {
            "name": "main", "image": "nginx",
            "securityContext": {
                "runAsNonRoot": True, "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
            },
        }  # fmt: skip
        admin.create(pods, {**named("victim"), "spec": {"containers": [restricted]}})
        policies = f"{NETWORK}/{protected}/networkpolicies"
        try:
            refused(said, thief.patch, f"{pods}/victim", {"metadata": {"labels": {"a": "b"}}})
            refused(said, thief.delete, f"{pods}/victim")
            refused(said, thief.create, f"{pods}/victim/eviction", named("victim"))
            refused(
                said,
                thief.create,
                policies,
                {**named("cut", labels=OWN), "spec": {"podSelector": {}}},
            )
            refused(said, thief.create, f"/api/v1/namespaces/{protected}/configmaps", named("x"))
            refused(
                said,
                thief.patch,
                f"/api/v1/namespaces/{protected}",
                {"metadata": {"labels": {"a": "b"}}},
            )
            assert thief.get(f"{pods}/victim")["metadata"].get("labels") is None
        finally:
            admin.delete(f"{pods}/victim", {"gracePeriodSeconds": 0})


def test_a_stolen_token_does_not_take_the_protection_away(admin, thief, namespace):
    path = f"/api/v1/namespaces/{namespace}"
    admin.patch(path, {"metadata": {"labels": {"tiercel.dev/protected": "true"}}})
    refused(
        "protects this",
        thief.patch,
        path,
        {"metadata": {"labels": {"tiercel.dev/protected": None}}},
    )
    node = "/api/v1/nodes/worker-2"
    admin.patch(node, {"metadata": {"labels": {"tiercel.dev/protected": "true"}}})
    try:
        refused("protects this", thief.patch, node, {"spec": {"unschedulable": True}})
    finally:
        admin.patch(node, {"metadata": {"labels": {"tiercel.dev/protected": None}}})
    thief.patch(node, {"metadata": {"labels": {"seen": "true"}}})
    admin.patch(node, {"metadata": {"labels": {"seen": None}}})


def test_a_stolen_token_changes_only_labels_and_annotations_of_a_pod(admin, thief, namespace):
    pods = f"/api/v1/namespaces/{namespace}/pods"
    admin.create(pods, {**named("victim"), **POD})
    pod = f"{pods}/victim"
    only = "only the labels and annotations"
    image = [{"name": "main", "image": "evil"}]
    refused(only, thief.patch, pod, {"spec": {"containers": image}})
    refused(only, thief.patch, pod, {"spec": {"activeDeadlineSeconds": 1}})
    refused(only, thief.patch, pod, {"metadata": {"finalizers": ["evil.example/stay"]}})
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1"}
    refused(only, thief.patch, pod, {"metadata": {"ownerReferences": [owner]}})
    no = "no subresource"
    ephemeral = [{"name": "debug", "image": "evil"}]
    refused(
        no, thief.patch, f"{pod}/ephemeralcontainers", {"spec": {"ephemeralContainers": ephemeral}}
    )
    refused(no, thief.patch, f"{pod}/status", {"status": {"phase": "Failed"}})
    refused(no, thief.create, f"{pod}/exec?command=sh&container=main", None)
    refused("creates no pods", thief.create, pods, {**named("own"), **POD})
    changed = thief.patch(pod, {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}})
    assert changed["metadata"]["labels"] == {"a": "b"}
    thief.create(f"{pod}/eviction", named("victim"))
    admin.wait_for(pod, lambda it: it is None)
    admin.create(pods, {**named("victim"), **POD})
    thief.delete(pod)


def test_pod_commands_allows_commands_and_debug_containers_and_nothing_else(
    admin, thief, namespace, tmp_path
):
    folder = compose(tmp_path / "commands", KUSTOMIZE / "base", ["pod-commands"])
    wider = find(render(folder), "ValidatingAdmissionPolicy")
    changed = admin.apply(path_of(wider, admin), wider)
    generation = changed["metadata"]["generation"]
    admin.wait_for(
        path_of(wider, admin),
        lambda it: it["status"].get("observedGeneration") == generation,
    )
    pods = f"/api/v1/namespaces/{namespace}/pods"
    admin.create(pods, {**named("asked"), **POD})
    pod = f"{pods}/asked"
    no = "no subresource of a pod but eviction, exec and ephemeralcontainers"
    debug = {
        "spec": {"ephemeralContainers": [{"name": "debug", "image": "tools", "command": ["true"]}]}
    }
    pause = threading.Event()
    for _ in range(1200):  # until the API server has compiled the policy
        with contextlib.suppress(ApiError):
            thief.patch(f"{pod}/ephemeralcontainers", debug)
            break
        pause.wait(0.05)
    assert admin.get(pod)["spec"]["ephemeralContainers"][0]["name"] == "debug"
    with pytest.raises(ApiError) as error:  # it is no WebSocket, and no container runs
        thief.create(f"{pod}/exec?command=sh&container=main", None)
    assert "ValidatingAdmissionPolicy" not in str(error.value)
    refused(no, thief.patch, f"{pod}/status", {"status": {"phase": "Failed"}})
    refused(no, thief.create, f"{pod}/attach?container=main", None)
    refused("creates no pods", thief.create, pods, {**named("own"), **POD})
    refused("only the labels", thief.patch, pod, {"spec": {"activeDeadlineSeconds": 1}})
    kube = "/api/v1/namespaces/kube-system/pods"
    admin.create(kube, {**named("asked"), **POD})
    try:
        refused("changes nothing", thief.create, f"{kube}/asked/exec?command=sh", None)
    finally:
        admin.delete(f"{kube}/asked")


def test_a_stolen_token_removes_no_network_policy_of_another_owner(admin, thief, namespace):
    policies = f"{NETWORK}/{namespace}/networkpolicies"
    spec = {"podSelector": {}, "policyTypes": ["Ingress"]}
    admin.create(policies, {**named("deny-all"), "spec": spec})
    only = "only its own NetworkPolicies"
    refused(only, thief.delete, f"{policies}/deny-all")
    refused(only, thief.patch, f"{policies}/deny-all", {"spec": {"ingress": [{}]}})
    refused(only, thief.patch, f"{policies}/deny-all", {"metadata": {"labels": OWN}})
    thief.create(policies, {**named("cut", labels=OWN), "spec": spec})
    thief.delete(f"{policies}/cut")


@pytest.fixture
def kinds(admin):
    """The kinds of Cilium, Calico and ClusterNetworkPolicy."""
    POLICIES.install(admin)
    yield
    POLICIES.uninstall(admin)


def cluster_policy(name, subject):
    spec = {"tier": "Admin", "priority": 0, "subject": subject}
    deny = {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}
    return {**CNP, **named(name, labels=OWN), "spec": {**spec, "egress": [deny]}}


def in_namespace(name, **selector):
    labels = {"matchLabels": {"kubernetes.io/metadata.name": name}}
    return {"pods": {"namespaceSelector": labels, "podSelector": selector}}


def test_a_stolen_token_cuts_off_no_protected_namespace_with_another_kind(
    admin,
    thief,
    namespace,
    kinds,  # noqa: ARG001 - kinds: they are served
):
    some = {"matchLabels": {"tiercel.dev/quarantine": "x"}}
    said = "selects some pods of one namespace"
    for subject in (
        {"namespaces": {}},
        {"pods": {"podSelector": some}},
        in_namespace("kube-system", **some),
        in_namespace("tiercel", **some),
        in_namespace(namespace),
    ):
        refused(said, thief.create, CNPS, cluster_policy("cut", subject))
    everywhere = {"apiVersion": "crd.projectcalico.org/v1", "kind": "GlobalNetworkPolicy"}
    refused(
        said,
        thief.create,
        f"{CALICO}/globalnetworkpolicies",
        {**everywhere, **named("cut"), "spec": {}},
    )
    allowed = in_namespace(namespace, **some)
    thief.create(CNPS, cluster_policy(f"cut-{namespace}", allowed))
    wider = {"spec": {"subject": {"pods": None, "namespaces": {}}}}
    refused(said, thief.patch, f"{CNPS}/cut-{namespace}", wider)
    thief.delete(f"{CNPS}/cut-{namespace}")
    admin.create(
        CNPS, {**cluster_policy(f"theirs-{namespace}", allowed), **named(f"theirs-{namespace}")}
    )
    refused("only its own", thief.delete, f"{CNPS}/theirs-{namespace}")
    admin.delete(f"{CNPS}/theirs-{namespace}")
    cilium = f"/apis/cilium.io/v2/namespaces/{namespace}/ciliumnetworkpolicies"
    spec = {"endpointSelector": {}, "egressDeny": [{"toEntities": ["all"]}]}
    kind = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy"}
    admin.create(cilium, {**kind, **named("theirs"), "spec": spec})
    refused("only its own", thief.delete, f"{cilium}/theirs")


def test_the_policy_limits_nobody_else(admin, thief, namespace):  # noqa: ARG001 - thief: the policy is in force
    pods = f"/api/v1/namespaces/{namespace}/pods"
    admin.create(pods, {**named("free"), **POD})
    changed = admin.patch(
        f"{pods}/free", {"spec": {"containers": [{"name": "main", "image": "b"}]}}
    )
    assert changed["spec"]["containers"][0]["image"] == "b"


def test_the_policy_covers_every_resource_and_denies_if_it_cannot_be_evaluated():
    base = render(KUSTOMIZE / "base")
    spec = find(base, "ValidatingAdmissionPolicy")["spec"]
    assert spec["failurePolicy"] == "Fail"
    [rule] = spec["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["*/*"], ["*"])
    binding = find(base, "ValidatingAdmissionPolicyBinding")["spec"]
    assert binding["validationActions"] == ["Deny"]
    # Deny would block every change in the cluster after the ServiceAccount is deleted.
    assert binding["paramRef"]["parameterNotFoundAction"] == "Allow"


@pytest.mark.usefixtures("thief")
def test_an_account_that_the_engine_can_impersonate_has_the_same_limits(
    admin, control_plane, namespace
):
    create_account(admin, "tiercel", "responder")
    subject = {"kind": "ServiceAccount", "name": "responder", "namespace": "tiercel"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    bound = {"metadata": {"name": "responder"}, "roleRef": role, "subjects": [subject]}
    admin.create(BINDINGS, bound)
    account = Api(control_plane.server, token_of(admin, "tiercel", "responder"), control_plane.ca)
    try:
        wait_for_right(admin, "system:serviceaccount:tiercel:responder", "create", "pods")
        pods = f"/api/v1/namespaces/{namespace}/pods"
        refused("creates no pods", account.create, pods, {**named("thief"), **POD})
    finally:
        account.close()
        admin.delete(f"{BINDINGS}/responder")
        admin.delete("/api/v1/namespaces/tiercel/serviceaccounts/responder")
