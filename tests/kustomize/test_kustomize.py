"""What kustomize/ renders, and what a real API server makes of it."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pytest
import yaml
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.language.folder import Files

from tests.kustomize.rendering import (
    KUSTOMIZE,
    RenderError,
    apply,
    compose,
    find,
    render,
    render_text,
    validate,
)
from tests.support.playbooks import new_loader

ROOT = Path(__file__).parents[2]
PLAYBOOKS = ROOT / "playbooks"
THEMES = sorted(path.parent for path in PLAYBOOKS.glob("*/kustomization.yaml"))
ENVIRONMENTS = ("dev", "staging", "prod")
COMPONENTS = {
    "enforce": set(),
    "slack": set(),
    "slack-approvals": set(),
    "monitoring": {"Service/tiercel-metrics", "NetworkPolicy/tiercel-metrics"},
    "falcosidekick": {
        "Deployment/falcosidekick", "Service/falcosidekick", "NetworkPolicy/falcosidekick",
        "NetworkPolicy/tiercel-from-falcosidekick",
    },
    "mtls": set(),
    "buffered": {"StatefulSet/tiercel-redis", "Service/tiercel-redis", "NetworkPolicy/tiercel-redis"},
    "buffered/jetstream": {
        "StatefulSet/tiercel-nats", "Service/tiercel-nats", "NetworkPolicy/tiercel-nats",
    },
    "namespaced-rbac": set(),
    "pod-commands": set(),
    "kubernetes-operators": {
        "ClusterRole/tiercel-access-reviews", "ClusterRoleBinding/tiercel-access-reviews",
        "ClusterRole/tiercel-operator", "ClusterRole/tiercel-viewer",
    },
    "recording": {"PersistentVolumeClaim/tiercel-recording"},
    "rollout-on-change": set(),
}  # fmt: skip
"""The objects that each component adds, in the order in which docs/install.md lists them."""
WORDS = (
    "-tokens", "-secrets", "-slack", "-operators", "-tls", "-sender", "-redis", "-nats", "-slack-app",
)  # fmt: skip
NAMESPACE = "/api/v1/namespaces/tiercel"


def overlay(name):
    return render(KUSTOMIZE / "overlays" / name)


def base():
    return render(KUSTOMIZE / "base")


def pod_spec(manifests, kind="StatefulSet", name="tiercel"):
    return find(manifests, kind, name)["spec"]["template"]["spec"]


def environment(manifests, kind="StatefulSet", name="tiercel"):
    [container] = pod_spec(manifests, kind, name)["containers"]
    return {it["name"]: it.get("value") for it in container["env"]}


def identities(manifests):
    return [
        (it["kind"], it["metadata"].get("namespace"), it["metadata"]["name"]) for it in manifests
    ]


def names(manifests):
    return {f"{it['kind']}/{it['metadata']['name']}" for it in manifests}


def command(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False).stdout


# What is rendered


def test_base_has_no_playbooks_and_its_mount_does_not_need_any():
    assert "ConfigMap" not in {it["kind"] for it in base()}
    volume = pod_spec(base())["volumes"][0]
    source = {"configMap": {"name": "tiercel-playbooks", "optional": True}}
    assert volume == {"name": "playbooks", "projected": {"sources": [source]}}
    assert environment(base())["TIERCEL_DRY_RUN"] == "true"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_overlay_carries_the_playbooks_and_values_beside_it(name):
    folder = KUSTOMIZE / "overlays" / name
    data = find(overlay(name), "ConfigMap", "tiercel-playbooks")["data"]
    files = {path.name: path.read_text() for path in (folder / "playbooks").iterdir()}
    assert data == {
        **files, "values.yaml": (folder / "values.yaml").read_text(), "REVISION": "unknown",
    }  # fmt: skip
    found = new_loader().load(
        Files("", {k: v.encode() for k, v in data.items() if k != "REVISION"})
    )
    assert found.findings == ()
    assert len(found.playbooks) == len(files) >= 3
    assert command("digest", "--values", folder / "values.yaml", folder / "playbooks").strip() == (
        found.digest
    )


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_playbooks_of_an_overlay_are_those_of_the_library(name):
    for path in (KUSTOMIZE / "overlays" / name / "playbooks").iterdir():
        [shipped] = PLAYBOOKS.rglob(path.name)
        assert path.read_text() == shipped.read_text()


def test_an_overlay_can_take_all_shipped_playbooks(tmp_path):
    resources = [os.path.relpath(it, tmp_path / "all") for it in (KUSTOMIZE / "base", PLAYBOOKS)]
    made = render(
        compose(tmp_path / "all", KUSTOMIZE / "base", resources=resources, namespace="tiercel")
    )
    found = find(made, "ConfigMap", "tiercel-playbooks")
    assert found["metadata"]["namespace"] == "tiercel"
    assert found["data"] == deployable(PLAYBOOKS)


def deployable(folder):
    """Return the files that reach a cluster, by the key in the ConfigMap."""
    texts = {"values.yaml": (folder / "values.yaml").read_text()}
    for path in folder.rglob("*.yaml"):
        if path.name not in ("values.yaml", "kustomization.yaml") and ".test." not in path.name:
            texts[path.name.removeprefix(".")] = path.read_text()
    return texts


@pytest.mark.parametrize("folder", THEMES, ids=lambda folder: folder.name)
def test_an_overlay_can_take_one_folder_of_the_library_with_values_of_its_own(tmp_path, folder):
    resources = [os.path.relpath(it, tmp_path / "one") for it in (KUSTOMIZE / "base", folder)]
    generator = {
        "name": "tiercel-playbooks", "behavior": "merge",
        "files": ["values.yaml"], "options": {"disableNameSuffixHash": True},
    }  # fmt: skip
    more = {"resources": resources, "namespace": "tiercel", "configMapGenerator": [generator]}
    overlay = compose(tmp_path / "one", KUSTOMIZE / "base", **more)
    values = yaml.safe_load((folder / "values.yaml").read_text()) | {"slackSecret": "mine"}
    (overlay / "values.yaml").write_text(yaml.safe_dump(values))
    data = find(render(overlay), "ConfigMap", "tiercel-playbooks")["data"]
    assert data == deployable(folder) | {"values.yaml": yaml.safe_dump(values)}
    found = new_loader().load(Files("", {name: text.encode() for name, text in data.items()}))
    assert found.findings == ()
    others = {"values.yaml", "guardrails.yaml"}
    assert len(found.playbooks) == len(data.keys() - others)
    assert any(b'"mine"' in playbook.snapshot for playbook in found.playbooks)


def test_only_dev_does_not_act():
    acts = {name: environment(overlay(name))["TIERCEL_DRY_RUN"] for name in ENVIRONMENTS}
    assert acts == {"dev": "true", "staging": "false", "prod": "false"}


def with_components(folder, *components, **more):
    """Return what base with these components renders, and the ConfigMap of playbooks."""
    generator = {
        "name": "tiercel-playbooks", "namespace": "tiercel", "literals": ["a.yaml=x"],
        "options": {"disableNameSuffixHash": True},
    }  # fmt: skip
    more = {"configMapGenerator": [generator], **more}
    return render(compose(folder, KUSTOMIZE / "base", components, **more))


@pytest.mark.parametrize("component", [it for it in COMPONENTS if it != "rollout-on-change"])
def test_a_component_adds_just_its_objects_and_changes_no_others(tmp_path, component):
    before, after = with_components(tmp_path / "0"), with_components(tmp_path / "1", component)
    assert names(after) - names(before) == COMPONENTS[component]
    changed = [it for it in before if it not in after]
    kinds = {
        "namespaced-rbac": {"ClusterRole"},
        "falcosidekick": set(),
        "pod-commands": {"ValidatingAdmissionPolicy"},
    }
    assert {it["kind"] for it in changed} == kinds.get(component, {"StatefulSet"})


def selections():
    """Return sets of components in which each pair appears in all four ways: both, either one, none.

    Each component gets another pair of six bits, so that for any two there is a bit that only one has.
    """
    codes = list(itertools.combinations(range(6), 2))[: len(COMPONENTS)]
    rows = [
        [name for name, code in zip(COMPONENTS, codes, strict=True) if bit in code]
        for bit in range(6)
    ]
    return [[], *rows, list(COMPONENTS)]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return with_components(tmp_path_factory.mktemp("kustomize") / "all", *COMPONENTS)


def secrets(manifests):
    """Return the Secrets that the pods need: name -> whether the pod starts without it."""
    found = {}
    for it in manifests:
        if it["kind"] not in ("StatefulSet", "Deployment"):
            continue
        spec = it["spec"]["template"]["spec"]
        for volume in spec.get("volumes", ()):
            sources = volume.get("projected", {}).get("sources", [volume])
            for one in (source["secret"] for source in sources if "secret" in source):
                found[one.get("secretName") or one["name"]] = one.get("optional", False)
        for variable in spec["containers"][0].get("env", ()):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                found[variable["valueFrom"]["secretKeyRef"]["name"]] = False
    return found


def test_the_playbooks_stay_the_first_volume_whatever_components_are_used(everything):
    """Overlays add their ConfigMaps to ``volumes/0``, as docs/install.md describes."""
    pods = [
        find(everything, "StatefulSet"),
        *(find(overlay(it), "StatefulSet") for it in ENVIRONMENTS),
    ]
    for pod in pods:
        volumes = pod["spec"]["template"]["spec"]["volumes"]
        assert volumes[0]["name"] == "playbooks"
        name = volumes[0]["projected"]["sources"][0]["configMap"]["name"]
        assert name.startswith("tiercel-playbooks")  # rollout-on-change adds a hash


def test_every_file_that_a_variable_names_is_on_a_volume(everything):
    [container] = pod_spec(everything)["containers"]
    mounts = [it["mountPath"] for it in container["volumeMounts"]]
    paths = [it["value"] for it in container["env"] if it.get("value", "").startswith("/")]
    assert (
        len(paths) == 10
    )  # playbooks, journal, tokens, secrets, three for TLS, operators, recording, Slack
    for path in paths:
        assert any(Path(path).is_relative_to(one) for one in mounts), path
    assert "subPath" not in str(container)  # the kubelet does not update it
    volumes = {it["name"] for it in pod_spec(everything)["volumes"]} | {"journal"}
    assert {it["name"] for it in container["volumeMounts"]} == volumes


def test_only_the_tokens_of_senders_are_required_by_base():
    assert secrets(base()) == {"tiercel-tokens": False, "tiercel-secrets": True}


def test_the_page_lists_every_secret_and_overlays_name_those_that_they_need(everything):
    page = (ROOT / "docs/install.md").read_text()
    table = page[page.index("| Secret |") : page.index("Secrets do not belong")]
    assert set(secrets(everything)) == {
        name for name in re.findall(r"`([a-z-]+)`", table) if name.endswith(WORDS)
    }
    for name in ENVIRONMENTS:
        text = (KUSTOMIZE / "overlays" / name / "kustomization.yaml").read_text()
        [line] = [it for it in text.splitlines() if it.startswith("# Secrets: ")]
        needed = {one for one, optional in secrets(overlay(name)).items() if not optional}
        assert set(re.findall(r"tiercel-\w+", line)) == needed


def test_every_overlay_has_the_same_claim_because_kubernetes_does_not_accept_a_change(everything):
    claims = [
        find(it, "StatefulSet")["spec"]["volumeClaimTemplates"]
        for it in (everything, base(), *map(overlay, ENVIRONMENTS))
    ]
    assert all(it == claims[0] for it in claims)


def test_the_namespace_comes_first_so_that_one_apply_is_enough():
    assert (base()[0]["kind"], base()[0]["metadata"]["name"]) == ("Namespace", "tiercel")


def test_the_liveness_probe_waits_for_the_startup_probe():
    [container] = pod_spec(base())["containers"]
    startup, live = container["startupProbe"], container["livenessProbe"]
    assert startup["httpGet"] == live["httpGet"] == {"path": "/livez", "port": "admin"}
    assert startup["periodSeconds"] * startup["failureThreshold"] == 300


def test_the_image_is_that_of_the_version_on_top_of_the_changelog():
    version = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    [container] = pod_spec(base())["containers"]
    assert container["image"] == f"ghcr.io/tiercel/tiercel:{version[1]}"


def test_kubectl_renders_the_same_as_kustomize(tmp_path):
    folder = compose(
        tmp_path / "two", KUSTOMIZE / "overlays/prod", ["rollout-on-change"], namespace="x"
    )
    kubectl = Path(sys.executable).parent / "kubectl"
    printed = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=True
    )
    assert printed.stdout == render_text(folder)


def test_the_roles_are_current():
    runpy = run_path(str(KUSTOMIZE / "generate.py"))
    for path, text in runpy["generated"]().items():
        assert path.read_text() == text, "run `make rbac`"


# At the API server


def check(manifests, admin):
    """Check manifests: each object once, no unknown field, and the API server accepts them."""
    assert len(manifests) == len(set(identities(manifests)))
    validate(manifests, admin)
    apply(manifests, admin, dry_run=True)


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["base", *(f"overlays/{name}" for name in ENVIRONMENTS)])
def test_overlays_are_valid_and_accepted(admin, engine_token, name):  # noqa: ARG001 - the namespace
    check(render(KUSTOMIZE / name), admin)


@pytest.mark.cluster
@pytest.mark.parametrize("n", range(len(selections())))
def test_combinations_of_components_are_valid_and_accepted(admin, engine_token, tmp_path, n):  # noqa: ARG001
    check(with_components(tmp_path / "it", *selections()[n]), admin)


@pytest.mark.cluster
def test_an_unknown_field_is_found(admin):
    wrong = yaml.safe_load(render_text(KUSTOMIZE / "base").split("---\n")[-1])
    wrong["spec"]["typo"] = 1
    with pytest.raises(RenderError, match="additional properties 'typo' not allowed"):
        validate([wrong], admin)
