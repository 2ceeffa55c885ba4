"""Undo on a real API server: at the end of the ttl, on request, and after a lost journal."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.support.engine import engine

FOLDER = {
    "isolate.yaml": """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: isolate}
spec:
  match: {rules: [Exfiltration]}
  actions:
    - {action: pod.isolate, with: {ttl: 1h, detach: true}}
    - action: resource.apply
      with:
        ttl: 1h
        manifest:
          apiVersion: networking.k8s.io/v1
          kind: NetworkPolicy
          metadata: {name: "incident-%k8s.pod.name", namespace: "%k8s.ns.name"}
          spec: {podSelector: {matchLabels: {incident: "%k8s.pod.name"}}}
""",
    "mark.yaml": """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: mark}
spec:
  match: {rules: [Terminal shell in container]}
  actions: [{action: pod.label, with: {labels: {seen: "true", app: null}, ttl: 500ms}}]
""",
}
QUARANTINE = "tiercel.dev/quarantine"


@pytest.fixture
def pods(admin, namespace):
    """Two pods without a controller; returns their labels by name."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    for name in ("a", "b"):
        spec = {"containers": [{"name": "c", "image": "nginx"}]}
        admin.create(path, {"metadata": {"name": name, "labels": {"app": "web"}}, "spec": spec})
    service = {"selector": {"app": "web"}, "ports": [{"port": 80}]}
    services = f"/api/v1/namespaces/{namespace}/services"
    admin.create(services, {"metadata": {"name": "web"}, "spec": service})
    return lambda: {p["metadata"]["name"]: p["metadata"]["labels"] for p in admin.list(path)}


def alert(namespace, pod, rule="Exfiltration"):
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {
        "rule": rule,
        "time": now,
        "output_fields": {"k8s.ns.name": namespace, "k8s.pod.name": pod},
    }


def test_labels_have_their_earlier_values_after_the_ttl(
    tmp_path, namespace, pods, engine_kubeconfig
):
    with engine(tmp_path, FOLDER, "--kubeconfig", str(engine_kubeconfig)) as running:
        (run,) = running.post(alert(namespace, "a", "Terminal shell in container"))[2]["runs"]
        done, undone = (
            running.wait_for_audit(lambda line, state=state: line.get("state") == state)
            for state in ("done", "undone")
        )
        assert (done["run"], undone["run"], undone["step"]) == (run, run, "pod.label")
        assert done["calls"][0]["body"]["metadata"]["labels"] == {"seen": "true", "app": None}
        assert pods()["a"] == {"app": "web"}
        (step,) = running.get(f"/runs/{run}")[2]["steps"]
        assert step["state"] == "undone"
        assert "app of pod a restored" in step["message"]


def test_after_a_lost_journal_an_operator_can_undo_an_isolation(
    tmp_path, admin, namespace, pods, control_plane
):
    kubeconfig = control_plane.kubeconfig(control_plane.admin_token, tmp_path / "kubeconfig")
    policies = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"

    with engine(tmp_path, FOLDER, "--kubeconfig", str(kubeconfig)) as running:

        def tiercel(*arguments):
            return CliRunner().invoke(cli, [*arguments, "--server", running.admin])

        runs = [running.post(alert(namespace, pod))[2]["runs"][0] for pod in ("a", "b")]
        for run in runs:
            running.wait_for_steps(run, ["pod.isolate", "resource.apply"])
        assert all(labels.keys() == {QUARANTINE} for labels in pods().values())
        running.terminate()
        for file in tmp_path.glob("tiercel.db*"):
            file.unlink()
        running.restart()
        adopted = []
        running.wait_for_log(
            lambda line: (
                line.get("event") == "policy_adopted"
                and (adopted.append(line["run"]) or len(adopted) == 4)
            )
        )
        assert sorted(adopted) == sorted([*runs, *runs])
        assert f"tiercel undo {runs[0][:12]}" in tiercel("show", runs[0]).stdout
        assert tiercel("pause").exit_code == 0  # which stops no undoing
        said = tiercel("undo", runs[0][:12]).stdout
        assert "pod.isolate" in said
        assert "resource.apply" in said
        undone = set()
        running.wait_for_audit(
            lambda line: (
                line.get("state") == "undone" and (undone.add(line["step"]) or len(undone) == 2)
            )
        )
        left = admin.list(policies)
        assert [it["metadata"]["annotations"]["tiercel.dev/run"] for it in left] == [runs[1]] * 2
        assert pods()["a"] == {"app": "web"}
        assert pods()["b"].keys() == {QUARANTINE}
        again = tiercel("undo", runs[0])
        assert (again.exit_code, "nothing is left" in again.stderr) == (1, True)
