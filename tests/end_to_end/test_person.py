"""A shell in a pod: collect evidence, ask two people in Slack and by command, isolate, undo after the ttl."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.support.engine import call, engine
from tests.support.slack import APP_TOKEN, BOT_TOKEN, TEAM, Slack

FOLDER = {
    "shell.yaml": """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: shell}
spec:
  match: {rules: [Terminal shell in container]}
  actions:
    - name: evidence
      action: pod.annotate
      with: {annotations: {example.com/seen: "%rule: %proc.cmdline"}}
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
def pod(admin, namespace):
    """A running pod. Returns its path."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    spec = {"containers": [{"name": "c", "image": "nginx"}]}
    admin.create(path, {"metadata": {"name": "web"}, "spec": spec})
    admin.wait_for(
        path, lambda it: [pod["status"].get("phase") for pod in it["items"]] == ["Running"]
    )
    return f"{path}/web"


@pytest.fixture(scope="module")
def slack():
    with Slack() as it:
        yield it


@pytest.fixture(scope="module")
def running(tmp_path_factory, slack, engine_kubeconfig):
    tmp_path = tmp_path_factory.mktemp("person")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "slack-bot-token").write_text(f"{BOT_TOKEN}\n")
    (tmp_path / "app-token").write_text(f"{APP_TOKEN}\n")
    digest = sha256(CAROL.encode()).hexdigest()
    operators = f"alice operate slack:{TEAM}/{ALICE}\ncarol operate {digest}\n"
    (tmp_path / "operators").write_text(operators)
    (tmp_path / "carol").write_text(CAROL)
    flags = {
        "--kubeconfig": engine_kubeconfig, "--secrets-dir": secrets, "--slack-api": slack.api,
        "--operators-file": tmp_path / "operators", "--slack-app-token-file": tmp_path / "app-token",
    }  # fmt: skip
    given = [str(part) for pair in flags.items() for part in pair]
    with engine(tmp_path, FOLDER, *given) as it:
        it.token_file = tmp_path / "carol"
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
    seen = "Terminal shell in container: sh -c <!here>"
    assert admin.get(pod)["metadata"]["annotations"]["example.com/seen"] == seen

    running.kill()  # people take their time
    slack.wait_for(lambda: not slack.connections)
    running.restart()
    slack.press(place, "approve", MALLORY)
    viewed = call(running.admin, "GET", "/status", headers={"Authorization": f"Bearer {CAROL}"})[2]
    assert viewed["sources"] == [{"kind": "slack", "target": slack.api, "error": None}]
    refused = running.wait_for_audit(lambda line: "refused" in line)
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
