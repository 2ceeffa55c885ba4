"""What kustomize/ renders, and what a real API server makes of it."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from engine.actions.registry import load_actions
from engine.language.folder import read_files
from tests.cluster.api import Api, ApiError
from tests.cluster.fixtures import wait_for_rights
from tests.support.playbooks import new_loader

ROOT = Path(__file__).parents[2]
PLAYBOOKS = ROOT / "playbooks"
KUSTOMIZE = ROOT / "kustomize"
OVERLAYS = ("base", "overlays/dev", "overlays/prod")
DRY_RUN = {"base": "true", "overlays/dev": "true", "overlays/prod": "false"}
PATH = "/api/v1/namespaces/tiercel"
STATEFUL_SETS = "/apis/apps/v1/namespaces/tiercel/statefulsets"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/tiercel/networkpolicies"
RIGHTS = {
    "pods": {"get", "list", "patch", "delete"},
    "namespaces": {"get"},
    "nodes": {"get"},
    "events": {"get", "create"},
    "networkpolicies.networking.k8s.io": {"get", "list", "create", "patch", "delete"},
    "replicasets.apps": {"get"},
    "deployments.apps": {"get"},
    "statefulsets.apps": {"get"},
    "daemonsets.apps": {"get"},
    "jobs.batch": {"get"},
    "cronjobs.batch": {"get"},
}


def kubectl(*arguments, given=None):
    """What kubectl prints; the wheel's, beside the interpreter, before the machine's own."""
    beside = Path(sys.executable).parent / "kubectl"
    command = str(beside) if beside.exists() else shutil.which("kubectl")
    done = subprocess.run(
        [command, *arguments], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def render(overlay):
    """The overlay's YAML, by the real kustomize."""
    return kubectl("kustomize", str(ROOT / "kustomize" / overlay))


def rendered(overlay, kind, name="tiercel"):
    """The one object of that kind and name."""
    [found] = [
        it
        for it in yaml.safe_load_all(render(overlay))
        if (it["kind"], it["metadata"]["name"]) == (kind, name)
    ]
    return found


def pod_spec(overlay):
    return rendered(overlay, "StatefulSet")["spec"]["template"]["spec"]


def environment(container):
    return {it["name"]: it.get("value") for it in container["env"]}


def volume(name):
    [found] = [it for it in pod_spec("base")["volumes"] if it["name"] == name]
    return found


@pytest.fixture
def apply(control_plane, admin, tmp_path):
    """A function that applies YAML with the real kubectl; what it made is removed afterwards."""
    config = control_plane.kubeconfig(control_plane.admin_token, tmp_path / "kubeconfig.json")
    flags = ("--kubeconfig", str(config), "--cache-dir", str(tmp_path / "cache"))
    yield lambda given: kubectl(*flags, "apply", "--server-side", "-f", "-", given=given)
    # The namespace and its account stay: they are the engine's identity in other tests.
    admin.delete(f"{STATEFUL_SETS}/tiercel")
    admin.delete(f"{PATH}/configmaps/tiercel-playbooks")
    admin.delete(f"{PATH}/services/tiercel")
    admin.delete(f"{POLICIES}/tiercel")
    admin.wait_for(f"{PATH}/pods/tiercel-0", lambda pod: pod is None)


def second_installation(folder):
    """The YAML of the overlay that docs/install.md shows for a second installation."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/install.md").read_text(), re.DOTALL)
    [shown] = [block for block in blocks if "nameSuffix" in block]
    overlays = os.path.relpath(KUSTOMIZE / "overlays", folder)
    (folder / "kustomization.yaml").write_text(shown.replace("../", f"{overlays}/"))
    return kubectl("kustomize", str(folder))


def identities(text):
    return {
        (it["kind"], it["metadata"].get("namespace"), it["metadata"]["name"])
        for it in yaml.safe_load_all(text)
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_prod_acts(overlay):
    [container] = pod_spec(overlay)["containers"]
    variables = [it for it in container["env"] if it["name"] == "TIERCEL_DRY_RUN"]
    assert variables == [{"name": "TIERCEL_DRY_RUN", "value": DRY_RUN[overlay]}]


def test_prod_is_base_but_for_acting_and_its_values():
    prod = render("overlays/prod")
    acting = "- name: TIERCEL_DRY_RUN\n          value: "
    values = "shellDeleteMode: "
    expected = render("base").replace(f'{acting}"true"', f'{acting}"false"')
    before, after = (
        expected.partition("  values.yaml: |")[0],
        prod.partition("  values.yaml: |")[0],
    )
    assert before == after
    assert f"{values}dryRun" in render("base")
    assert f"{values}enforce" in prod
    tail = "kind: ConfigMap"
    assert (
        expected.partition(tail)[2].partition("---")[2]
        == prod.partition(tail)[2].partition("---")[2]
    )


@pytest.fixture
def scraped(tmp_path):
    """Base with the component that lets Prometheus in: its objects by kind and name."""
    found = {
        name: os.path.relpath(KUSTOMIZE / path, tmp_path)
        for name, path in {"resources": "base", "components": "components/metrics"}.items()
    }
    kustomization = {"kind": "Kustomization", **{name: [path] for name, path in found.items()}}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    objects = yaml.safe_load_all(kubectl("kustomize", str(tmp_path)))
    return {(it["kind"], it["metadata"]["name"]): it for it in objects}


def test_with_the_metrics_component_operators_are_asked_for_tokens_and_prometheus_finds_the_port(
    scraped,
):
    plain = {(it["kind"], it["metadata"]["name"]): it for it in yaml.safe_load_all(render("base"))}
    service = scraped.pop(("Service", "tiercel-metrics"))
    assert [(port["name"], port["port"]) for port in service["spec"]["ports"]] == [("admin", 8081)]
    assert service["metadata"]["namespace"] == "tiercel"
    assert service["spec"]["publishNotReadyAddresses"] is True
    place = ("StatefulSet", "tiercel")
    spec = scraped.pop(place)["spec"]["template"]["spec"]
    pods, labels = plain.pop(place)["spec"]["template"], service["spec"]["selector"]
    assert labels.items() <= pods["metadata"]["labels"].items()
    assert scraped == plain
    [container], [before] = spec["containers"], pods["spec"]["containers"]
    added = environment(container).items() - environment(before).items()
    assert added == {("TIERCEL_OPERATORS_FILE", "/etc/tiercel/operators/operators")}
    assert environment(container)["TIERCEL_ADMIN_LISTEN"] == "0.0.0.0:8081"
    [mount] = [it for it in container["volumeMounts"] if it not in before["volumeMounts"]]
    [made] = [it for it in spec["volumes"] if it not in pods["spec"]["volumes"]]
    assert (mount["name"], mount["mountPath"]) == (made["name"], "/etc/tiercel/operators")
    assert made["secret"]["secretName"] == "tiercel-operators"
    assert not made["secret"].get("optional", False)


def test_every_overlay_has_the_same_claim_because_kubernetes_does_not_accept_a_change():
    claims = [
        rendered(overlay, "StatefulSet")["spec"]["volumeClaimTemplates"] for overlay in OVERLAYS
    ]
    assert claims[0] == claims[1] == claims[2]
    assert claims[0][0]["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert pod_spec("overlays/dev") == pod_spec("base")


def test_a_second_installation_shares_no_object_with_the_first(tmp_path):
    second = identities(second_installation(tmp_path))
    assert len(second) == len(identities(render("base")))
    assert second & identities(render("base")) == set()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_senders_reach_the_event_port_and_only_monitoring_the_admin_port(overlay):
    spec = rendered(overlay, "NetworkPolicy")["spec"]
    labels = rendered(overlay, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= labels.items()
    assert spec["policyTypes"] == ["Ingress"]
    allowed = {
        port["port"]: [peer["namespaceSelector"]["matchLabels"] for peer in rule["from"]]
        for rule in spec["ingress"]
        for port in rule["ports"]
    }
    assert allowed == {
        "events": [{"kubernetes.io/metadata.name": "falco"}],
        "admin": [{"kubernetes.io/metadata.name": "monitoring"}],
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_config_map_carries_every_playbook_under_a_flat_key(overlay):
    carried = rendered(overlay, "ConfigMap", "tiercel-playbooks")
    assert carried["metadata"]["namespace"] == "tiercel"
    files = {path.name: path for path in PLAYBOOKS.glob("*.yaml")}
    at_home = {name for name in files if name.endswith(".test.yaml")} | {"kustomization.yaml"}
    own = KUSTOMIZE / overlay / "values.yaml"
    files["values.yaml"] = own if own.exists() else files["values.yaml"]
    assert carried["data"] == {
        name: path.read_text() for name, path in files.items() if name not in at_home
    }
    assert len(carried["data"]) > 1


def test_the_namespace_comes_first_so_that_one_apply_does():
    first = next(yaml.safe_load_all(render("base")))
    assert (first["kind"], first["metadata"]["name"]) == ("Namespace", "tiercel")


def test_the_engine_may_do_just_what_its_actions_need():
    granted = {}
    for rule in rendered("base", "ClusterRole")["rules"]:
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                name = f"{resource}.{group}" if group else resource
                granted.setdefault(name, set()).update(rule["verbs"])
    assert granted == RIGHTS
    binding = rendered("base", "ClusterRoleBinding")
    account = {"kind": "ServiceAccount", "name": "tiercel", "namespace": "tiercel"}
    assert binding["subjects"] == [account]
    kinds = [it["kind"] for it in yaml.safe_load_all(render("base"))]
    assert [kind for kind in kinds if "Role" in kind] == ["ClusterRole", "ClusterRoleBinding"]


def test_what_the_shipped_playbooks_need_is_granted():
    loaded = new_loader().load(read_files([PLAYBOOKS])).usable()
    needed = {("get", "namespaces"), ("get", "nodes"), ("list", "pods")}  # the engine's own reads
    for playbook in loaded.playbooks:
        for step in playbook.steps:
            needed |= load_actions()[step.action].needs(step.parameters)
    granted = {(verb, resource) for resource, verbs in RIGHTS.items() for verb in verbs}
    assert needed <= granted


def test_only_the_event_port_is_served():
    [port] = rendered("base", "Service")["spec"]["ports"]
    assert (port["name"], port["port"], port["targetPort"]) == ("events", 8080, "events")


def test_every_path_in_the_environment_is_on_a_volume():
    [container] = pod_spec("base")["containers"]
    mounted = {it["name"]: it["mountPath"] for it in container["volumeMounts"]}
    variables = environment(container)
    assert variables["TIERCEL_PLAYBOOKS"] == mounted["playbooks"]
    assert variables["TIERCEL_SECRETS_DIR"] == mounted["secrets"]
    assert Path(variables["TIERCEL_JOURNAL"]).parent == Path(mounted["journal"])
    assert Path(variables["TIERCEL_TOKEN_FILE"]) == Path(mounted["tokens"], "tokens")
    assert "subPath" not in str(container)


def test_the_tokens_of_senders_are_required_and_other_secrets_are_not():
    assert volume("tokens")["secret"]["secretName"] == "tiercel-tokens"
    assert not volume("tokens")["secret"].get("optional", False)
    assert volume("secrets")["secret"]["optional"] is True


def test_the_image_is_that_of_the_version_on_top_of_the_changelog():
    version = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    [container] = pod_spec("base")["containers"]
    assert container["image"] == f"ghcr.io/tiercel/tiercel:{version[1]}"


def check_pod(pod, overlay):
    [container] = pod["spec"]["containers"]
    assert environment(container)["TIERCEL_DRY_RUN"] == DRY_RUN[overlay]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["spec"]["securityContext"]["runAsUser"] == 65532
    assert pod["spec"]["terminationGracePeriodSeconds"] == 45
    modes = [it["secret"]["defaultMode"] for it in pod["spec"]["volumes"] if "secret" in it]
    assert modes == [0o440, 0o440]


@pytest.mark.cluster
def test_the_overlays_can_be_applied_one_after_the_other_and_pod_security_admits_the_pod(
    admin, apply
):
    # PodSecurity only warns about a StatefulSet; it is the pod that it refuses.
    before = claim = None
    for overlay in ("overlays/dev", "overlays/prod", "base"):
        apply(render(overlay))
        pod = admin.wait_for(
            f"{PATH}/pods/tiercel-0",
            lambda pod, before=before: pod is not None and pod["metadata"]["uid"] != before,
        )
        check_pod(pod, overlay)
        kept = admin.get(f"{PATH}/persistentvolumeclaims/journal-tiercel-0")
        assert kept["spec"]["resources"]["requests"]["storage"] == "1Gi"
        assert claim in (None, kept["metadata"]["uid"]), "the journal's volume was replaced"
        before, claim = pod["metadata"]["uid"], kept["metadata"]["uid"]


@pytest.mark.cluster
def test_a_second_installation_runs_beside_the_first_and_each_keeps_its_rights(
    admin, apply, tmp_path
):
    apply(render("base"))
    folder = tmp_path / "staging"
    folder.mkdir()
    apply(second_installation(folder))
    for name in ("tiercel", "tiercel-staging"):
        pod = admin.wait_for(
            f"/api/v1/namespaces/{name}/pods/{name}-0", lambda pod: pod is not None
        )
        account = f"system:serviceaccount:{name}:{pod['spec']['serviceAccountName']}"
        wait_for_rights(admin, account)
    for path in (
        "/api/v1/namespaces/tiercel-staging",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/tiercel-staging",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/tiercel-staging",
    ):
        admin.delete(path)


@pytest.mark.cluster
def test_its_namespace_refuses_a_pod_that_is_less_confined(admin, apply):
    apply(render("base"))
    container = {"name": "main", "image": "busybox", "securityContext": {"privileged": True}}
    body = {"metadata": {"name": "bare"}, "spec": {"containers": [container]}}
    with pytest.raises(ApiError, match='violates PodSecurity "restricted:latest"') as refused:
        admin.create(f"{PATH}/pods", body)
    assert refused.value.status == 403


@pytest.fixture
def admission_policy(admin):
    """A function that applies the policy that docs/security.md shows; it is removed afterwards."""
    text = (ROOT / "docs/security.md").read_text()
    [shown] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    base = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
    manifests = list(yaml.safe_load_all(shown))
    paths = [
        f"{base}{'ybindings' if it['kind'].endswith('Binding') else 'ies'}/{it['metadata']['name']}"
        for it in manifests
    ]
    yield lambda: [admin.apply(*pair) for pair in zip(paths, manifests, strict=True)]
    for path in paths:
        admin.delete(path)


@pytest.mark.cluster
def test_a_stolen_token_changes_images_until_the_policy_of_the_page_is_applied(
    admin, control_plane, engine_token, namespace, admission_policy
):
    pods = f"/api/v1/namespaces/{namespace}/pods"
    containers = [{"name": "main", "image": "nginx"}]
    admin.create(pods, {"metadata": {"name": "victim"}, "spec": {"containers": containers}})
    thief = Api(control_plane.server, engine_token, control_plane.ca)

    def change_image(number):
        made = thief.get(f"{pods}/victim")["spec"]["containers"]
        image = [{**made[0], "image": f"evil:{number}"}]
        return thief.patch(f"{pods}/victim", {"spec": {"containers": image}})

    assert change_image(0)["spec"]["containers"][0]["image"] == "evil:0"
    admission_policy()
    with pytest.raises(ApiError, match="changes only the metadata of pods"):
        list(map(change_image, range(1, 500)))  # the API server compiles the policy meanwhile
    labelled = thief.patch(f"{pods}/victim", {"metadata": {"labels": {"quarantine": "true"}}})
    assert labelled["metadata"]["labels"] == {"quarantine": "true"}
    thief.close()
