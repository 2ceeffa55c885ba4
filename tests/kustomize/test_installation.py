"""kustomize/ on a real API server: overlays one after the other, another namespace, another registry."""

from __future__ import annotations

import threading

import pytest
from engine.cluster.network_policies import Peer, is_allowed

from tests.cluster.api import Api, ApiError
from tests.cluster.fixtures import wait_for_rights
from tests.kustomize.rendering import KUSTOMIZE, compose, find, path_of, render
from tests.kustomize.test_kustomize import COMPONENTS, identities, pod_spec, with_components

PROD = KUSTOMIZE / "overlays/prod"


def is_other(before):
    return lambda pod: pod is not None and pod["metadata"]["uid"] != before


def pods_of(manifests):
    """Yield a pod for each workload, as its controller would create it."""
    for it in manifests:
        if it["kind"] in ("StatefulSet", "Deployment", "Job"):
            metadata = it["spec"]["template"]["metadata"] | {
                "namespace": it["metadata"]["namespace"]
            }
            yield {"metadata": metadata, "spec": it["spec"]["template"]["spec"]}


def pod(namespace, **labels):
    return {"metadata": {"namespace": namespace, "labels": labels}, "spec": {}}


def named(name, namespace):
    return pod(namespace, **{"app.kubernetes.io/name": name})


# One overlay over the other


@pytest.mark.cluster
def test_overlays_can_be_applied_one_after_the_other_and_keep_the_journal(admin, applied):
    before = claim = None
    home = "/api/v1/namespaces/tiercel"
    for name in ("overlays/dev", "overlays/staging", "overlays/prod", "base"):
        applied(render(KUSTOMIZE / name))
        made = admin.wait_for(f"{home}/pods/tiercel-0", is_other(before))
        env = {it["name"]: it.get("value") for it in made["spec"]["containers"][0]["env"]}
        acts = name in ("overlays/staging", "overlays/prod")
        assert env["TIERCEL_DRY_RUN"] == str(not acts).lower()
        assert made["spec"]["priority"] == 100_000_000
        kept = admin.get(f"{home}/persistentvolumeclaims/journal-tiercel-0")
        assert claim in (None, kept["metadata"]["uid"]), "the journal's volume was replaced"
        before, claim = made["metadata"]["uid"], kept["metadata"]["uid"]


@pytest.mark.cluster
def test_all_components_together_are_accepted_and_pod_security_admits_every_pod(
    admin, applied, tmp_path
):
    manifests = with_components(tmp_path / "all", *COMPONENTS)
    applied(manifests)
    # PodSecurity only warns about a StatefulSet or Deployment. It refuses the pod.
    names = {it["metadata"]["labels"]["app.kubernetes.io/name"] for it in pods_of(manifests)}
    assert len(names) == 4
    admin.wait_for(
        "/api/v1/namespaces/tiercel/pods",
        lambda it: (
            names <= {one["metadata"]["labels"]["app.kubernetes.io/name"] for one in it["items"]}
        ),
    )


@pytest.mark.parametrize("made", [PROD, KUSTOMIZE / "overlays/staging", "all"])
def test_every_container_is_restricted_and_has_a_read_only_root_file_system(made, tmp_path):
    manifests = with_components(tmp_path / "all", *COMPONENTS) if made == "all" else render(made)
    for one in pods_of(manifests):
        for container in one["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
        assert one["spec"]["securityContext"]["runAsNonRoot"] is True
        assert one["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert one["spec"]["priorityClassName"] == "tiercel"


@pytest.mark.cluster
def test_the_namespace_refuses_a_pod_that_is_less_confined(admin, applied):
    applied(render(KUSTOMIZE / "base"))
    container = {"name": "main", "image": "busybox", "securityContext": {"privileged": True}}
    body = {"metadata": {"name": "bare"}, "spec": {"containers": [container]}}
    with pytest.raises(ApiError, match='violates PodSecurity "restricted:latest"') as refused:
        admin.create("/api/v1/namespaces/tiercel/pods", body)
    assert refused.value.status == 403


# The network


SIDEKICK, FALCO = named("falcosidekick", "falco"), named("falco", "falco")
PROMETHEUS, OTHER = named("prometheus", "monitoring"), named("web", "shop")
OWN_SIDEKICK = named("falcosidekick", "tiercel")
OPERATOR = pod("tiercel", **{"tiercel.dev/operator": "true"})
IMPOSTORS = (
    named("falcosidekick", "shop"), named("prometheus", "shop"), named("web", "falco"),
    named("web", "monitoring"), named("web", "tiercel"), pod("shop", **{"tiercel.dev/operator": "true"}),
)  # fmt: skip
EVERYONE = (SIDEKICK, FALCO, PROMETHEUS, OTHER, OWN_SIDEKICK, OPERATOR, *IMPOSTORS)


def reach(manifests, name, port):
    """Return who reaches a port of the pods of a workload."""
    [target] = [
        it
        for it in pods_of(manifests)
        if it["metadata"]["labels"]["app.kubernetes.io/name"] == name
    ]
    policies = [it for it in manifests if it["kind"] == "NetworkPolicy"]
    return [it for it in EVERYONE if is_allowed(policies, target, "Ingress", Peer(pod=it), port)]


def test_only_senders_reach_the_event_port_and_only_operators_the_admin_port_of_base():
    base = render(KUSTOMIZE / "base")
    assert reach(base, "tiercel", 8080) == [SIDEKICK, FALCO]
    assert reach(base, "tiercel", 8081) == [OPERATOR]
    assert reach(base, "tiercel", 22) == []


def test_components_open_only_the_ports_of_their_purpose(tmp_path):
    made = with_components(tmp_path / "all", *COMPONENTS)
    assert reach(made, "tiercel", 8080) == [SIDEKICK, FALCO, OWN_SIDEKICK]
    assert reach(made, "tiercel", 8081) == [PROMETHEUS, OPERATOR]
    assert reach(made, "falcosidekick", 2801) == [FALCO]
    for name, port in (("tiercel-redis", 6379), ("tiercel-nats", 4222)):
        assert reach(made, name, port) == [SIDEKICK, OWN_SIDEKICK]
        [buffer] = [
            it for it in pods_of(made) if it["metadata"]["labels"]["app.kubernetes.io/name"] == name
        ]
        policies = [it for it in made if it["kind"] == "NetworkPolicy"]
        engine = Peer(pod=next(pods_of(render(KUSTOMIZE / "base"))))
        assert is_allowed(policies, buffer, "Ingress", engine, port)
        assert not is_allowed(policies, buffer, "Egress", Peer(ip="192.0.2.1"), 443)


# One line for each


@pytest.mark.parametrize("name", ["base", "overlays/dev", "overlays/staging", "overlays/prod"])
def test_one_line_moves_everything_to_another_namespace(tmp_path, name):
    first = render(KUSTOMIZE / name)
    second = render(compose(tmp_path / "other", KUSTOMIZE / name, namespace="tiercel-two"))
    assert len(second) == len(first)
    assert set(identities(first)) & set(identities(second)) == set()
    assert {it["metadata"].get("namespace", "tiercel-two") for it in second} == {"tiercel-two"}
    binding = find(second, "ClusterRoleBinding", "tiercel-two")
    assert (
        binding["roleRef"]["name"] == find(second, "ClusterRole", "tiercel-two")["metadata"]["name"]
    )
    account = {"kind": "ServiceAccount", "name": "tiercel", "namespace": "tiercel-two"}
    assert binding["subjects"] == [account]
    policy = find(second, "ValidatingAdmissionPolicyBinding", "tiercel-two")["spec"]
    assert policy["policyName"] == "tiercel-two"
    assert policy["paramRef"]["namespace"] == "tiercel-two"
    assert pod_spec(second)["priorityClassName"] == "tiercel-two"


def test_one_line_takes_the_image_from_another_registry(tmp_path):
    image = {"name": "ghcr.io/tiercel/tiercel", "newName": "registry.example.com/mirror/tiercel"}
    before = render(KUSTOMIZE / "overlays/prod")
    after = render(compose(tmp_path / "own", PROD, images=[image]))
    [old], [new] = pod_spec(before)["containers"], pod_spec(after)["containers"]
    tag = old["image"].partition(":")[2]
    assert new["image"] == f"registry.example.com/mirror/tiercel:{tag}"
    assert {**new, "image": old["image"]} == old


@pytest.mark.cluster
def test_two_installations_run_in_one_cluster_and_each_has_its_own_rights_and_limits(
    admin, control_plane, applied, tmp_path
):
    first = render(KUSTOMIZE / "overlays/staging")
    second = render(
        compose(tmp_path / "two", KUSTOMIZE / "overlays/staging", namespace="tiercel-two")
    )
    applied(first)
    applied(second)
    for name in ("tiercel", "tiercel-two"):
        admin.wait_for(f"/api/v1/namespaces/{name}/pods/tiercel-0", lambda it: it is not None)
        wait_for_rights(admin, f"system:serviceaccount:{name}:tiercel")
    account = "/api/v1/namespaces/tiercel-two/serviceaccounts/tiercel"
    token = admin.create(f"{account}/token", {"spec": {"expirationSeconds": 7200}})["status"][
        "token"
    ]
    thief = Api(control_plane.server, token, control_plane.ca)
    said = ""
    for _ in range(1200):  # the API server compiles the second policy meanwhile
        try:
            thief.delete("/api/v1/namespaces/tiercel/pods/tiercel-0?dryRun=All")
        except ApiError as error:
            said = str(error)
            break
        threading.Event().wait(0.05)
    thief.close()
    assert "ValidatingAdmissionPolicy 'tiercel-two'" in said
    for manifest in second:
        if manifest["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            admin.delete(path_of(manifest, admin))
    wait_for_rights(admin)  # the first keeps its rights without the second


# Rights


def allowed(admin, namespace, verb, resource, group=""):
    """Ask the API server whether the engine's account has a right."""
    wanted = {"namespace": namespace, "verb": verb, "resource": resource, "group": group}
    user = {
        "user": "system:serviceaccount:tiercel-narrow:tiercel",
        "groups": ["system:authenticated"],
    }
    review = {"spec": {**user, "resourceAttributes": wanted}}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return admin.create(path, review)["status"]["allowed"]


@pytest.mark.cluster
def test_with_namespaced_rbac_the_engine_acts_only_in_chosen_namespaces(
    admin, applied, namespace, tmp_path
):
    # In a namespace of its own, so that the rights of the other tests stay.
    made = with_components(tmp_path / "narrow", "namespaced-rbac", namespace="tiercel-narrow")
    identity = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding")
    applied(it for it in made if it["kind"] in identity)
    rights = KUSTOMIZE / "components/namespaced-rbac/namespace"
    chosen = render(compose(tmp_path / "chosen", rights, namespace=namespace))
    find(chosen, "RoleBinding")["subjects"][0]["namespace"] = "tiercel-narrow"
    applied(chosen)
    pause = threading.Event()
    for _ in range(200):  # the authorizer reads the roles through its watch
        if allowed(admin, namespace, "delete", "pods") and allowed(admin, "", "get", "nodes"):
            break
        pause.wait(0.05)
    networking = "networking.k8s.io"
    for verb, resource, group in (
        ("list", "pods", ""), ("patch", "pods", ""), ("delete", "pods", ""), ("create", "events", ""),
        ("create", "networkpolicies", networking), ("delete", "networkpolicies", networking),
    ):  # fmt: skip
        assert allowed(admin, namespace, verb, resource, group)
        assert not allowed(admin, "default", verb, resource, group)
    assert allowed(admin, "", "get", "namespaces")
    assert allowed(admin, "default", "list", "networkpolicies", networking)
    for namespaced in (namespace, "default"):
        assert not allowed(admin, namespaced, "get", "secrets")
