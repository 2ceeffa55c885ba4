"""What kustomize/argocd renders, and what the documentation says about it."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml
from engine.cluster.network_policies import Peer, is_allowed
from tests.cluster import build
from tests.cluster.fixtures import require
from tests.kustomize.rendering import KUSTOMIZE, compose, find, render
from tests.support.engine import PATIENCE, ROOT

ARGOCD = KUSTOMIZE / "argocd"
OVERLAYS = sorted(folder.name for folder in (KUSTOMIZE / "overlays").iterdir())
EVENTS, ADMIN = 8080, 8081


def with_hooks(folder, overlay, **more):
    """Return what an overlay of ours renders with the component ``hooks``."""
    composed = compose(folder / "o", KUSTOMIZE / "overlays" / overlay, ["../argocd/hooks"], **more)
    return render(composed)


def yaml_blocks(page):
    text = (ROOT / "docs" / page).read_text()
    return [
        list(yaml.safe_load_all(block))
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_project_allows_every_overlay_and_no_secret(tmp_path, overlay):
    project = find(render(ARGOCD), "AppProject")["spec"]
    allowed = {
        (it["group"], it["kind"])
        for part in ("clusterResourceWhitelist", "namespaceResourceWhitelist")
        for it in project[part]
    }
    manifests = with_hooks(tmp_path, overlay)
    rendered = {(group(it), it["kind"]) for it in manifests}
    assert rendered <= allowed
    assert ("", "Secret") not in allowed
    namespaces = {it["namespace"] for it in project["destinations"]}
    assert {it["metadata"].get("namespace", "tiercel") for it in manifests} == namespaces


def group(manifest):
    return manifest["apiVersion"].rpartition("/")[0]


def test_the_candidate_has_the_files_and_the_jobs_have_the_image_of_the_engine(tmp_path):
    images = [{"name": "ghcr.io/tiercel/tiercel", "newName": "registry.example.com/tiercel"}]
    manifests = with_hooks(tmp_path, "prod", images=images)
    playbooks = find(manifests, "ConfigMap", "tiercel-playbooks")["data"]
    assert find(manifests, "ConfigMap", "tiercel-playbooks-candidate")["data"] == playbooks
    [engine] = find(manifests, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert engine["image"].startswith("registry.example.com/tiercel:")
    for name in ("tiercel-check", "tiercel-in-force"):
        pod = find(manifests, "Job", name)["spec"]["template"]["spec"]
        containers = [*pod.get("initContainers", []), *pod["containers"]]
        assert {one["image"] for one in containers} == {engine["image"]}
        assert pod["automountServiceAccountToken"] is False
        assert "serviceAccountName" not in pod


def test_a_second_installation_asks_its_own_engine(tmp_path):
    more = {"namespace": "other", "nameSuffix": "-two"}
    manifests = with_hooks(tmp_path, "dev", **more)
    service = find(manifests, "Service", "tiercel-status-two")
    job = find(manifests, "Job", "tiercel-in-force-two")
    template = job["spec"]["template"]
    named = template["metadata"]["annotations"]["tiercel.dev/status-service"]
    assert (named, service["metadata"]["namespace"]) == ("tiercel-status-two", "other")
    variables = {it["name"]: it for it in template["spec"]["containers"][0]["env"]}
    assert variables["TIERCEL_SERVER"]["value"] == f"http://$(STATUS_SERVICE):{ADMIN}"
    assert service["spec"]["ports"][0]["port"] == ADMIN


def test_waves_put_the_limits_before_the_rights_and_the_rights_before_the_engine(tmp_path):
    manifests = with_hooks(tmp_path, "prod")
    waves = {}
    for it in manifests:
        annotations = it["metadata"].get("annotations", {})
        if "argocd.argoproj.io/hook" not in annotations:
            wave = int(annotations.get("argocd.argoproj.io/sync-wave", "0"))
            waves.setdefault(it["kind"], set()).add(wave)
    order = (
        "Namespace", "ValidatingAdmissionPolicy", "ClusterRole", "NetworkPolicy", "ConfigMap",
    )  # fmt: skip
    numbers = [waves[kind] for kind in order]
    assert numbers == sorted(numbers, key=min)
    assert len(set(map(frozenset, numbers))) == len(order)
    engine = find(manifests, "StatefulSet")["metadata"]["annotations"]
    assert int(engine["argocd.argoproj.io/sync-wave"]) > max(max(it) for it in numbers)


def test_only_the_postsync_job_reaches_only_the_admin_port(tmp_path):
    manifests = with_hooks(tmp_path, "dev")
    policies = [it for it in manifests if it["kind"] == "NetworkPolicy"]
    engine = pod(find(manifests, "StatefulSet"))
    jobs = {
        name: pod(find(manifests, "Job", name)) for name in ("tiercel-check", "tiercel-in-force")
    }
    reached = {
        (name, port): all(
            is_allowed(policies, *one, port)
            for one in ((engine, "Ingress", Peer(pod=job)), (job, "Egress", Peer(pod=engine)))
        )
        for name, job in jobs.items()
        for port in (EVENTS, ADMIN)
    }
    assert {key for key, allowed in reached.items() if allowed} == {("tiercel-in-force", ADMIN)}
    dns = {"metadata": {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}, "spec": {}}
    asks = {
        name: is_allowed(policies, job, "Egress", Peer(pod=dns), 53, "UDP")
        for name, job in jobs.items()
    }
    assert asks == {"tiercel-check": False, "tiercel-in-force": True}


def pod(workload):
    template = workload["spec"]["template"]
    return {**template, "metadata": {**template["metadata"], "namespace": "tiercel"}}


def test_the_applications_of_one_and_of_several_clusters_differ_only_in_their_cluster():
    one = find(render(ARGOCD), "Application")
    template = find(render(ARGOCD / "clusters"), "ApplicationSet")["spec"]["template"]
    several = template["spec"]
    assert several["source"].pop("path").startswith("overlays/{{")
    assert several["destination"].pop("server") == "{{.server}}"
    expected = json.loads(json.dumps(one["spec"]))
    del expected["source"]["path"], expected["destination"]["server"]
    assert several == expected
    assert template["metadata"]["annotations"] == one["metadata"]["annotations"]


def test_the_page_shows_how_to_add_a_second_config_map(tmp_path):
    [shown] = [
        it for [it, *_] in yaml_blocks("argocd.md")
        if any("candidate" in one["name"] for one in it.get("configMapGenerator", []))
    ]  # fmt: skip
    (tmp_path / "o" / "payments").mkdir(parents=True)
    (tmp_path / "o" / "payments" / "isolate.yaml").write_text("kind: Playbook\n")
    (tmp_path / "o" / "kustomization.yaml").write_text("")
    composed = compose(
        tmp_path / "p", KUSTOMIZE / "overlays" / "prod", ["../argocd/hooks"], **shown
    )
    (tmp_path / "o" / "payments").rename(composed / "payments")
    manifests = render(composed)

    def sources(kind, name="tiercel"):
        spec = find(manifests, kind, name)["spec"]["template"]["spec"]
        return [it["configMap"]["name"] for it in spec["volumes"][0]["projected"]["sources"]]

    both = ["tiercel-playbooks", "tiercel-playbooks-payments"]
    assert sources("StatefulSet") == sources("Job", "tiercel-in-force") == both
    assert sources("Job", "tiercel-check") == [f"{name}-candidate" for name in both]


POLICY = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingAdmissionPolicy",
    "metadata": {"name": "tiercel", "generation": 2},
}
APPLICATION = {
    "apiVersion": "argoproj.io/v1alpha1",
    "kind": "Application",
    "metadata": {"name": "tiercel"},
}
WARNING = {"fieldRef": "spec.validations[0].expression", "warning": "undefined field"}


@pytest.mark.parametrize(
    ("manifest", "status", "expected"),
    [
        (POLICY, None, ("Progressing", "Waiting")),
        (POLICY, {"observedGeneration": 1, "typeChecking": {}}, ("Progressing", "Waiting")),
        (POLICY, {"observedGeneration": 2, "typeChecking": {}}, ("Healthy", "valid")),
        (POLICY, {"observedGeneration": 2, "typeChecking": {"expressionWarnings": [WARNING]}},
         ("Degraded", "spec.validations[0].expression: undefined field")),
        (APPLICATION, None, ("Progressing", "")),
        (APPLICATION, {"health": {"status": "Healthy"}, "operationState": {"phase": "Succeeded"}},
         ("Healthy", "")),
        (APPLICATION, {"health": {"status": "Healthy"}, "operationState":
         {"phase": "Failed", "message": "hook failed"}}, ("Degraded", "hook failed")),
        (APPLICATION, {"health": {"status": "Healthy"}, "operationState": {"phase": "Running"}},
         ("Progressing", "")),
    ],
)  # fmt: skip
def test_custom_health(tmp_path, manifest, status, expected):
    require("argocd")
    written = manifest if status is None else {**manifest, "status": status}
    (tmp_path / "object.yaml").write_text(yaml.safe_dump(written))
    command = [
        str(build.find("argocd")), "admin", "settings", "resource-overrides", "health",
        str(tmp_path / "object.yaml"), "--argocd-cm-path", str(ARGOCD / "argocd-cm.yaml"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert f"STATUS: {expected[0]}\n" in done.stdout
    assert expected[1] in done.stdout


def test_flux_renders_the_overlay_of_the_page_without_hooks(tmp_path):
    [[source, kustomization]] = yaml_blocks("flux.md")
    spec = kustomization["spec"]
    assert spec["sourceRef"] == {"kind": source["kind"], "name": source["metadata"]["name"]}
    # kustomize-controller does the same: it adds spec.patches to the kustomization of spec.path.
    manifests = render(compose(tmp_path / "o", KUSTOMIZE / spec["path"], patches=spec["patches"]))
    assert find(manifests, "StatefulSet")
    assert not [it for it in manifests if it["kind"] == "Job"]
    # Flux prunes what is no longer in Git. The namespace has the journal.
    annotations = find(manifests, "Namespace")["metadata"]["annotations"]
    assert annotations["kustomize.toolkit.fluxcd.io/prune"] == "disabled"
