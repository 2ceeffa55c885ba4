"""SIGKILL at each call of the other actions: commands, logs, artifacts, messages, requests and approvals.

A step that is not repeatable has its effect at most once, and its run ends as ``onFailure`` says. Only
``retry.unknown`` repeats it. All others have the same result as without a kill.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from datetime import UTC, datetime

import pytest
import urllib3
import yaml
from engine.actions.registry import load_actions
from tests.cluster.fixtures import require
from tests.soak.killing import KillingProxy, KillingReceiver, KillingStore, Kills
from tests.soak.test_kills_at_calls import HEADERS, POD_SPEC, STEPS
from tests.soak.watch import NOWHERE
from tests.support.engine import call, engine, wait_until
from tests.support.object_stores import BUCKET, s3_emulator, s3_variables

IMAGE = f"registry.example.com/tools/debug@sha256:{'0123456789abcdef' * 4}"
ARTIFACT = f"s3://{BUCKET}/%{{run.id}}"
SENT = {
    "http.request": {"url": "http://ADDRESS/sent"},
    "notify.send": {"to": {"fromSecret": "notify"}, "body": "seen"},
    "slack.post": {"webhook": {"fromSecret": "slack"}, "text": "seen"},
}
"""Action -> parameters of a step that sends a message to the receiver."""
COMMAND = {"pod.exec": {"command": ["sh", "-c", "echo ran >> COUNT"], "container": "c"}}
COLLECTED = {
    "pod.debug": {
        "image": IMAGE, "command": ["sh", "-c", "echo ran >> COUNT; echo output"],
        "duration": "20s", "artifact": ARTIFACT,
    },
    "pod.logs": {"artifact": ARTIFACT},
    "pod.capture": {"artifact": ARTIFACT},
}  # fmt: skip
"""Action -> parameters of a repeatable step that collects something of the pod."""
APPROVAL = {"approval.wait": {"timeout": "10m"}}
ACTIONS = {**SENT, **COMMAND, **COLLECTED, **APPROVAL}
UNKNOWN = "interrupted, may have run (retry.unknown: true repeats the step)"
AGAIN = "an interrupted attempt may have run, too"
RULE = "Terminal shell in container"


class World:
    """What the engine talks to, and one engine for each story.

    plane, namespace: of the pod ``web``; None for actions without a pod. store: HOST:PORT of an object store.
    """

    def __init__(self, tmp_path, plane=None, namespace=None, store=""):
        self.plane, self.namespace, self.store = plane, namespace, store
        self._folder, self._stories = tmp_path, 0

    def story(self, action, *, at=0, after=False, unknown=False, on_failure="stop"):
        """Run a step and the request that follows it. Kill the engine at a call. Return a Story."""
        self._stories += 1
        folder = self._folder / str(self._stories)
        folder.mkdir()
        kills = Kills()
        with contextlib.ExitStack() as stack:
            receiver = stack.enter_context(KillingReceiver(kills))
            servers = kills, receiver, _is_about_the_pod(action)
            flags, env = self._flags(stack, folder, *servers)
            count = folder / "count"
            step = {
                "action": action, "retry": {"unknown": unknown, "delay": "100ms"},
                "onFailure": on_failure,
                "with": _filled(ACTIONS[action], ADDRESS=receiver.address, COUNT=str(count)),
            }  # fmt: skip
            files = {"p.yaml": _playbook(step, receiver), "rails.yaml": _guardrails(receiver)}
            running = stack.enter_context(engine(folder, files, *flags, env=env))
            kills.running = running
            kills.arm(at, after=after)
            run = self._post(running)
            kills.restart()
            if action in APPROVAL:
                wait_until(lambda: receiver.seen["/notice"] == 1 + after)
                _approve(running, run, kills, at)
            wait_until(lambda: running.get(f"/runs/{run}")[2]["outcome"])
            return Story(self, running, run, kills.calls, receiver, count)

    def _flags(self, stack, folder, kills, receiver, counts):
        (folder / "secrets").mkdir()
        (folder / "secrets" / "notify").write_text(f"json://{receiver.address}/sent")
        (folder / "secrets" / "slack").write_text(f"http://{receiver.address}/sent")
        kubeconfig, env = folder / "kubeconfig", {}
        kubeconfig.write_text(json.dumps(NOWHERE))
        if self.plane:
            proxy = stack.enter_context(KillingProxy(self.plane, kills, counts))
            proxy.kubeconfig(self.plane.admin_token, kubeconfig)
        if self.store:
            store = stack.enter_context(KillingStore(kills, self.store))
            env = s3_variables(store.address)
        flags = (
            "--kubeconfig", str(kubeconfig), "--secrets-dir", str(folder / "secrets"),
            "--http-hosts", receiver.address, "--artifact-stores", f"s3://{BUCKET}",
        )  # fmt: skip
        return flags, env

    def _post(self, running):
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        fields = {"k8s.ns.name": self.namespace, "k8s.pod.name": "web"} if self.plane else {}
        body = {"rule": RULE, "time": now, "hostname": "worker-2", "output_fields": fields}
        return running.post(body)[2]["runs"][0]


class Story:
    """What is left of a run.

    states, message: of the step and of the request that follows, and the message of the step. effects: how
    often the step had its effect. follows: how often the request was sent. artifact: what the store has.
    """

    def __init__(self, world, running, run, calls, receiver, count):
        record = running.get(f"/runs/{run}")[2]
        self.calls, self.outcome = calls, record["outcome"]
        self.states = [step["state"] for step in record["steps"]]
        self.message, self.attempt = (
            record["steps"][0]["message"],
            record["steps"][0].get("attempt"),
        )
        commands = count.read_text().count("ran") if count.exists() else 0
        self.effects = receiver.seen["/sent"] + commands
        self.follows, self.notices = receiver.seen["/follows"], receiver.seen["/notice"]
        self.artifact = _artifact(world, run)


def _is_about_the_pod(action):
    """Return whether a call counts. The number of reads of a pod that is debugged depends on the kubelet."""
    counted = "/pods/web/" if action == "pod.debug" else "/pods/web"
    return lambda _method, path: counted in path


def _filled(parameters, **values):
    text = json.dumps(parameters)
    for name, value in values.items():
        text = text.replace(name, value)
    return json.loads(text)


def _playbook(step, receiver):
    url = f"http://{receiver.address}/follows"
    follows = {"name": "follows", "action": "http.request", "with": {"url": url}}
    spec = {"match": {"rules": [RULE]}, "actions": [step, follows]}
    head = {"apiVersion": "tiercel.dev/v1", "kind": "Playbook", "metadata": {"name": "p"}}
    return yaml.safe_dump({**head, "spec": spec})


def _guardrails(receiver):
    url, retry = f"http://{receiver.address}/notice", {"unknown": True, "delay": "100ms"}
    notice = {"action": "http.request", "with": {"url": url}, "retry": retry}
    head = {"apiVersion": "tiercel.dev/v1", "kind": "Guardrails", "metadata": {"name": "default"}}
    return yaml.safe_dump({**head, "spec": {"budgets": [], "onHeld": [notice]}})


def _approve(running, run, kills, at):
    """Approve the step. at: 0 also kills the engine after it confirmed the decision."""
    wait_until(lambda: running.get("/status")[2]["queue"]["held"] == 1)
    assert call(running.admin, "POST", f"/runs/{run}/approve", b"{}", HEADERS)[0] == 200
    if not at:
        kills.kill()
        running.wait()
        running.restart()


def _artifact(world, run):
    """Return the artifact: the text, or the names and sizes of the files of an archive."""
    if not world.store:
        return None
    found = urllib3.request("GET", f"http://{world.store}/{BUCKET}/{run}", retries=False)
    if found.status != 200:
        return None
    if not found.data.startswith(b"\x1f\x8b"):
        return found.data
    with tarfile.open(fileobj=io.BytesIO(found.data)) as archive:
        return sorted(archive.getnames())


def test_each_action_of_the_registry_is_killed_at_its_calls():
    assert {*STEPS, *ACTIONS} == {
        name
        for name, action in load_actions().items()
        if action.run.__module__.startswith("engine.")
    }


@pytest.mark.parametrize("action", SENT)
def test_a_message_is_sent_at_most_once(action, tmp_path, size):
    if action != "http.request" and not size.full:
        pytest.skip("only in `make soak`")
    check_at_most_once(World(tmp_path), action, size)


def test_a_command_is_run_at_most_once(tmp_path, control_plane, pod, size):
    check_at_most_once(World(tmp_path, control_plane, pod), "pod.exec", size)


@pytest.fixture
def pod(admin, namespace, size):
    """Create the pod ``web``, and return its namespace."""
    if not size.full:
        pytest.skip("only in `make soak`")
    require("kubelet")
    path = f"/api/v1/namespaces/{namespace}/pods"
    admin.create(path, {"metadata": {"name": "web"}, "spec": POD_SPEC})
    admin.wait_for(f"{path}/web", lambda it: it["status"].get("phase") == "Running")
    return namespace


def check_at_most_once(world, action, size):
    """Kill the engine at each call of a step that is not repeatable."""
    assert not load_actions()[action].repeatable
    calls, kills = 1, 0
    if size.full:
        whole = world.story(action)
        calls = whole.calls
        assert (whole.outcome, whole.states) == ("done", ["done", "done"])
        assert (whole.effects, whole.follows) == (1, 1)
    points = [(at, after) for at in range(1, calls + 1) for after in (False, True)]
    for at, after in size.of([(1, True)], points):
        has_run = int(after and at == calls)
        for on_failure in size.of(["continue"], ["continue", "stop"]):
            found = world.story(action, at=at, after=after, on_failure=on_failure)
            continues = on_failure == "continue"
            assert found.message == UNKNOWN
            assert found.states == ["failed", "done" if continues else "skipped"]
            assert (found.outcome, found.follows) == ("failed", int(continues))
            assert found.effects == has_run, (action, at, after)
            kills += 1
        if size.full:
            found = world.story(action, at=at, after=after, unknown=True)
            assert found.message.endswith(AGAIN)
            assert (found.outcome, found.states) == ("done", ["done", "done"])
            assert (found.effects, found.follows) == (1 + has_run, 1), (action, at, after)
            kills += 1
    size.tell(calls=calls, kills=kills, wrong_results=0)


@pytest.mark.parametrize("action", COLLECTED)
def test_what_is_collected_is_the_same(action, tmp_path, control_plane, pod, size):
    with s3_emulator() as store:
        world = World(tmp_path, control_plane, pod, store)
        whole = world.story(action)
        assert (whole.outcome, whole.follows) == ("done", 1), whole.message
        assert whole.artifact
        kills = 0
        for at in range(1, whole.calls + 1):
            for after in (False, True):
                found = world.story(action, at=at, after=after)
                assert (found.outcome, found.follows) == ("done", 1), found.message
                assert (found.artifact, found.effects) == (whole.artifact, whole.effects), (
                    at,
                    after,
                )
                kills += 1
    size.tell(calls=whole.calls, kills=kills, wrong_results=0)


def test_an_approval_counts_once(tmp_path, size):
    if not size.full:
        pytest.skip("only in `make soak`")
    world = World(tmp_path)
    for at, after in ((0, False), (1, False), (1, True)):
        found = world.story("approval.wait", at=at, after=after)
        assert (found.states[0], found.message) == ("done", "approved by local")
        assert found.notices == 1 + after  # the question may be asked twice, but is never lost
        if at:
            assert (found.outcome, found.follows) == ("done", 1)
        else:  # killed at the decision; the request that follows may have begun
            assert found.follows <= 1
