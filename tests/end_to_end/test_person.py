"""A shell in a pod: capture the pod, ask two people (Slack and a command), isolate, undo after the ttl."""

from __future__ import annotations

import json
import tarfile
from datetime import UTC, datetime
from hashlib import sha256
from secrets import token_hex

import pytest
import yaml
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.cluster.accounts import (
    apply_manifests,
    create_account,
    token_of,
    wait_for_right,
)
from tests.cluster.fixtures import require
from tests.support.engine import call, engine, write_playbooks
from tests.support.slack import APP_TOKEN, BOT_TOKEN, TEAM, Slack

FOLDER = {
    "shell.yaml": """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: shell}
spec:
  match: {rules: [Terminal shell in container]}
  actions:
    - name: capture
      action: pod.capture
      with: {what: [manifest, events, logs, processes], artifact: "file://ARTIFACTS/%{run.id}.tar.gz"}
    - {name: ask, action: approval.wait, with: {timeout: 1h, from: [alice, carol], approvals: 2}}
    - {name: isolate, action: pod.isolate, with: {ttl: 1s}}
  finally:
    - action: slack.post
      with:
        token: {fromSecret: slack-bot-token}
        channel: C0123CHAN
        text: "%steps.isolate.state: %k8s.pod.name. tiercel undo %run.id"
""",
    "expire.yaml": """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: expire}
spec:
  match: {rules: [Nobody answers]}
  actions:
    - {name: ask, action: approval.wait, with: {timeout: 100ms}}
    - {action: pod.delete}
""",
    "guardrails.yaml": """\
apiVersion: tiercel.dev/v1
kind: Guardrails
metadata: {name: default}
spec:
  onHeld:
    - action: slack.post
      with:
        token: {fromSecret: slack-bot-token}
        channel: C0123CHAN
        buttons: true
        text: "%held.step of %playbook on %k8s.pod.name: %held.reason. tiercel approve %run.id"
""",
}
CAROL = "the token of carol"
ALICE, MALLORY = "U0ALICE", "U0MALLORY"
EXPIRED = "denied: no approval within 100ms (waits for an approval)"


@pytest.fixture
def pod(admin, namespace, control_plane):
    """A running pod with a log. Returns its path."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    spec = {"containers": [{"name": "c", "image": "nginx"}]}
    admin.create(path, {"metadata": {"name": "web"}, "spec": spec})
    admin.wait_for(
        path, lambda it: [pod["status"].get("phase") for pod in it["items"]] == ["Running"]
    )
    (control_plane.folder / "kubelet" / f"{namespace}_web_c.log").write_text("GET /\n")
    return f"{path}/web"


@pytest.fixture(scope="module")
def slack():
    with Slack() as it:
        yield it


@pytest.fixture(scope="module")
def playbooks(tmp_path_factory):
    """The folder of playbooks. The folder ``artifacts`` is beside it."""
    tmp_path = tmp_path_factory.mktemp("person")
    (tmp_path / "artifacts").mkdir()
    files = {
        name: text.replace("ARTIFACTS", str(tmp_path / "artifacts"))
        for name, text in FOLDER.items()
    }
    return write_playbooks(tmp_path / "playbooks", files)


@pytest.fixture(scope="module")
def kubeconfig(admin, control_plane, playbooks):
    """A kubeconfig of an account with exactly the rights that ``tiercel rbac`` prints for the playbooks."""
    require("kubelet")
    namespace = f"story-{token_hex(4)}"
    admin.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    create_account(admin, namespace, "engine")
    printed = CliRunner().invoke(cli, ["rbac", str(playbooks), "--name", namespace]).stdout
    (role,) = yaml.safe_load_all(printed)
    binding = {
        "apiVersion": role["apiVersion"], "kind": "ClusterRoleBinding", "metadata": role["metadata"],
        "roleRef": {"apiGroup": role["apiVersion"].split("/")[0], "kind": "ClusterRole", "name": namespace},
        "subjects": [{"kind": "ServiceAccount", "name": "engine", "namespace": namespace}],
    }  # fmt: skip
    paths = apply_manifests(admin, [role, binding])
    user = f"system:serviceaccount:{namespace}:engine"
    wait_for_right(admin, user, "create", "pods/exec")
    token = token_of(admin, namespace, "engine")
    yield control_plane.kubeconfig(token, playbooks.parent / "kubeconfig.json")
    for path in (*paths, f"/api/v1/namespaces/{namespace}"):
        admin.delete(path)


@pytest.fixture(scope="module")
def running(playbooks, slack, kubeconfig):
    tmp_path = playbooks.parent
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "slack-bot-token").write_text(f"{BOT_TOKEN}\n")
    (tmp_path / "app-token").write_text(f"{APP_TOKEN}\n")
    digest = sha256(CAROL.encode()).hexdigest()
    operators = f"alice operate slack:{TEAM}/{ALICE}\ncarol operate {digest}\n"
    (tmp_path / "operators").write_text(operators)
    (tmp_path / "carol").write_text(CAROL)
    flags = {
        "--kubeconfig": kubeconfig, "--artifact-stores": f"file://{tmp_path}/artifacts",
        "--secrets-dir": secrets, "--slack-api": slack.api,
        "--operators-file": tmp_path / "operators", "--slack-app-token-file": tmp_path / "app-token",
    }  # fmt: skip
    given = [str(part) for pair in flags.items() for part in pair]
    with engine(tmp_path, playbooks, *given) as it:
        it.token_file, it.artifacts = tmp_path / "carol", tmp_path / "artifacts"
        yield it


def alert(namespace, rule):
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    fields = {"k8s.ns.name": namespace, "k8s.pod.name": "web", "proc.cmdline": "sh -c <!here>"}
    return {"rule": rule, "time": now, "output_fields": fields}


def test_two_people_decide_and_the_isolation_ends_with_its_ttl(
    admin, namespace, pod, slack, running
):
    policies = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    version = admin.get(policies)["metadata"]["resourceVersion"]
    (run,) = running.post(alert(namespace, "Terminal shell in container"))[2]["runs"]
    place = slack.message("ask of shell on web")
    said = slack.messages[place]["text"]
    assert said.endswith(f"waits for 2 approvals from alice or carol. tiercel approve {run}")
    with tarfile.open(running.artifacts / f"{run}.tar.gz") as archive:
        manifest = json.loads(archive.extractfile("manifest.json").read())
        assert manifest["metadata"]["uid"] == admin.get(pod)["metadata"]["uid"]
        assert archive.extractfile("logs/c.log").read() == b"GET /\n"

    # Slack's answer, which says where the message is, must be in the journal.
    running.wait_for_audit(lambda line: line.get("action") == "slack.post")
    running.kill()  # people take their time
    slack.wait_for(lambda: not slack.connections)
    running.restart()
    slack.press(place, "approve", MALLORY)
    refused = running.wait_for_audit(lambda line: "refused" in line)
    viewed = call(running.admin, "GET", "/status", headers={"Authorization": f"Bearer {CAROL}"})[2]
    assert viewed["sources"] == [{"kind": "slack", "target": slack.api, "error": None}]
    assert (refused["by"], refused["run"]) == (f"slack:{TEAM}/{MALLORY}", run)
    assert refused["reason"] == "no operator has this Slack account"
    slack.press(place, "approve", ALICE)
    first = running.wait_for_audit(lambda line: line.get("decision") == "approve")
    assert (first["by"], first["missing"], first["step"]) == ("alice", 1, "ask")
    approve = ["approve", run, "--reason", "I saw it", "--server", running.admin]
    done = CliRunner().invoke(cli, [*approve, "--token-file", str(running.token_file)])
    assert done.stdout.startswith("approved; the run continues")

    def ended(step, state):
        return running.wait_for_audit(
            lambda line: (line.get("step"), line.get("state")) == (step, state)
        )

    assert ended("ask", "done")["message"] == "approved by alice and carol"
    assert ended("isolate", "done")["run"] == ended("isolate", "undone")["run"] == run
    kinds = []
    for event in admin.watch(policies, version, 60):
        kinds.append(event["type"])
        if kinds[-1] == "DELETED":
            break
    assert (kinds[0], kinds[-1]) == ("ADDED", "DELETED")
    assert "tiercel.dev/quarantine" not in admin.get(pod)["metadata"].get("labels", {})
    slack.wait_for(
        lambda: [it["type"] for it in slack.messages[place]["blocks"]] == ["section", "context"]
    )
    below = slack.messages[place]["blocks"][-1]["elements"][0]["text"].splitlines()
    assert below == [
        f"Approved by alice (step ask): Slack button ({TEAM}/{ALICE})",
        "Approved by carol (step ask): I saw it",
    ]
    after = slack.messages[slack.message("done: web")]
    assert after["text"].endswith(f"tiercel undo {run}")
    posted = [body["text"] for method, body in slack.calls if method == "chat.postMessage"]
    assert sum("ask of shell" in text for text in posted) == 1


def test_a_message_says_that_nobody_answered(admin, namespace, pod, slack, running):
    (run,) = running.post(alert(namespace, "Nobody answers"))[2]["runs"]
    refused = running.wait_for_audit(lambda line: line.get("state") == "refused")
    assert (refused["run"], refused["message"]) == (run, EXPIRED)
    place = slack.message("ask of expire on web")
    slack.wait_for(
        lambda: slack.messages[place]["blocks"][-1].get("elements", [{}])[0].get("text") == EXPIRED
    )
    assert admin.get(pod)["metadata"].get("deletionTimestamp") is None
