"""`tiercel plan --server`: a real API server checks every call, and nothing changes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PLAYBOOK = """
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: all-of-it}
spec:
  match: {rules: [R]}
  actions:
    - {action: pod.isolate, onFailure: continue}
    - {action: pod.label, with: {labels: {seen: "true"}}, onFailure: continue}
    - {action: pod.label, name: on-namespace, with: {labels: {seen: "true"}, on: namespace}, onFailure: continue}
    - {action: pod.delete, with: {onlyIfOwned: false}}
  finally:
    - {action: kubernetes.event, with: {message: hello}}
"""


@pytest.fixture
def pod(admin, namespace):
    spec = {"containers": [{"name": "app", "image": "nginx"}]}
    path = f"/api/v1/namespaces/{namespace}/pods"
    admin.create(path, {"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": spec})
    admin.wait_for(f"{path}/web", lambda it: it and it["status"].get("phase") == "Running")
    return f"{path}/web"


def plan(folder, namespace, kubeconfig, code=0):
    """Return the only run of the plan as step -> (state, message). code: the expected exit code."""
    (folder / "playbooks").mkdir(exist_ok=True)
    (folder / "playbooks" / "all.yaml").write_text(PLAYBOOK)
    fields = {"k8s.ns.name": namespace, "k8s.pod.name": "web"}
    (folder / "event.json").write_text(json.dumps({"rule": "R", "output_fields": fields}))
    command = [sys.executable, "-m", "engine", "plan", "playbooks", "event.json", "-o", "json"]
    flags = ["--server", "--kubeconfig", str(kubeconfig)]
    done = subprocess.run(
        [*command, *flags], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    if code == 2:
        return done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    return {step["name"]: (step["state"], step["message"]) for step in run["steps"]}


def test_the_server_accepts_each_call_and_nothing_changes(
    tmp_path, pod, namespace, admin, engine_kubeconfig
):
    before = admin.get(pod)
    steps = plan(tmp_path, namespace, engine_kubeconfig, code=1)
    states = {name: state for name, (state, _) in steps.items()}
    denied = states.pop("on-namespace")
    assert set(states.values()) == {"planned"}
    assert denied == "failed"
    assert "missing right: patch on namespaces" in steps["on-namespace"][1]
    assert admin.get(pod)["metadata"] == before["metadata"]
    assert admin.list(f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies") == []
    assert [
        e for e in admin.list(pod.replace("pods/web", "events")) if e["reason"] == "Tiercel"
    ] == []


@pytest.mark.usefixtures("pod")
def test_a_policy_that_keeps_the_pod_open_is_reported(
    tmp_path, namespace, admin, engine_kubeconfig
):
    spec = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}
    body = {"metadata": {"name": "all-open"}, "spec": spec}
    admin.create(f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies", body)
    steps = plan(tmp_path, namespace, engine_kubeconfig, code=1)
    state, message = steps["pod.isolate"]
    assert state == "failed"
    assert "still open through all-open" in message
    assert "detach: true" in message


def test_a_missing_pod_is_skipped(tmp_path, namespace, engine_kubeconfig):
    steps = plan(tmp_path, namespace, engine_kubeconfig)
    assert {state for state, _ in steps.values()} == {"skipped"}
    assert "does not exist" in steps["pod.label"][1]


def test_a_missing_kubeconfig_is_a_usage_error(tmp_path, namespace):
    assert "--kubeconfig" in plan(tmp_path, namespace, tmp_path / "absent", code=2)
