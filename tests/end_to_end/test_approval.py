"""A step above its budget waits for a person: approval deletes the pod, denial does not."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.support.engine import engine

FOLDER = {
    "kill.yaml": """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: kill}
spec:
  match: {rules: [Terminal shell in container]}
  actions: [{action: pod.delete, with: {onlyIfOwned: false, skipKinds: [DaemonSet], grace: 0}}]
""",
    "guardrails.yaml": """\
apiVersion: tiercel.dev/v1
kind: Guardrails
metadata: {name: default}
spec:
  budgets: [{effect: disrupt, limit: 1, per: 10m, scope: namespace}]
""",
}


@pytest.fixture
def pods(admin, namespace):
    """Three running pods without a controller, and a function that lists the remaining ones."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    for name in ("a", "b", "c"):
        spec = {"containers": [{"name": "c", "image": "nginx"}], "terminationGracePeriodSeconds": 0}
        admin.create(path, {"metadata": {"name": name}, "spec": spec})
    admin.wait_for(
        path, lambda it: [pod["status"].get("phase") for pod in it["items"]] == ["Running"] * 3
    )
    return lambda: sorted(pod["metadata"]["name"] for pod in admin.list(path))


def alert(namespace, pod):
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    fields = {"k8s.ns.name": namespace, "k8s.pod.name": pod}
    return {"rule": "Terminal shell in container", "time": now, "output_fields": fields}


def test_above_a_budget_a_pod_is_deleted_only_after_approval(
    tmp_path, admin, namespace, pods, engine_kubeconfig
):
    with engine(tmp_path, FOLDER, "--kubeconfig", str(engine_kubeconfig)) as running:

        def tiercel(*arguments):
            done = CliRunner().invoke(cli, [*arguments, "--server", running.admin])
            assert done.exit_code == 0, done.output
            return done.stdout

        def post(pod):
            (run,) = running.post(alert(namespace, pod))[2]["runs"]
            return run, running.wait_for_audit(lambda line: line["run"] == run)["state"]

        path = f"/api/v1/namespaces/{namespace}/pods"
        uids = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in admin.list(path)}
        assert post("a")[1] == "done"
        (second, held), (third, also) = post("b"), post("c")
        assert held == also == "held"
        assert running.get("/status")[2]["queue"]["held"] == 2
        waiting = json.loads(tiercel("history", "--state", "held", "-o", "json"))
        assert {run["run"] for run in waiting["runs"]} == {second, third}
        assert f"tiercel approve {second[:12]}" in tiercel("show", second)
        running.restart()  # a person may take his time

        tiercel("approve", second)
        tiercel("deny", third)
        ends = {
            run: running.wait_for_audit(
                lambda line, run=run: line["run"] == run and "state" in line
            )
            for run in (second, third)
        }
        assert (ends[second]["state"], ends[second]["uid"]) == ("done", uids["b"])
        assert ends[second]["approval"] == {"verdict": "approve", "by": "local", "reason": ""}
        assert (ends[third]["state"], ends[third]["message"]) == ("refused", "denied by local")
        assert ends[third]["approval"] == {"verdict": "deny", "by": "local", "reason": ""}
        decided = [line for line in running.audit if "decision" in line]
        assert [(line["run"], line["step"]) for line in decided] == [
            (second, "pod.delete"),
            (third, "pod.delete"),
        ]
        admin.wait_for(path, lambda it: len(it["items"]) == 1)
        assert pods() == ["c"]


NOTIFY = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: tell}
spec:
  mode: notify
  match: {rules: [Terminal shell in container]}
  actions:
    - {action: pod.delete, with: {onlyIfOwned: false, skipKinds: [DaemonSet]}}
    - action: http.request
      with: {url: "http://127.0.0.1:1/", body: "%steps.pod.delete.message"}
      retry: {giveUp: 1ms}
"""


def test_a_playbook_with_mode_notify_changes_no_pod(tmp_path, namespace, pods, engine_kubeconfig):
    flags = ("--kubeconfig", str(engine_kubeconfig), "--http-hosts", "127.0.0.1")
    with engine(tmp_path, {"a.yaml": NOTIFY}, *flags) as running:
        running.post(alert(namespace, "a"))
        delete = running.wait_for_audit(lambda line: line.get("step") == "pod.delete")
        assert delete["state"] == "planned"
        # nobody listens there, but it was tried
        sent = running.wait_for_audit(lambda line: line.get("state") == "failed")
        assert sent["requests"][0]["body"] == f"delete {namespace}/a"
        assert pods() == ["a", "b", "c"]
