"""An engine that runs a command in a pod, collects its output, and does not answer its own command."""

from __future__ import annotations

import tarfile
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.cluster.fixtures import require
from tests.support.engine import engine

PLAYBOOK = """
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: answer-shell}
spec:
  match: {rules: ["Terminal shell"]}
  actions:
    - action: pod.capture
      name: capture
      with: {artifact: "file://STORE/%k8s.pod.name/%{run.id}.tar.gz"}
    - action: pod.exec
      name: outside
      onFailure: continue
      with: {command: ["true"], artifact: "s3://elsewhere/%{run.id}"}
    - action: pod.exec
      name: command
      with: {command: [echo, "%proc.cmdline"]}
"""


@pytest.fixture
def pod(admin, namespace):
    require("kubelet")
    path = f"/api/v1/namespaces/{namespace}/pods"
    spec = {"containers": [{"name": "web", "image": "nginx"}]}
    admin.create(path, {"metadata": {"name": "web-0"}, "spec": spec})
    return admin.wait_for(f"{path}/web-0", lambda it: it["status"].get("phase") == "Running")


def shell(pod, command):
    (status,) = pod["status"]["containerStatuses"]
    metadata = pod["metadata"]
    fields = {
        "k8s.ns.name": metadata["namespace"], "k8s.pod.name": metadata["name"],
        "container.id": status["containerID"].removeprefix("containerd://")[:12],
        "proc.cmdline": command,
    }  # fmt: skip
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"rule": "Terminal shell", "time": time, "output_fields": fields}


def test_a_shell_is_answered_by_commands_whose_own_events_start_nothing(
    tmp_path, pod, control_plane
):
    store = tmp_path / "artifacts"
    store.mkdir()
    kubeconfig = control_plane.kubeconfig(control_plane.admin_token, tmp_path / "kubeconfig")
    files = {"a.yaml": PLAYBOOK.replace("STORE", str(store))}
    flags = ("--kubeconfig", str(kubeconfig), "--artifact-stores", f"file://{store}")
    with engine(tmp_path, files, *flags) as running:
        (run,) = running.post(shell(pod, "sh -c '$(id)'"))[2]["runs"]
        ended = running.wait_for_audit(
            lambda line: line.get("run") == run and line.get("step") == "command"
        )
        assert ended["state"] == "done", ended
        found = running.get(f"/runs/{run}")[2]
        steps = {step["name"]: step for step in found["steps"]}
        assert steps["command"]["answer"]["output"] == "sh -c '$(id)'\n"
        story = CliRunner().invoke(cli, ["show", run, "--server", running.admin]).stdout
        assert "| sh -c '$(id)'" in story
        assert f"url file://{store}/web-0/{run}.tar.gz" in story
        assert steps["outside"]["state"] == "refused"
        assert "artifact-stores" in steps["outside"]["message"]
        with tarfile.open(store / "web-0" / f"{run}.tar.gz") as archive:
            assert {"manifest.json", "events.json", "network.txt"} <= set(archive.getnames())
        # the command of the engine is a shell for Falco, too
        assert running.post(shell(pod, "echo sh"))[2]["runs"] == []
        assert 'reason="self"' in str(running.get("/metrics")[2])
