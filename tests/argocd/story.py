"""A repository of a team, and one cluster in which Argo CD keeps it in force."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import urllib3
import yaml
from engine.language.folder import Files
from tests.argocd.argocd import ARGOCD, ArgoCD
from tests.argocd.kubectl import kubectl
from tests.argocd.node import CORE, Node
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import Kubelet
from tests.gitops import sidekick
from tests.kustomize.rendering import render_text
from tests.support.engine import PATIENCE, ROOT

from stand_ins import Loki, Slack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    Object = dict[str, Any]

KUSTOMIZE = ROOT / "kustomize"
APP, DEMO = "tiercel", "demo"
TOKEN = "sender-token-of-the-tests"
OPERATOR = "operator-token-of-the-tests"
OVERLAY = "overlays/prod"
PLAYBOOK = f"{OVERLAY}/quarantine.yaml"
VALUES = f"{OVERLAY}/values.yaml"

QUARANTINE = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: quarantine}
spec:
  mode: ${mode}
  match: {rules: [Terminal shell in container]}
  conditions: [{field: k8s.ns.name, equals: demo}]
  actions:
    - {action: pod.isolate, name: isolate, with: {egress: deny}}
    - {action: pod.label, name: mark, with: {labels: {quarantine: "true"}}}
    - action: slack.post
      name: tell
      with: {webhook: {fromSecret: slack-webhook-url}, text: "Quarantined %k8s.ns.name/%k8s.pod.name (%rule)"}
"""
STEPS = ("isolate", "mark", "tell")
QUARANTINE_TEST = """\
apiVersion: tiercel.dev/v1
kind: PlaybookTest
metadata: {name: quarantine}
spec:
  cases:
    - name: a shell in demo
      event: {rule: Terminal shell in container, output_fields: {k8s.ns.name: demo, k8s.pod.name: web}}
      expect: {actions: [isolate, mark, tell]}
    - name: a shell elsewhere
      event: {rule: Terminal shell in container, output_fields: {k8s.ns.name: shop, k8s.pod.name: web}}
      expect: {nothing: true}
"""
OVERLAY_FILE = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - ../../kustomize/base
components:
  - ../../kustomize/components/enforce
  - ../../kustomize/argocd/hooks
configMapGenerator:
  - name: tiercel-playbooks
    namespace: tiercel
    files: [quarantine.yaml, contain.yaml, quarantine.test.yaml, values.yaml]
    literals: [REVISION=unknown]
    options:
      disableNameSuffixHash: true
      labels: {tiercel.dev/revision: unknown}
replacements:
  - source:
      kind: ConfigMap
      name: tiercel-playbooks
      fieldPath: metadata.labels.[tiercel.dev/revision]
    targets:
      - select: {kind: ConfigMap, name: tiercel-playbooks}
        fieldPaths: [data.REVISION]
"""
CONTAIN = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: isolate}
spec:
  match: {rules: [Connection to vistatech.it]}
  conditions: [{field: k8s.ns.name, equals: demo}]
  actions: [{action: pod.isolate, name: isolate, with: {egress: deny}}]
---
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: spread}
spec:
  match: {rules: [Outbound scan]}
  conditions: [{field: k8s.ns.name, equals: demo}]
  actions: [{action: workload.scale, name: scale, with: {replicas: 2, evenIfManaged: true}}]
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, labels: {tier: web}}
spec:
  replicas: 1
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec: {containers: [{name: web, image: nginx}]}
"""
WORKLOADS = ("contained", "plain", "ignored")
"""The Deployments of the other application, each with one pod."""


class Story:
    """The cluster, Argo CD in it, the team's repository, and a node that runs the pods."""

    def __init__(self, folder: Path, argocd: ArgoCD, node: Node, loki: Loki, slack: Slack) -> None:
        self.folder = folder
        self.loki, self.slack = loki, slack
        self.argocd, self.node = argocd, node
        self.admin, self.git = argocd.admin, argocd.git

    def commit(self, message: str, files: Mapping[str, str | None]) -> str:
        """Commit, and tell Argo CD, as a webhook does. Returns the id of the commit."""
        revision = self.git.commit(message, files)
        self.argocd.refresh(APP)
        return revision

    def revert(self) -> str:
        """Revert the last commit, and tell Argo CD."""
        revision = self.git.revert()
        self.argocd.refresh(APP)
        return revision

    def wait_until_synced(self, revision: str, name: str = APP) -> Object:
        """Return the Application when the commit is synced, with its hooks."""
        return self.argocd.wait_for(name, lambda it: is_synced(it, revision), self.node.work)

    def commit_bad(self, message: str, files: Mapping[str, str | None]) -> tuple[Object, str]:
        """Commit, and wait until the sync has failed. Returns the Application, and the log of the check."""
        revision = self.commit(message, files)
        found = self.argocd.wait_for(APP, lambda it: is_failed(it, revision), self.node.work)
        return found, self.node.run_of("tiercel-check").output

    def failed_hooks(self, application: Object) -> list[str]:
        """Return the names of the hooks that failed."""
        resources = application["status"]["operationState"]["syncResult"]["resources"]
        return [it["name"] for it in resources if it.get("hookPhase") == "Failed"]

    def status(self) -> Object:
        """Return the status page of the engine."""
        status: Object = json.loads(self.admin_page("/status"))
        return status

    def admin_page(self, path: str) -> str:
        """Return the text of a page of the engine's admin port."""
        assert self.node.engine
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        found = urllib3.request("GET", self.node.engine.admin + path, headers=headers)
        return found.data.decode()

    def digest(self) -> str:
        """Return the digest of the playbooks in the clone."""
        folder = self.git.folder / OVERLAY
        names = ("quarantine.yaml", "contain.yaml", "quarantine.test.yaml", "values.yaml")
        return Files("", {name: (folder / name).read_bytes() for name in names}).digest

    def pod(self, workload: str) -> Object:
        """Return the running pod of a Deployment of the other application."""
        path = f"/api/v1/namespaces/demo/pods?labelSelector=app%3D{workload}"
        found = self.admin.wait_for(
            path, lambda it: [pod["status"].get("phase") for pod in it["items"]] == ["Running"]
        )
        assert found
        pod: Object = found["items"][0]
        return pod

    def labels(self, pod: Object) -> dict[str, str]:
        """Return the labels that a pod has now."""
        found = self.admin.get(f"/api/v1/namespaces/demo/pods/{pod['metadata']['name']}")
        labels: dict[str, str] = found["metadata"]["labels"]
        return labels

    def shell_in(self, pod: Object) -> dict[str, str]:
        """Send a shell in a pod as Falcosidekick does, to the engine and to Loki. Returns step -> state."""
        engine = self.node.engine
        assert engine
        body = sidekick.shell_in(pod)
        code, _, answer = sidekick.send(engine.events, self.loki.url, TOKEN, body)
        assert code == 202, answer
        [run] = answer["runs"]
        lines = engine.wait_for_steps(run, STEPS)
        for line in lines:
            sidekick.collect(self.loki.url, line)
        return {it["step"]: it["state"] for it in lines}

    def send(self, pod: Object, rule: str, step: str) -> str:
        """Send an event about a pod, as Falcosidekick does. Returns how the step of its one run ended."""
        engine = self.node.engine
        assert engine
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        alert = {
            "rule": rule, "priority": "Warning", "source": "syscall", "time": now,
            "hostname": pod["spec"]["nodeName"],
            "output_fields": {"k8s.ns.name": "demo", "k8s.pod.name": pod["metadata"]["name"]},
        }  # fmt: skip
        code, _, answer = engine.post(alert, headers={"Authorization": f"Bearer {TOKEN}"})
        assert code == 202, answer
        [run] = answer["runs"]
        line = engine.wait_for_audit(lambda it: (it.get("run"), it.get("step")) == (run, step))
        return f"{line['state']}: {line['message']}"


def is_synced(application: Object, revision: str) -> bool:
    """Whether the last operation brought this commit into force and nothing differs."""
    status = application.get("status", {})
    operation = status.get("operationState", {})
    return (
        operation.get("phase") == "Succeeded"
        and operation["syncResult"]["revision"] == revision
        and status["sync"]["status"] == "Synced"
        and status["sync"]["revision"] == revision
    )


def is_failed(application: Object, revision: str) -> bool:
    """Whether the last operation was for this commit, and failed."""
    state = application.get("status", {}).get("operationState", {})
    return state.get("phase") == "Failed" and state["syncResult"]["revision"] == revision


@contextlib.contextmanager
def story(folder: Path, *, with_application_sets: bool = False) -> Iterator[Story]:
    """Start everything, and sync the first commit."""
    settings = yaml.safe_load((KUSTOMIZE / "argocd" / "argocd-cm.yaml").read_text())["data"]
    for name in ("plane", "argocd", "node"):
        (folder / name).mkdir()
    with (
        ControlPlane(folder / "plane") as plane,
        Kubelet(plane.admin),
        ArgoCD(
            folder / "argocd", plane, settings, with_application_sets=with_application_sets
        ) as argocd,
        Node(folder / "node", plane) as node,
        Loki() as loki,
        Slack() as slack,
    ):
        made = Story(folder, argocd, node, loki, slack)
        prepare(made)
        revision = made.git.commit("Start", first_commit())
        # the project first: the controller watches both kinds, and can see the Application before its project
        documents = list(yaml.safe_load_all(application(made)))
        for one in sorted(documents, key=lambda it: it["kind"] != "AppProject"):
            given = yaml.safe_dump(one)
            kubectl(argocd.kubeconfig, "apply", "--server-side", "-f", "-", given=given)
        for plural, body in other_application(made.git.url):
            made.admin.create(f"{ARGOCD}/{plural}", body)
        made.wait_until_synced(revision)
        made.wait_until_synced(revision, DEMO)
        yield made


def prepare(story: Story) -> None:
    """Create what docs/argocd.md tells a user to create by hand: the namespace and the Secrets."""
    for name in ("tiercel", "demo"):
        story.admin.create("/api/v1/namespaces", {"metadata": {"name": name}})
    digest = hashlib.sha256(OPERATOR.encode()).hexdigest()
    for name, data in {
        "tiercel-tokens": {"tokens": TOKEN},
        "tiercel-operators": {"operators": f"argocd view {digest}\n"},
        "tiercel-status-token": {"token": OPERATOR},
        "tiercel-secrets": {"slack-webhook-url": story.slack.webhook},
    }.items():
        story.admin.create(f"{CORE}/secrets", {"metadata": {"name": name}, "stringData": data})


def first_commit() -> dict[str, str]:
    """Return the files of the repository: our kustomize/, an overlay with playbooks, and another application."""
    shared = ("base", "components/enforce", "argocd/hooks")
    files = {
        str(file.relative_to(ROOT)): file.read_text()
        for folder in shared
        for file in (KUSTOMIZE / folder).rglob("*.yaml")
    }
    return files | {
        "kustomize/base/clusterrole.yaml": tiercel("rbac", "-"),
        f"{OVERLAY}/kustomization.yaml": OVERLAY_FILE,
        f"{OVERLAY}/contain.yaml": CONTAIN,
        f"{OVERLAY}/quarantine.test.yaml": QUARANTINE_TEST,
        VALUES: "mode: dryRun\n",
        PLAYBOOK: QUARANTINE,
        **{f"demo/{name}.yaml": DEPLOYMENT.replace("NAME", name) for name in WORKLOADS},
    }


def tiercel(*arguments: str) -> str:
    """Return the output of a command that reads the playbooks of the repository from stdin."""
    given = f"{QUARANTINE.replace('${mode}', 'enforce')}---\n{CONTAIN}"
    return subprocess.run(
        [sys.executable, "-m", "engine", *arguments], input=given, cwd=ROOT, capture_output=True,
        text=True, timeout=PATIENCE, check=True,
    ).stdout  # fmt: skip


def other_application(url: str) -> Iterator[tuple[str, Object]]:
    """Yield the plural and the object of a project and an Application of another team in the same repository.

    Of the Deployments that playbooks change, ignoreDifferences names only ``ignored``.
    """
    every = {"group": "*", "kind": "*"}
    project = {
        "sourceRepos": [url],
        "destinations": [{"server": "*", "namespace": "demo"}],
        "namespaceResourceWhitelist": [every],
    }
    printed = yaml.safe_load(tiercel("rbac", "--argocd", "-"))["ignoreDifferences"]
    ignored = [{**it, "name": "ignored"} for it in printed if it["kind"] == "Deployment"]
    spec = {
        "project": DEMO,
        "source": {"repoURL": url, "targetRevision": "main", "path": "demo"},
        "destination": {"server": "https://kubernetes.default.svc", "namespace": "demo"},
        "ignoreDifferences": ignored,
        "syncPolicy": {
            "automated": {"prune": True, "selfHeal": True},
            "syncOptions": ["RespectIgnoreDifferences=true"],
        },
    }
    version = "argoproj.io/v1alpha1"
    for plural, kind, body in (
        ("appprojects", "AppProject", project),
        ("applications", "Application", spec),
    ):
        yield (
            plural,
            {"apiVersion": version, "kind": kind, "metadata": {"name": DEMO}, "spec": body},
        )


def application(story: Story) -> str:
    """Return our AppProject and Application, with the address of the test's repository and short retries."""
    folder = story.folder / "install"
    shutil.copytree(KUSTOMIZE / "argocd", folder / "argocd")
    patch = [
        {"op": "replace", "path": "/spec/source/repoURL", "value": story.git.url},
        {"op": "replace", "path": "/spec/syncPolicy/retry/limit", "value": 1},
        {"op": "replace", "path": "/spec/syncPolicy/retry/backoff/duration", "value": "1s"},
    ]
    project = [{"op": "replace", "path": "/spec/sourceRepos", "value": [story.git.url]}]
    kustomization = {
        "resources": ["argocd"],
        "patches": [
            {"target": {"kind": "Application"}, "patch": json.dumps(patch)},
            {"target": {"kind": "AppProject"}, "patch": json.dumps(project)},
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render_text(folder)
