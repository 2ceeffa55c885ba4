"""From a NetworkPolicy in a real API server to the run, the playbook, the commit and its author."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.language.folder import blob_id
from tests.cluster import build
from tests.cluster.fixtures import require
from tests.preview.test_git_repository import git
from tests.support.engine import engine
from tests.support.kubelet_files import Mount

ROOT = Path(__file__).parents[2]
PLAYBOOK = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: isolate}
spec:
  match: {rules: [Exfiltration]}
  actions: [{action: pod.isolate, with: {ttl: 1h}}]
  finally: [{action: kubernetes.event, with: {message: isolated}}]
"""
GUARDRAILS = """\
apiVersion: tiercel.dev/v1
kind: Guardrails
metadata: {name: default}
spec:
  budgets: [{effect: disrupt, limit: 1, per: 10m, scope: namespace}]
"""
PLANTED = "\x1b]0;owned\x07\u202e"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A Git clone as the current folder, with the playbook in two versions. Returns the two commits."""
    folder = tmp_path / "clone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    git("init", "-q", "-b", "main")
    commits = []
    for author, text in (("Ada", PLAYBOOK), ("Grace", f"{PLAYBOOK}# reviewed\n")):
        (folder / "isolate.yaml").write_text(text)
        git("add", "-A")
        git("commit", "-qm", f"Cut egress, by {author}", GIT_AUTHOR_NAME=author)
        commits.append(git("rev-parse", "HEAD"))
    return commits


@pytest.fixture
def policies(admin, namespace):
    """Two pods; returns the path of the NetworkPolicies beside them."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    for name in ("a", "b"):
        spec = {"containers": [{"name": "c", "image": "nginx"}]}
        admin.create(path, {"metadata": {"name": name}, "spec": spec})
    return f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"


def alert(namespace, pod):
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    fields = {"k8s.ns.name": namespace, "k8s.pod.name": pod}
    return {"rule": "Exfiltration", "time": now, "output_fields": fields}


def version(text, revision):
    files = {"isolate.yaml": text, "guardrails.yaml": GUARDRAILS, "REVISION": revision}
    return {name: content.encode() for name, content in files.items()}


def shower(namespace, kubeconfig, server):
    """Return a function that runs ``tiercel show`` on a policy and returns exit code, stdout and stderr."""

    def show(name, *arguments, server=server):
        which = name if "/" in name else f"networkpolicy/{name}"
        given = [which, "-n", namespace, "--kubeconfig", str(kubeconfig)]
        done = CliRunner().invoke(cli, ["show", *given, "--server", server, *arguments])
        return done.exit_code, done.stdout, done.stderr

    return show


def test_a_policy_leads_to_its_run_its_commit_and_its_author(
    tmp_path, admin, policies, engine_kubeconfig, clone, monkeypatch
):
    namespace = policies.split("/")[-2]
    mount = Mount(tmp_path / "mount", version(PLAYBOOK, clone[0]))
    flags = ("--kubeconfig", str(engine_kubeconfig))
    with engine(tmp_path, mount.folder, *flags) as running:
        (first,) = running.post(alert(namespace, "a"))[2]["runs"]
        line = running.wait_for_audit(lambda line: line.get("run") == first)
        assert (line["state"], line["revision"]) == ("done", clone[0])
        running.wait_for_audit(lambda line: line.get("action") == "kubernetes.event")
        (second,) = running.post(alert(namespace, "b"))[2]["runs"]
        assert running.wait_for_audit(lambda line: line.get("run") == second)["state"] == "held"

        mount.write(version(f"{PLAYBOOK}# reviewed\n", clone[1]))
        running.wait_for_log(
            lambda line: line["event"] == "playbooks_loaded" and line["revision"] == clone[1]
        )
        assert running.get("/status")[2]["playbooks"]["revision"] == clone[1]
        running.restart()
        CliRunner().invoke(cli, ["approve", second, "--server", running.admin])
        line = running.wait_for_audit(lambda line: line.get("state") == "done")
        # the revision that it was planned with, over the reload and the restart
        assert (line["run"], line["revision"]) == (second, clone[0])

        found = {
            policy["metadata"]["annotations"]["tiercel.dev/run"]: policy["metadata"]
            for policy in admin.list(policies)
        }
        assert found.keys() == {first, second}
        for metadata in found.values():
            assert metadata["annotations"]["tiercel.dev/revision"] == clone[0]
            assert metadata["annotations"]["tiercel.dev/blob"] == blob_id(PLAYBOOK.encode())
        name = found[first]["name"]

        show = shower(namespace, engine_kubeconfig, running.admin)
        code, text, _ = show(name)
        assert code == 0
        for part in (
            f"run       {first}",
            "playbook  isolate",
            f"blob      {blob_id(PLAYBOOK.encode())}",
            f"revision  {clone[0]}",
            f"commit    {clone[0]}  Cut egress, by Ada",
            "author    Ada <a@example.com>",
            "file      isolate.yaml",
            f"tiercel undo {first[:12]}",  # the story of the run follows
        ):
            assert part in text
        shown = json.loads(show(name, "-o", "json")[1])
        assert (shown["run"]["run"], shown["commit"]["author"]) == (first, "Ada")
        assert shown["notes"] == []
        told = CliRunner().invoke(cli, ["show", first, "--server", running.admin]).stdout
        assert "author    Ada <a@example.com>" in told

        found = admin.list(f"/api/v1/namespaces/{namespace}/events")
        event = next(one["metadata"] for one in found if one["reason"] == "Tiercel")
        text = show(f"event/{event['name']}")[1]
        assert ("author    Ada" in text, f"revision  {clone[0]}" in text) == (True, True)

        git("init", "-q", "../elsewhere")
        monkeypatch.chdir("../elsewhere")
        assert "this clone does not contain the file (git fetch)" in show(name)[1]
        monkeypatch.chdir(mount.folder)
        assert "not in a Git work tree; run this command in a clone" in show(name)[1]
    monkeypatch.chdir("../clone")
    code, text, _ = show(name)  # the engine has ended: only the annotations are left
    assert (code, f"run       {first}" in text, f"revision  {clone[0]}" in text) == (0, True, True)
    assert "author    Ada <a@example.com>" in text
    assert "The engine cannot confirm the run" in text
    assert "Only the annotations of the object name the run and the file." in text


def test_planted_annotations_name_neither_a_run_nor_an_author(
    tmp_path, admin, namespace, policies, engine_kubeconfig, clone
):
    (tmp_path / "clone" / "REVISION").write_text(clone[1])
    flags = ("--kubeconfig", str(engine_kubeconfig))
    with engine(tmp_path, tmp_path / "clone", *flags) as running:
        (run,) = running.post(alert(namespace, "a"))[2]["runs"]
        running.wait_for_audit(lambda line: line.get("run") == run)
        (real,) = admin.list(policies)
        marks = {f"tiercel.dev/{key}": PLANTED for key in ("run", "rule", "blob", "revision")}
        labels = {"app.kubernetes.io/managed-by": "tiercel"}

        def plant(name, annotations, labels=labels):
            metadata = {"name": name, "labels": labels, "annotations": annotations}
            admin.create(policies, {"metadata": metadata, "spec": {"podSelector": {}}})

        plant("copy", real["metadata"]["annotations"])
        plant("garbage", marks)
        plant("theirs", marks, {})
        show = shower(namespace, engine_kubeconfig, running.admin)

        code, text, _ = show("copy")
        assert code == 1
        assert f"Run {run} did not write this object." in text
        assert "Grace" not in text
        assert json.loads(show("copy", "-o", "json")[1])["run"] is None

        code, text, _ = show("garbage")
        assert (code, "run       not known" in text) == (0, True)
        assert ("revision  not known" in text, "blob      not known" in text) == (True, True)
        assert not {"\x1b", "\x07", "\u202e"} & set(text)

        code, _, error = show("theirs")
        assert (code, "was not created by Tiercel" in error) == (1, True)
        code, _, error = show("missing")
        assert (code, "does not exist" in error) == (1, True)

        path, changed = f"{policies}/{real['metadata']['name']}", {"tiercel.dev/revision": "v9"}
        admin.patch(path, {"metadata": {"annotations": changed}})
        code, text, _ = show(real["metadata"]["name"])
        assert (code, f"revision  {clone[1]}" in text) == (1, True)
        assert "The object contradicts the journal: revision." in text


WORDS = (
    "cm", "configmap", "ConfigMaps", "role.rbac.authorization.k8s.io",
    "priorityclass.scheduling.k8s.io", "pc.scheduling.k8s.io",
)  # fmt: skip


def test_each_kind_of_object_is_found_as_kubectl_names_it(
    admin, namespace, control_plane, tmp_path
):
    kubeconfig = control_plane.kubeconfig(control_plane.admin_token, tmp_path / "admin.json")
    labels = {"app.kubernetes.io/managed-by": "tiercel", "tiercel.dev/playbook": "keep"}
    name = f"incident-{namespace}"
    marked = {"name": name, "labels": labels, "annotations": {"tiercel.dev/run": "0" * 32}}
    admin.create(f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": marked})
    roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles"
    admin.create(roles, {"metadata": marked, "rules": []})
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    admin.create(classes, {"metadata": marked, "value": 1})
    show = shower(namespace, kubeconfig, "http://127.0.0.1:9")
    for word in WORDS:
        code, text, error = show(f"{word}/{name}")
        assert code == 0, (word, error)
        assert f"run       {'0' * 32}" in text
        assert ("playbook  keep" in text, "None/" in text) == (True, False)
    shown = json.loads(show(f"pc.scheduling.k8s.io/{name}", "-o", "json")[1])["object"]
    assert (shown["kind"], shown["namespace"]) == ("PriorityClass", None)
    for word in ("banana.scheduling.k8s.io", "networkpolicy.nowhere.example"):
        code, _, error = show(f"{word}/{name}")
        assert (code, f"does not serve {word}" in error) == (1, True)
    admin.delete(f"{classes}/{name}")


@pytest.mark.parametrize(
    "words",
    [["banana/a"], ["networkpolicy/../../secrets"], ["netpol/A_B"], ["a.b/../c"], ["x..y/a"]],
)
def test_an_object_that_tiercel_does_not_create_is_a_usage_error(words):
    done = CliRunner().invoke(cli, ["show", *words])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 2)


def test_kustomize_puts_the_label_of_argo_cd_into_the_config_map(tmp_path):
    """The overlay of docs/provenance.md, with the command by which Argo CD sets the label."""
    require("kustomize")
    text = (ROOT / "docs/provenance.md").read_text()
    (overlay,) = re.findall(r"```yaml\n(# kustomization.yaml.*?)```", text, re.DOTALL)
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}
    workload = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "tiercel"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
    }
    (tmp_path / "workload.yaml").write_text(yaml.safe_dump(workload))
    (tmp_path / "values.yaml").write_text("a: 1\n")
    given = {**yaml.safe_load(overlay), "resources": ["workload.yaml"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(given))

    def kustomize(*arguments):
        command = [str(build.find("kustomize")), *arguments]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
        return {item["kind"]: item for item in yaml.safe_load_all(done.stdout) if item}

    assert kustomize("build", ".")["ConfigMap"]["data"]["REVISION"] == "unknown"
    for revision in ("4b825dc642cb6eb9a060e54bf8d69288fbee4904", "1" * 40, "12345e7"):
        label = f"tiercel.dev/revision:{revision}"
        kustomize("edit", "add", "label", "--without-selector", "--force", label)
        built = kustomize("build", ".")
        assert built["ConfigMap"]["data"]["REVISION"] == revision
        assert built["StatefulSet"]["metadata"]["labels"]["tiercel.dev/revision"] == revision
        assert built["StatefulSet"]["spec"]["template"] == template  # so nothing restarts
