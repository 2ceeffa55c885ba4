"""components/replicas: what it renders with every other component, and what a real API server makes of it."""

from __future__ import annotations

import copy
import threading

import pytest

from tests.cluster.accounts import apply_manifests, create_account, token_of, wait_for_right
from tests.cluster.api import Api, ApiError
from tests.cluster.custom_kinds import CLOUDNATIVE_PG
from tests.kustomize.rendering import KUSTOMIZE, apply, compose, find, render, validate
from tests.kustomize.test_kustomize import COMPONENTS, environment, names, pod_spec, with_components

DATABASE = ("replicas", "replicas/cloudnative-pg", "replicas/spool")
JOURNAL = ("TIERCEL_JOURNAL", "TIERCEL_JOURNAL_PASSWORD_FILE")
HOME = "/api/v1/namespaces/tiercel"
CLUSTERS = "/apis/postgresql.cnpg.io/v1/namespaces/tiercel/clusters"
ACCOUNT = "tiercel-db"
"""The account of the instances, which the operator of CloudNativePG creates under the name of the Cluster."""


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All other components without replicas, and with replicas as the last one."""
    folder = tmp_path_factory.mktemp("kustomize")
    return (
        with_components(folder / "one", *COMPONENTS),
        with_components(folder / "two", *COMPONENTS, "replicas"),
    )


def volumes(manifests, kind):
    return {it["name"]: it for it in pod_spec(manifests, kind)["volumes"]}


def test_a_deployment_replaces_the_stateful_set_and_keeps_what_the_other_components_changed(
    everything,
):
    one, two = everything
    assert names(one) ^ names(two) == {
        "StatefulSet/tiercel", "Deployment/tiercel", "PodDisruptionBudget/tiercel",
        "PersistentVolumeClaim/tiercel-recording",
    }  # fmt: skip
    assert [it for it in one if it not in two and it["metadata"]["name"] != "tiercel"] == [
        find(one, "PersistentVolumeClaim", "tiercel-recording")
    ]
    before, after = environment(one), environment(two, "Deployment")
    assert {k: v for k, v in before.items() if k not in JOURNAL} == {
        k: v for k, v in after.items() if k not in JOURNAL
    }
    before, after = volumes(one, "StatefulSet"), volumes(two, "Deployment")
    assert after.keys() - before.keys() == {"journal"}  # a Secret; it was a claim
    assert [name for name in before if before[name] != after[name]] == ["recording"]
    assert "persistentVolumeClaim" not in str(after)
    assert next(iter(after)) == "playbooks"


def test_the_order_of_the_components_does_not_matter(everything, tmp_path):
    others = [it for it in COMPONENTS if it != "recording"]
    first = find(with_components(tmp_path / "first", "replicas", *others), "Deployment")
    last = find(with_components(tmp_path / "last", *others, "replicas"), "Deployment")
    for one in (first, last):
        [container] = one["spec"]["template"]["spec"]["containers"]
        container["env"].sort(key=lambda it: it["name"])
        container["volumeMounts"].sort(key=lambda it: it["mountPath"])
        one["spec"]["template"]["spec"]["volumes"].sort(key=lambda it: it["name"])
    assert first == last
    [container] = pod_spec(everything[1], "Deployment")["containers"]
    mounts = {it["name"] for it in container["volumeMounts"]}
    assert mounts == volumes(everything[1], "Deployment").keys()


def test_the_deployment_never_has_less_than_its_replicas_and_spreads_them(everything):
    spec = find(everything[1], "Deployment")["spec"]
    assert spec["replicas"] == 2
    rolling = {"maxUnavailable": 0, "maxSurge": 1}
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": rolling}
    keys = [it["topologyKey"] for it in spec["template"]["spec"]["topologySpreadConstraints"]]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    budget = find(everything[1], "PodDisruptionBudget")["spec"]
    assert budget["selector"] == spec["selector"]
    assert budget["maxUnavailable"] == 1
    assert not spec.keys() & {"serviceName", "podManagementPolicy", "volumeClaimTemplates"}


def test_the_password_is_only_in_a_file(everything):
    [container] = pod_spec(everything[1], "Deployment")["containers"]
    by_name = {it["name"]: it for it in container["env"]}
    address = {"name": "tiercel-journal", "key": "address"}
    assert by_name["TIERCEL_JOURNAL"]["valueFrom"] == {"secretKeyRef": address}
    assert "value" not in by_name["TIERCEL_JOURNAL"]
    assert by_name["TIERCEL_JOURNAL_PASSWORD_FILE"]["value"] == "/etc/tiercel/journal/password"
    assert container["args"] == ["serve"]


def test_each_pod_has_a_volume_for_its_spool(everything, tmp_path):
    made = with_components(tmp_path / "it", *COMPONENTS, "replicas", "replicas/spool")
    assert environment(made, "Deployment") == environment(everything[1], "Deployment") | {
        "TIERCEL_SPOOL": "/var/lib/tiercel/spool.db"
    }
    before, after = volumes(everything[1], "Deployment"), volumes(made, "Deployment")
    assert next(iter(after)) == "playbooks"
    spool = after.pop("spool")["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert spool["accessModes"] == ["ReadWriteOnce"]
    assert after == before
    [container] = pod_spec(made, "Deployment")["containers"]
    mounts = {it["mountPath"]: it["name"] for it in container["volumeMounts"]}
    assert mounts["/var/lib/tiercel"] == "spool"


def test_the_hooks_of_argo_cd_wait_for_the_deployment_and_use_its_image(tmp_path):
    inner = compose(tmp_path / "inner", KUSTOMIZE / "overlays/prod")
    made = render(
        compose(tmp_path / "it", inner, ["replicas", "../argocd/hooks"], namespace="tiercel")
    )
    engine = find(made, "Deployment")
    assert engine["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"] == "1"
    [container] = engine["spec"]["template"]["spec"]["containers"]
    for name in ("tiercel-check", "tiercel-in-force"):
        [job] = find(made, "Job", name)["spec"]["template"]["spec"]["containers"]
        assert job["image"] == container["image"]


# At the API server


@pytest.fixture(scope="module")
def kinds(admin):
    CLOUDNATIVE_PG.install(admin)
    yield
    CLOUDNATIVE_PG.uninstall(admin)


@pytest.mark.cluster
def test_replicas_and_a_cluster_of_cloudnative_pg_are_accepted_and_start(
    admin,
    control_plane,
    applied,
    kinds,  # noqa: ARG001 - the definition of Cluster
    tmp_path,
):
    applied(with_components(tmp_path / "before", *COMPONENTS))
    made = with_components(tmp_path / "after", *COMPONENTS, *DATABASE)
    validate(made, admin, CLOUDNATIVE_PG.definitions())
    applied(made)  # over the StatefulSet, as in a cluster
    stored = admin.get(f"{CLUSTERS}/tiercel-db")["spec"]
    assert stored["instances"] == 3
    synchronous = stored["postgresql"]["synchronous"]
    assert (synchronous["method"], synchronous["number"]) == ("any", 1)
    assert synchronous["dataDurability"] == "required"
    admin.wait_for(
        "/apis/apps/v1/namespaces/tiercel/deployments/tiercel",
        lambda it: it["status"].get("replicas") == 2,
    )
    admin.wait_for(  # a volume for the spool of each pod
        f"{HOME}/persistentvolumeclaims",
        lambda it: sum(one["metadata"]["name"].endswith("-spool") for one in it["items"]) >= 2,
    )
    admin.wait_for(
        "/apis/policy/v1/namespaces/tiercel/poddisruptionbudgets/tiercel",
        lambda it: it.get("status", {}).get("expectedPods", 0) >= 2,
    )
    wrong = copy.deepcopy(find(made, "Cluster", "tiercel-db"))
    wrong["spec"]["postgresql"]["synchronous"]["dataDurability"] = "never"
    with pytest.raises(ApiError, match="dataDurability"):
        apply([wrong], admin, dry_run=True)
    _instances_write_their_status_and_the_engine_does_not(admin, control_plane)


def _instances_write_their_status_and_the_engine_does_not(admin, control_plane):
    """Use tokens of the accounts in the namespace in which the admission policy allows nothing."""
    rule = {
        "apiGroups": ["postgresql.cnpg.io"], "resources": ["clusters/status"], "verbs": ["patch"],
    }  # fmt: skip
    accounts = (ACCOUNT, "tiercel")
    create_account(admin, "tiercel", ACCOUNT)
    subjects = [{"kind": "ServiceAccount", "name": it, "namespace": "tiercel"} for it in accounts]
    metadata, group = {"name": ACCOUNT, "namespace": "tiercel"}, "rbac.authorization.k8s.io"
    version = f"{group}/v1"
    role = {"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": [rule]}
    reference = {"apiGroup": group, "kind": "Role", "name": ACCOUNT}
    binding = {**role, "kind": "RoleBinding", "subjects": subjects, "roleRef": reference}
    del binding["rules"]
    made = apply_manifests(admin, [role, binding])
    try:
        for account in accounts:
            user = f"system:serviceaccount:tiercel:{account}"
            right = "clusters/status.postgresql.cnpg.io"
            wait_for_right(admin, user, "patch", right, namespace="tiercel")
        database, engine = (
            Api(control_plane.server, token_of(admin, "tiercel", it), control_plane.ca)
            for it in accounts
        )
        status = {"status": {"phase": "Cluster in healthy state"}}
        _until_accepted(database, f"{CLUSTERS}/tiercel-db/status", status)
        with pytest.raises(ApiError, match="Tiercel changes nothing in"):
            engine.patch(f"{CLUSTERS}/tiercel-db/status", status)
        database.close()
        engine.close()
    finally:
        for path in [*made, f"{HOME}/serviceaccounts/{ACCOUNT}"]:
            admin.delete(path)


def _until_accepted(client, path, body):
    """Patch until the API server has compiled the changed policy."""
    pause, said = threading.Event(), ""
    for _ in range(1200):
        try:
            client.patch(path, body)
        except ApiError as error:
            said = str(error)
            pause.wait(0.05)
        else:
            return
    raise AssertionError(said)
