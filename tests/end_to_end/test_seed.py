"""The main scenario on a real API server. Only Slack is a stand-in.

A Deployment `nginx` in `demo`, the shipped playbooks in a folder like a ConfigMap mount, and `tiercel serve`
as a process with exactly the rights of kustomize/base.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from engine.cluster.network_policies import Peer, is_allowed
from tests.support.engine import engine
from tests.support.kubelet_files import Mount
from tests.support.slack import Webhook

ROOT = Path(__file__).parents[2]
REPLICAS = 4
DEMO = "/api/v1/namespaces/demo"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/demo/networkpolicies"
RESOLVER = {
    "metadata": {"name": "dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
}


@pytest.fixture(scope="module")
def deployment(admin):
    admin.create("/api/v1/namespaces", {"metadata": {"name": "demo"}})
    labels = {"app": "nginx"}
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "containers": [{"name": "nginx", "image": "nginx"}],
            "terminationGracePeriodSeconds": 1,
        },
    }
    spec = {"replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": template}
    body = {"metadata": {"name": "nginx"}, "spec": spec}
    admin.create("/apis/apps/v1/namespaces/demo/deployments", body)
    admin.wait_for(f"{DEMO}/pods", lambda it: len(running(it)) == REPLICAS)
    return [pod["metadata"]["name"] for pod in running(admin.get(f"{DEMO}/pods"))]


@pytest.fixture
def slack():
    with Webhook() as server:
        yield server


@pytest.fixture
def mount(tmp_path):
    return Mount(tmp_path / "playbooks", shipped())


@pytest.fixture
def running_engine(tmp_path, mount, slack, engine_kubeconfig):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    url = f"http://{slack.address}/services/T0/B0/canary"
    (secrets / "slack-webhook-url").write_text(url + "\n")
    flags = ["--kubeconfig", str(engine_kubeconfig), "--secrets-dir", str(secrets)]
    environment = {"TIERCEL_POD_NAMESPACE": "tiercel"}
    with engine(tmp_path, mount.folder, *flags, env=environment) as running:
        yield running


def shipped(**changed: str) -> dict[str, bytes]:
    """Return the files of the ConfigMap of playbooks/. changed: values, name -> value."""
    folder = ROOT / "playbooks"
    [generator] = yaml.safe_load((folder / "kustomization.yaml").read_text())["configMapGenerator"]
    files = {Path(name).name: (folder / name).read_bytes() for name in generator["files"]}
    values = yaml.safe_load(files["values.yaml"])
    assert changed.keys() <= values.keys()
    files["values.yaml"] = yaml.safe_dump({**values, **changed}).encode()
    return files


def running(pods):
    """Return the pods of a list that run and are not terminating."""
    return [
        pod
        for pod in (pods or {}).get("items", [])
        if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]


def event(sample, admin, pod, **more):
    """Return the sample event as Falcosidekick sends it, for that pod and the current time."""
    alert = json.loads((ROOT / "playbooks" / "events" / sample).read_text())
    found = admin.get(f"{DEMO}/pods/{pod}")
    container = found["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    alert["time"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    alert["hostname"] = found["spec"]["nodeName"]
    alert["output_fields"] |= {
        "k8s.ns.name": "demo",
        "k8s.pod.name": pod,
        "container.id": container[:12],
        **more,
    }
    return alert


def over(playbook):
    """Return whether the last step of the playbook's run has ended."""
    return lambda line: line.get("playbook") == playbook and line.get("step") == "kubernetes.event"


def test_a_connection_to_a_forbidden_address_isolates_the_pod(
    running_engine, deployment, admin, slack
):
    pod = deployment[0]
    hostile = "curl <https://x|y> & <!channel>"
    alert = event("vistatech.json", admin, pod, **{"proc.cmdline": hostile})
    status, _, answer = running_engine.post(alert)
    assert (status, answer["accepted"], answer["errors"]) == (202, 1, [])
    running_engine.wait_for_audit(over("isolate-forbidden-egress"))
    assert {line["state"] for line in running_engine.audit} == {"done"}

    found = admin.get(f"{DEMO}/pods/{pod}")
    (policy,) = admin.list(POLICIES)
    assert policy["spec"]["policyTypes"] == ["Egress"]
    selector = policy["spec"]["podSelector"]["matchLabels"]
    assert selector
    selected = [
        one["metadata"]["name"]
        for one in admin.list(f"{DEMO}/pods")
        if selector.items() <= one["metadata"]["labels"].items()
    ]
    assert selected == [pod]
    forbidden = Peer(ip="213.215.222.58")
    resolver = Peer(pod=RESOLVER)
    assert not is_allowed([policy], found, "Egress", forbidden, 443)
    assert is_allowed([policy], found, "Egress", resolver, 53, "UDP")
    assert found["metadata"]["labels"]["quarantine"] == "true"
    (note,) = [e for e in admin.list(f"{DEMO}/events") if e["reason"] == "Tiercel"]
    assert note["involvedObject"]["uid"] == found["metadata"]["uid"]
    ((_, message),) = slack.messages
    assert f"demo/{pod}" in message["text"]
    assert "Connection to vistatech.it" in message["text"]
    assert "curl &lt;https://x|y&gt; &amp; &lt;!channel&gt;" in message["text"]

    again = {**alert, "uuid": "0e4c5f5e-7a1c-4f7a-8f3a-2b8f0a3c9d11"}
    status, _, repeated = running_engine.post(again)
    assert (status, repeated["duplicates"], repeated["runs"]) == (202, 1, answer["runs"])
    assert len(slack.messages) == 1
    assert admin.list(POLICIES)[0]["metadata"]["generation"] == 1


def test_an_edited_playbook_is_in_force_without_a_restart(running_engine, deployment, admin, mount):
    labelled, pod = deployment[1:3]
    running_engine.post(event("terminal-shell.json", admin, labelled))
    running_engine.wait_for_audit(over("terminal-shell-in-container"))
    running_engine.wait_for_audit(over("terminal-shell-replace"))  # as a dry run
    found = admin.get(f"{DEMO}/pods/{labelled}")["metadata"]
    assert found["labels"]["security.tiercel.dev/shell"] == "true"
    assert "deletionTimestamp" not in found

    before = running_engine.get("/status")[2]["playbooks"]["digest"]
    mount.write(shipped(shellDeleteMode="enforce"))
    running_engine.wait_for_log(
        lambda line: line.get("event") == "playbooks_loaded" and line["digest"] != before
    )
    running_engine.post(event("terminal-shell.json", admin, pod))
    gone = admin.wait_for(f"{DEMO}/pods/{pod}", lambda it: it is None)
    assert gone is None
    fresh = admin.wait_for(f"{DEMO}/pods", lambda it: len(running(it)) == REPLICAS)
    assert pod not in {one["metadata"]["name"] for one in running(fresh)}


def test_accepted_runs_are_executed_after_the_engine_was_killed(
    running_engine, deployment, admin, control_plane, slack
):
    pod = deployment[3]
    alert = event("vistatech.json", admin, pod)
    control_plane.stop_api()
    try:
        status, _, answer = running_engine.post(alert)
        assert status == 202
        running_engine.wait_for_audit(lambda line: line.get("state") == "waiting")
        running_engine.kill()
    finally:
        control_plane.start_api()
    assert slack.messages == []
    running_engine.restart()
    running_engine.wait_for_audit(over("isolate-forbidden-egress"))
    labels = admin.get(f"{DEMO}/pods/{pod}")["metadata"]["labels"]
    assert labels["quarantine"] == "true"
    assert "tiercel.dev/quarantine" in labels
    assert len(slack.messages) == 1
    run = running_engine.get(f"/runs/{answer['runs'][0]}")[2]
    assert run["outcome"] == "done"


def test_no_output_contains_a_secret(running_engine, deployment, admin):
    running_engine.post(event("vistatech.json", admin, deployment[0], **{"proc.cmdline": "x"}))
    running_engine.wait_for_audit(over("isolate-forbidden-egress"))
    said = json.dumps([running_engine.log, running_engine.audit, running_engine.get("/status")[2]])
    assert "canary" not in said
