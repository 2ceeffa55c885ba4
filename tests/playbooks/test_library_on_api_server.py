"""Every event of the library, planned on a real API server with the rights of kustomize/base."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.cluster.accounts import wait_for_right
from tests.cluster.fixtures import USER, create_engine_token

LIBRARY = Path(__file__).parents[2] / "playbooks"
POD = "nginx-7d4b9c6f5-x2x7l"
"""The pod of the recorded events."""


def deploy(admin, namespace):
    """Create a Deployment and return the name of one of its ready pods."""
    labels = {"app": "nginx"}
    spec = {"containers": [{"name": "nginx", "image": "nginx"}]}
    template = {"metadata": {"labels": labels}, "spec": spec}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    admin.create(path, {"metadata": {"name": "nginx"}, "spec": spec})
    admin.wait_for(f"{path}/nginx", lambda it: it["status"].get("readyReplicas") == 2)
    return admin.list(f"/api/v1/namespaces/{namespace}/pods")[0]


def events_of(pod):
    """Yield each recorded event of the library for this pod and the current time."""
    [status] = pod["status"]["containerStatuses"]
    own = {
        "demo": pod["metadata"]["namespace"],
        POD: pod["metadata"]["name"],
        "3f1d7c2ab9e4": status["containerID"].rpartition("/")[2][:12],
    }
    for path in sorted(LIBRARY.glob("*/events/*.json")):
        event = json.loads(path.read_text())
        event["time"] = datetime.now(UTC).isoformat()
        event["hostname"] = pod["spec"]["nodeName"]
        fields = event["output_fields"]
        event["output_fields"] = {
            key: own.get(value, value) if isinstance(value, str) else value
            for key, value in fields.items()
        }
        yield event


def test_the_role_of_the_base_is_enough_for_each_call_and_the_server_accepts_it(
    tmp_path, admin, namespace, engine_kubeconfig
):
    create_engine_token(admin)  # applies the role again, whatever other tests left
    wait_for_right(admin, USER, "get", "pods")
    events = list(events_of(deploy(admin, namespace)))
    (tmp_path / "events.json").write_text(json.dumps(events))
    command = ["plan", str(LIBRARY), str(tmp_path / "events.json"), "-o", "json", "--server"]
    done = CliRunner().invoke(cli, [*command, "--kubeconfig", str(engine_kubeconfig)])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(events)
    steps = [
        (line["event"]["rule"], run["playbook"], step["name"], step["state"], step["message"])
        for line in lines
        for run in line["runs"]
        for step in run["steps"]
    ]
    assert [step for step in steps if step[3] not in ("planned", "held")] == []
    assert len(steps) > 100
    assert done.exit_code == 0
