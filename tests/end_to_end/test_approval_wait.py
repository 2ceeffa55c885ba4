"""approval.wait: a run waits for a person, without a thread, over a restart, and up to its timeout."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

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
TOKEN = {name: f"the token of {name}" for name in ("alice", "mallory")}
RULE = "Terminal shell in container"


@pytest.fixture
def pods(admin, namespace):
    """Two pods; returns the labels of a pod."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    for name in ("a", "b"):
        spec = {"containers": [{"name": "c", "image": "nginx"}]}
        admin.create(path, {"metadata": {"name": name}, "spec": spec})
    return lambda name: admin.get(f"{path}/{name}")["metadata"].get("labels", {})


def alert(namespace, pod):
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    fields = {"k8s.ns.name": namespace, "k8s.pod.name": pod}
    return {"rule": RULE, "time": now, "output_fields": fields}


def test_the_next_step_runs_only_after_a_named_operator_approved(
    tmp_path, namespace, pods, engine_kubeconfig
):
    operators = tmp_path / "operators"
    operators.write_text(
        "".join(f"{name} operate {sha256(TOKEN[name].encode()).hexdigest()}\n" for name in TOKEN)
    )
    operators.chmod(0o600)
    flags = ("--kubeconfig", str(engine_kubeconfig), "--operators-file", str(operators))
    with engine(tmp_path, {"ask.yaml": PLAYBOOK}, *flags) as running:

        def ask(pod):
            (run,) = running.post(alert(namespace, pod))[2]["runs"]
            held = running.wait_for_audit(lambda line: line["run"] == run)
            assert (held["state"], held["step"]) == ("held", "ask")
            assert held["message"] == "waits for an approval from alice or bob"
            return run

        def decide(run, verdict, operator):
            headers = {
                "Authorization": f"Bearer {TOKEN[operator]}",
                "Content-Type": "application/json",
            }
            return call(running.admin, "POST", f"/runs/{run}/{verdict}", b"{}", headers)

        first, second = ask("a"), ask("b")
        status, _, body = decide(first, "approve", "mallory")
        assert status == 403
        assert "only alice or bob" in body["error"]
        running.restart()
        assert decide(first, "approve", "alice")[0] == 200
        assert decide(second, "deny", "alice")[0] == 200
        done = running.wait_for_audit(lambda line: line.get("step") == "mark" and "state" in line)
        refused = running.wait_for_audit(lambda line: line.get("state") == "refused")
        assert (done["run"], done["state"]) == (first, "done")
        assert (refused["run"], refused["message"]) == (second, "denied by alice")
        assert pods("a") == {"approved": "true"}
        assert pods("b") == {}


def test_the_end_of_the_timeout_is_a_denial(tmp_path, namespace, pods, engine_kubeconfig):
    folder = {"ask.yaml": PLAYBOOK.replace("1h", "200ms")}
    with engine(tmp_path, folder, "--kubeconfig", str(engine_kubeconfig)) as running:
        (run,) = running.post(alert(namespace, "a"))[2]["runs"]
        refused = running.wait_for_audit(
            lambda line: line["run"] == run and line["state"] == "refused"
        )
        assert refused["message"].startswith("denied: no approval within 200ms")
        assert pods("a") == {}
