"""approval.wait: a run waits for a person, without a thread, over a restart, and up to its timeout."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from tests.support.engine import call, engine

PLAYBOOK = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: ask}
spec:
  match: {rules: [Terminal shell in container]}
  actions:
    - {name: ask, action: approval.wait, with: {timeout: 1h, from: [alice, bob]}}
    - {name: mark, action: pod.label, with: {labels: {approved: "true"}}}
"""
BOTH = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: ask-both}
spec:
  match: {rules: [Two people decide]}
  actions:
    - {name: ask, action: approval.wait, with: {timeout: 1h, approvals: 2}}
    - {name: mark, action: pod.label, with: {labels: {approved: "both"}}}
"""
TOKEN = {name: f"the token of {name}" for name in ("alice", "Alice", "bob", "mallory")}
RULE = "Terminal shell in container"


@pytest.fixture
def pods(admin, namespace):
    """Four pods; returns the labels of a pod."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    for name in "abcd":
        spec = {"containers": [{"name": "c", "image": "nginx"}]}
        admin.create(path, {"metadata": {"name": name}, "spec": spec})
    return lambda name: admin.get(f"{path}/{name}")["metadata"].get("labels", {})


def alert(namespace, pod, rule=RULE):
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    fields = {"k8s.ns.name": namespace, "k8s.pod.name": pod}
    return {"rule": rule, "time": now, "output_fields": fields}


@pytest.fixture
def running(tmp_path, engine_kubeconfig):
    """An engine with the operators of TOKEN."""
    operators = tmp_path / "operators"
    operators.write_text(
        "".join(f"{name} operate {sha256(TOKEN[name].encode()).hexdigest()}\n" for name in TOKEN)
    )
    operators.chmod(0o600)
    flags = ("--kubeconfig", str(engine_kubeconfig), "--operators-file", str(operators))
    with engine(tmp_path, {"ask.yaml": PLAYBOOK, "both.yaml": BOTH}, *flags) as running:
        yield running


def test_the_next_step_runs_only_after_the_named_operators_approved(running, namespace, pods):
    def ask(pod, rule, message):
        (run,) = running.post(alert(namespace, pod, rule))[2]["runs"]
        held = running.wait_for_audit(lambda line: line["run"] == run)
        assert (held["state"], held["step"], held["message"]) == ("held", "ask", message)
        return run

    def decide(run, verdict, operator, reason=""):
        headers = {
            "Authorization": f"Bearer {TOKEN[operator]}",
            "Content-Type": "application/json",
        }
        body = json.dumps({"reason": reason}).encode()
        return call(running.admin, "POST", f"/runs/{run}/{verdict}", body, headers)

    first, second = (ask(pod, RULE, "waits for an approval from alice or bob") for pod in "ab")
    two, denied = (ask(pod, "Two people decide", "waits for 2 approvals") for pod in "cd")
    status, _, body = decide(first, "approve", "mallory")
    assert status == 403
    assert "only alice or bob" in body["error"]
    assert decide(two, "approve", "alice", "I saw it")[2] == {"run": two, "missing": 1}
    assert decide(denied, "approve", "alice")[0] == 200
    running.restart()
    assert decide(first, "approve", "alice")[0] == 200
    assert decide(second, "deny", "alice")[0] == 200
    for same in ("alice", "Alice"):
        status, _, body = decide(two, "approve", same)
        assert (status, body["error"]) == (
            409,
            f"{same} has approved already; the step needs 1 more",
        )
    assert decide(two, "approve", "bob", "I too")[2] == {"run": two, "missing": 0}
    assert decide(denied, "deny", "mallory", "no")[0] == 200
    status, _, body = decide(denied, "approve", "bob")
    assert (status, "mallory denied it" in body["error"]) == (409, True)

    def ended(run):
        found = running.wait_for_audit(
            lambda line: line["run"] == run and line.get("state") in ("done", "refused")
        )
        return found["state"], found["message"]

    assert ended(first) == ("done", "approved by alice")
    assert ended(second) == ("refused", "denied by alice")
    assert ended(two) == ("done", "approved by alice and bob")
    assert ended(denied) == ("refused", "denied by mallory: no")
    for run in (first, two):
        running.wait_for_audit(lambda line, run=run: line["run"] == run and line["step"] == "mark")
    assert [pods(pod) for pod in "abcd"] == [
        {"approved": "true"}, {}, {"approved": "both"}, {},
    ]  # fmt: skip
    view = {"Authorization": f"Bearer {TOKEN['bob']}"}
    shown = call(running.admin, "GET", f"/runs/{two}", headers=view)[2]["decisions"]
    assert [(one["by"], one["reason"]) for one in shown] == [
        ("alice", "I saw it"),
        ("bob", "I too"),
    ]


def test_the_end_of_the_timeout_is_a_denial(tmp_path, namespace, pods, engine_kubeconfig):
    folder = {"ask.yaml": PLAYBOOK.replace("1h", "200ms")}
    with engine(tmp_path, folder, "--kubeconfig", str(engine_kubeconfig)) as running:
        (run,) = running.post(alert(namespace, "a"))[2]["runs"]
        refused = running.wait_for_audit(
            lambda line: line["run"] == run and line["state"] == "refused"
        )
        assert refused["message"].startswith("denied: no approval within 200ms")
        assert pods("a") == {}


HELD = 1_000


def test_a_thousand_held_runs_occupy_no_worker(tmp_path, engine_kubeconfig):
    few = ("--workers", "1", "--slow-workers", "1", "--kubeconfig", str(engine_kubeconfig))
    folder = {"ask.yaml": BOTH.replace("    - {name: mark", "    # - {name: mark")}
    with engine(tmp_path, folder, *few) as running:

        def threads():
            worker_process = running.pids[-1]
            return len(list(Path(f"/proc/{worker_process}/task").iterdir()))

        def post(first, count):
            alerts = [
                alert("demo", f"web-{n}", "Two people decide") for n in range(first, first + count)
            ]
            return running.post(alerts)[2]["runs"]

        def decide(run, verdict):
            headers = {"Content-Type": "application/json"}
            return call(running.admin, "POST", f"/runs/{run}/{verdict}", b"{}", headers)

        (warm,) = post(0, 1)
        running.wait_for_audit(lambda line: line["run"] == warm)
        before = threads()
        runs = [*post(1, HELD - 1)]
        running.wait_for_audit(lambda line: line["run"] == runs[-1])
        assert running.get("/status")[2]["queue"] == {
            "waiting": 0, "running": 0, "held": HELD, "oldestDueSeconds": 0.0,
        }  # fmt: skip
        assert (
            threads() <= before + 4
        )  # each of the two pools starts its two threads when it needs them
        assert decide(runs[500], "deny")[0] == 200
        ended = running.wait_for_audit(lambda line: line.get("state") == "refused")
        assert (ended["run"], ended["message"]) == (runs[500], "denied by local")
        (last,) = post(HELD, 1)
        held = running.wait_for_audit(lambda line: line["run"] == last)
        assert held["state"] == "held"
