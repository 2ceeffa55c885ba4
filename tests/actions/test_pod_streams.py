"""pod.exec, pod.logs, pod.capture and pod.debug on the real API server, with a stand-in of the kubelet."""

from __future__ import annotations

import hashlib
import json
import secrets
import tarfile
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from engine.actions.containers import EXCERPT
from engine.actions.pod_logs import MAX_READ
from engine.artifacts.api import ArtifactRecorder
from engine.artifacts.live_store import LiveArtifactStore
from engine.artifacts.url import store_list
from engine.cluster.api import CallRecorder
from engine.cluster.client import connect
from engine.execution.attempt import Clients, attempt
from engine.execution.guardrails import GuardrailChecker
from engine.intake.redaction import Redaction
from engine.model.event import parse_event
from engine.outbound.api import RequestRecorder
from tests.cluster.accounts import create_account, token_of, wait_for_right
from tests.cluster.fixtures import require
from tests.contracts.test_actions import ACTIONS, claim_of, compiled
from tests.support.fakes import FakeAttemptStore

NAMESPACE, POD = "pod-streams", "web-0"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def cluster(control_plane, tmp_path_factory):
    require("kubelet")
    file = tmp_path_factory.mktemp("pod-streams") / "kubeconfig"
    return connect(str(control_plane.kubeconfig(control_plane.admin_token, file)), None)


@pytest.fixture(scope="module", autouse=True)
def pod(admin, cluster):
    del cluster
    admin.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    containers = [{"name": name, "image": "nginx"} for name in ("web", "sidecar")]
    admin.create(PODS, {"metadata": {"name": POD}, "spec": {"containers": containers}})
    yield admin.wait_for(f"{PODS}/{POD}", lambda it: it["status"]["phase"] == "Running")
    admin.delete(f"/api/v1/namespaces/{NAMESPACE}")


@pytest.fixture
def run(cluster, tmp_path):
    """Return a function that runs a step to its end. Artifacts go to ``tmp_path``."""

    def run(action, timeout=30.0, redact=(), pod=POD, container_id=None, server=cluster, **given):
        fields = {"k8s.ns.name": NAMESPACE, "k8s.pod.name": pod, "container.id": container_id}
        now = datetime.now(UTC)
        time = now.isoformat().replace("+00:00", "Z")
        event = parse_event({"rule": "R", "time": time, "output_fields": fields})
        chosen = next(one for one in ACTIONS if one.name == action)
        store, stores = FakeAttemptStore(), store_list(f"file://{tmp_path}")
        claim = claim_of(chosen, given, event, run=secrets.token_hex(4))
        live = server.with_timeout(timeout)
        while True:
            http = RequestRecorder()
            artifacts = ArtifactRecorder(http.requests, LiveArtifactStore(stores), stores)
            clients = Clients(
                CallRecorder(live, live), http, dry=False, artifacts=artifacts,
                redact=Redaction(redact).redact_text,
            )  # fmt: skip
            outcome = attempt(claim, clients, GuardrailChecker(), now.timestamp(), store)
            if outcome.state != "waiting" or "has not started" not in outcome.message:
                return outcome
            threading.Event().wait(0.05)
            claim = replace(claim, attempt_state=dict(store.attempt_state))

    return run


def test_the_output_of_a_command_is_the_answer(run):
    outcome = run("pod.exec", command=["sh", "-c", "echo $CONTAINER"], container="sidecar")
    assert outcome.state == "done", outcome.message
    assert outcome.answer == {"exitCode": 0, "output": "sidecar\n", "size": 8, "cut": False}


def test_the_container_of_the_event_is_the_default(run, pod):
    ids = {one["name"]: one["containerID"] for one in pod["status"]["containerStatuses"]}
    short = ids["sidecar"].removeprefix("containerd://")[:12]
    outcome = run("pod.exec", command=["sh", "-c", "echo $CONTAINER"], container_id=short)
    assert outcome.answer["output"] == "sidecar\n"


def test_an_exit_code_other_than_0_is_a_failure_with_the_end_of_the_output(run):
    outcome = run("pod.exec", command=["sh", "-c", "echo 'no such process' >&2; exit 3"])
    assert (outcome.state, outcome.message) == ("failed", "exit code 3: no such process")


def test_a_command_that_hangs_fails_and_is_not_repeated(run):
    outcome = run("pod.exec", timeout=1.0, command=["sleep", "60"])
    assert (outcome.state, outcome.retry_in) == ("failed", None)
    assert "did not end within the timeout of the step; it may still run" in outcome.message


def test_a_large_output_is_cut_in_the_history(run):
    outcome = run("pod.exec", command=["head", "-c", "1000000", "/dev/zero"])
    assert outcome.state == "done"
    assert (len(outcome.answer["output"]), outcome.answer["size"]) == (EXCERPT, 1_000_000)
    assert outcome.answer["cut"] is True


def test_what_redact_finds_is_masked_in_the_history(run):
    outcome = run("pod.exec", command=["echo", "password=hunter2"], redact=["*=hunter[0-9]"])
    assert outcome.answer["output"] == "password=***\n"


def test_the_output_goes_to_an_artifact(run, tmp_path):
    url = f"file://{tmp_path}/out/%{{run.id}}.bin"
    outcome = run("pod.exec", command=["seq", "300000"], artifact=url)
    assert outcome.state == "done", outcome.message
    (file,) = (tmp_path / "out").iterdir()
    content = file.read_bytes()
    assert content == b"".join(b"%d\n" % n for n in range(1, 300_001))
    digest = hashlib.sha256(content).hexdigest()
    stored = {"url": f"file://{file}", "size": len(content), "sha256": digest, "cut": False}
    assert outcome.answer == {"exitCode": 0, "artifact": stored}
    assert [request.method for request in outcome.requests] == ["PUT"]


def test_a_command_that_hangs_leaves_no_artifact(run, tmp_path):
    url = f"file://{tmp_path}/half.bin"
    command = ["sh", "-c", "echo begin; exec sleep 60"]
    assert run("pod.exec", timeout=1.0, command=command, artifact=url).state == "failed"
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_outside_the_stores_is_refused_before_the_command_runs(run, tmp_path):
    marker = tmp_path / "ran"
    outcome = run("pod.exec", command=["touch", str(marker)], artifact="file:///elsewhere/a")
    assert (outcome.state, outcome.calls) == ("refused", ())
    assert not marker.exists()


@pytest.mark.parametrize("action", ["pod.exec", "pod.logs"])
def test_a_container_that_does_not_exist_is_named(run, action):
    more = {"command": ["true"]} if action == "pod.exec" else {}
    outcome = run(action, container="nope", **more)
    assert outcome.state == "failed"
    assert "has no container 'nope' (its containers: web, sidecar" in outcome.message


def test_the_end_of_a_log_is_the_answer(run, control_plane):
    log = control_plane.folder / "kubelet" / f"{NAMESPACE}_{POD}_web.log"
    log.write_text("".join(f"line {n}\n" for n in range(20_000)))
    assert run("pod.logs", lines=2).answer["output"] == "line 19998\nline 19999\n"
    outcome = run("pod.logs", lines=10_000)
    assert outcome.answer["output"].endswith("line 19999\n")
    assert (len(outcome.answer["output"]), outcome.answer["cut"]) == (EXCERPT, True)


def test_an_endless_log_is_cut(run, control_plane):
    log = control_plane.folder / "kubelet" / f"{NAMESPACE}_{POD}_sidecar.previous.log"
    log.symlink_to("/dev/zero")
    outcome = run("pod.logs", previous=True, container="sidecar")
    assert (outcome.state, outcome.answer["cut"]) == ("done", True)
    assert outcome.answer["size"] == MAX_READ


def test_a_capture_is_a_tar_archive(run, admin, pod, tmp_path):
    about = {"kind": "Pod", "name": POD, "namespace": NAMESPACE, "uid": pod["metadata"]["uid"]}
    for name, uid in (("ours", about["uid"]), ("other", "another")):
        body = {"metadata": {"name": name}, "involvedObject": {**about, "uid": uid}}
        admin.create(f"/api/v1/namespaces/{NAMESPACE}/events", body)
    outcome = run("pod.capture", artifact=f"file://{tmp_path}/%{{run.id}}.tar.gz")
    assert outcome.state == "done", outcome.message
    (file,) = tmp_path.iterdir()
    with tarfile.open(file) as archive:
        names = archive.getnames()
        content = {n: archive.extractfile(n).read() for n in names}
    assert json.loads(content["manifest.json"])["metadata"]["uid"] == pod["metadata"]["uid"]
    events = json.loads(content["events.json"])
    assert [event["metadata"]["name"] for event in events] == ["ours"]
    assert {"logs/web.log", "logs/sidecar.log"} <= content.keys()
    assert b"local_address" in content["network.txt"]
    assert outcome.answer["artifact"]["size"] == file.stat().st_size


def test_a_capture_names_what_is_missing(run, admin, tmp_path):
    spec = {"containers": [{"name": "web", "image": "registry.invalid/nginx"}]}
    admin.create(PODS, {"metadata": {"name": "pending"}, "spec": spec})
    admin.wait_for(f"{PODS}/pending", lambda it: it["status"].get("containerStatuses"))
    artifact = f"file://{tmp_path}/%{{run.id}}.tar.gz"
    outcome = run("pod.capture", pod="pending", what=["manifest", "logs"], artifact=artifact)
    assert (outcome.state, outcome.answer["missing"]) == ("done", ["logs/web.log"])
    assert outcome.message.endswith("without logs/web.log")
    other = f"file://{tmp_path}/other.tar.gz"
    outcome = run("pod.capture", pod="pending", what=["logs"], artifact=other)
    assert (outcome.state, len(list(tmp_path.iterdir()))) == ("failed", 1)
    assert "nothing could be collected" in outcome.message


def test_a_capture_without_a_right_stores_the_rest_and_fails_with_the_name_of_the_right(
    run, control_plane, admin, tmp_path, tmp_path_factory
):
    token = restricted_token(admin)
    file = tmp_path_factory.mktemp("restricted") / "kubeconfig"
    restricted = connect(str(control_plane.kubeconfig(token, file)), None)
    artifact = f"file://{tmp_path}/out.tar.gz"
    outcome = run("pod.capture", server=restricted, what=["manifest", "logs"], artifact=artifact)
    assert (outcome.state, outcome.retry_in) == ("failed", None)
    assert "missing right: get on pods/log" in outcome.message
    assert f"bytes are in {artifact} without logs/web.log, logs/sidecar.log" in outcome.message
    with tarfile.open(tmp_path / "out.tar.gz") as archive:
        assert archive.getnames() == [
            "manifest.json",
            "logs/web.log.error.txt",
            "logs/sidecar.log.error.txt",
        ]


def restricted_token(admin):
    """Return a token that may read pods and not their logs."""
    group, name = "/apis/rbac.authorization.k8s.io/v1", f"reader-{secrets.token_hex(4)}"
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    admin.create(
        f"{group}/namespaces/{NAMESPACE}/roles", {"metadata": {"name": name}, "rules": rules}
    )
    create_account(admin, NAMESPACE, name)
    subject = {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    body = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
    admin.create(f"{group}/namespaces/{NAMESPACE}/rolebindings", body)
    user = f"system:serviceaccount:{NAMESPACE}:{name}"
    wait_for_right(admin, user, "get", "pods", namespace=NAMESPACE)
    return token_of(admin, NAMESPACE, name)


def test_an_ephemeral_container_runs_a_command(run, admin, tmp_path):
    outcome = run(
        "pod.debug", image=f"registry.example.com/tools@{DIGEST}", command=["seq", "3"],
        artifact=f"file://{tmp_path}/out.txt",
    )  # fmt: skip
    assert outcome.state == "done", outcome.message
    assert (tmp_path / "out.txt").read_bytes() == b"1\n2\n3\n"
    added = admin.get(f"{PODS}/{POD}")["spec"]["ephemeralContainers"][-1]
    assert (added["command"], added["targetContainerName"]) == (["seq", "3"], "web")


def test_the_output_of_a_container_that_does_not_end_is_collected_for_the_duration(run):
    outcome = run(
        "pod.debug", image=f"registry.example.com/tools@{DIGEST}", duration="1s",
        command=["sh", "-c", "echo begin; exec sleep 60"],
    )  # fmt: skip
    assert outcome.state == "done", outcome.message
    assert outcome.answer["output"] == "begin\n"
    assert "may still run" in outcome.message


def test_an_image_that_cannot_be_pulled_is_a_failure(run):
    outcome = run("pod.debug", image=f"registry.invalid/tools@{DIGEST}", command=["true"])
    assert outcome.state == "failed"
    assert "cannot start: ErrImagePull" in outcome.message


@pytest.mark.parametrize(
    ("action", "given", "what"),
    [
        ("pod.debug", {"image": "nginx:latest", "command": ["true"]}, "not pinned by a digest"),
        ("pod.debug", {"image": f"%proc.name@{DIGEST}", "command": ["true"]}, "not pinned"),
        ("pod.debug", {"image": f"a@{DIGEST[:-1]}", "command": ["true"]}, "not pinned"),
        ("pod.exec", {"command": ["%proc.exepath"]}, "the program must be literal text"),
        ("pod.exec", {"command": "kill 1"}, "takes a list of 1 to 64 words"),
        ("pod.exec", {"command": []}, "takes a list of 1 to 64 words"),
        ("pod.exec", {"command": ["a\0b"]}, "NUL"),
        (
            "pod.logs",
            {"artifact": "s3://%k8s.ns.name/a"},
            "the scheme and the bucket as literal text",
        ),
        ("pod.logs", {"artifact": "file:///srv/../etc/passwd"}, "`.` or `..`"),
        ("pod.logs", {"lines": 0}, "a whole number"),
        ("pod.capture", {"artifact": "s3://forensics/a", "what": ["memory"]}, "takes manifest"),
    ],
)
def test_a_parameter_that_is_not_valid_is_a_finding(action, given, what):
    found = compiled(next(one for one in ACTIONS if one.name == action), given)[1]
    assert [what in finding.what for finding in found] == [True], found
