"""No output contains a secret or a redacted value, whatever goes wrong."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import json
from urllib.parse import urlsplit

import pytest
from engine.model.event import identity, parse_event
from tests.support.engine import PATIENCE, call, engine
from tests.support.loopback_server import LoopbackServer, as_json

SECRETS = {
    "webhook": "canaryhook1234567890",
    "ticket": "canary-ticket-4711",
    "bot": "xoxb-canary-bot",
    "sender": "canary-sender-token",
    "path": "canary-path-secret-16",
    "operator": "canary-operator-token",
}
REDACTED = "canary-password"
EVERY = (*SECRETS.values(), REDACTED)

EVENT = {
    "rule": "R",
    "time": "2026-03-01T10:00:00Z",
    "hostname": f"{REDACTED}-host",
    "tags": ["t", f"{REDACTED}-tag"],
    "output": f"it ran mysql -p {REDACTED}1",
    "extra": {"of": [f"{REDACTED}2"]},
    "output_fields": {
        "k8s.ns.name": "demo",
        "k8s.pod.name": f"{REDACTED}-pod",
        "proc.cmdline": f"mysql -p {REDACTED}1",
        "fd.name": f"/{REDACTED}/x",
        "ka.req": {"body": [{REDACTED: f"{REDACTED}3"}]},
    },
}

PLAYBOOK = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {{name: tell}}
spec:
  match: {{rules: [R]}}
  conditions:
    - {{jsonPath: $.extra, exists: true}}
    - {{jsonPath: $.hostname, contains: canary}}
  throttle: {{key: [proc.cmdline], once: 10m}}
  actions:
    - &echo
      action: http.request
      name: echo
      with: {{url: "{url}/200", headers: {{Authorization: {{fromSecret: ticket}}}}, body: "%proc.cmdline"}}
      onFailure: continue
      retry: {{attempts: 1, giveUp: 1ms}}
    - action: http.request
      name: broken
      with: {{url: "{url}/500", headers: {{Authorization: {{fromSecret: ticket}}}}}}
      onFailure: continue
      retry: {{attempts: 1, giveUp: 1ms}}
    - action: http.request
      name: redirected
      with: {{url: "{url}/302", headers: {{Authorization: {{fromSecret: ticket}}}}}}
      onFailure: continue
    - action: http.request
      name: refused
      with: {{url: "http://127.0.0.1:1/x", headers: {{Authorization: {{fromSecret: ticket}}}}}}
      onFailure: continue
      retry: {{attempts: 1, giveUp: 1ms}}
    - action: slack.post
      name: said-no
      with: {{webhook: {{fromSecret: hook}}, text: "%proc.cmdline %steps.echo.message %output"}}
      onFailure: continue
      retry: {{attempts: 1, giveUp: 1ms}}
    - action: slack.post
      name: no-url
      with: {{webhook: {{fromSecret: bot}}, text: x}}
      onFailure: continue
      retry: {{attempts: 1, giveUp: 1ms}}
    - action: slack.post
      name: missing
      with: {{webhook: {{fromSecret: gone}}, text: x}}
      onFailure: continue
      retry: {{attempts: 1, giveUp: 1ms}}
"""
STEPS = ("echo", "broken", "redirected", "refused", "said-no", "no-url", "missing")


class Echo(LoopbackServer):
    """Repeats everything that it received, in every place of its answer."""

    def respond(self, method, path, headers, body):
        del method, body
        token = headers["Authorization"]
        word = path.strip("/").split("/")[0]
        said = {"headers": dict(headers), "path": path, path: ["x", token]}
        status, kind, content = as_json(int(word) if word.isdigit() else 400, said)
        return status, {**kind, "Location": f"http://127.0.0.1:1/{token}"}, content


@pytest.fixture
def echo():
    with Echo() as server:
        yield f"http://{server.address}"


@pytest.fixture
def flags(tmp_path, echo):
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "hook").write_text(f"{echo}/services/{SECRETS['webhook']}\n")
    (folder / "ticket").write_text(f"Bearer {SECRETS['ticket']}\n")
    (folder / "bot").write_text(SECRETS["bot"])
    (tmp_path / "tokens").write_text(SECRETS["sender"])
    (tmp_path / "paths").write_text(SECRETS["path"])
    digest = hashlib.sha256(SECRETS["operator"].encode()).hexdigest()
    (tmp_path / "operators").write_text(f"alice operate {digest}\n")
    nowhere = {"server": "http://127.0.0.1:1"}
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": nowhere}], "users": [{"name": "x", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    given = {
        "--secrets-dir": folder, "--token-file": tmp_path / "tokens", "--kubeconfig": tmp_path / "kubeconfig",
        "--path-secret-file": tmp_path / "paths", "--operators-file": tmp_path / "operators",
        "--record": tmp_path / "record.ndjson", "--http-hosts": "127.0.0.1",
        "--redact": rf"*={REDACTED}\S*",
    }  # fmt: skip
    return [str(part) for pair in given.items() for part in pair]


def ask_wrongly(running):
    """Send secrets in requests that are refused."""
    path, sender = SECRETS["path"], SECRETS["sender"]
    bad = {"Authorization": f"Bearer {sender}x"}
    assert running.post({"rule": "R"}, headers=bad)[0] == 401
    assert running.post("{", path=f"/{path}")[0] == 400
    known = {"Authorization": f"Bearer {sender}"}
    escaped = f'"\\u0063{REDACTED[1:]}'
    for no_event in (f'{{"rule": "", "x": {escaped}"}}', f'{{"rule": {escaped} ', {"rule": ""}):
        assert running.post(no_event, headers=known)[0] == 400
    assert call(running.events, "GET", f"/{path}?token={sender}")[0] == 405
    assert (
        call(running.admin, "GET", "/status", headers={"Authorization": f"Bearer {sender}"})[0]
        == 401
    )
    address = urlsplit(running.events)
    for junk in (
        f"GET /{path}",
        f"{sender} / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\n" + f"x: {sender}" * 9000,
    ):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.connect()
            connection.sock.sendall(junk.encode() + b"\r\n\r\n")
            assert connection.sock.recv(100)


def test_no_output_contains_a_secret_or_a_redacted_value(tmp_path, echo, flags):
    with engine(
        tmp_path, {"tell.yaml": PLAYBOOK.format(url=echo).replace("&echo", "")}, *flags
    ) as running:
        status, _, said = running.post(EVENT, path=f"/events/{SECRETS['path']}")
        assert status == 202
        (run,) = said["runs"]
        throttled = EVENT | {"time": "2026-03-01T10:00:01Z"}
        assert running.post(throttled, path=f"/events/{SECRETS['path']}")[2]["runs"] == []
        for step in STEPS:
            running.wait_for_audit(lambda line, step=step: line.get("step") == step)
        ask_wrongly(running)
        operator = {"Authorization": f"Bearer {SECRETS['operator']}"}
        pages = ("/status", "/metrics", "/runs", f"/runs/{run}", "/dead", "/events/recent")
        shown = {page: call(running.admin, "GET", page, headers=operator) for page in pages}
        assert {answer[0] for answer in shown.values()} == {200}
        states = {step["name"]: step["state"] for step in shown[f"/runs/{run}"][2]["steps"]}
        assert states == dict.fromkeys(STEPS, "failed") | {"echo": "done"}
        known = identity(parse_event(EVENT))  # as it came
        assert shown[f"/runs/{run}"][2]["event"]["id"] == known
        assert {line["event"] for line in running.audit if "event" in line} == {known}
        assert running.terminate() == 0
        channels = {page: json.dumps(answer[2]) for page, answer in shown.items()}
        channels |= {
            "log": json.dumps(running.log),
            "audit": json.dumps(running.audit),
            "answer": json.dumps(said),
        }
        for file in (*tmp_path.glob("tiercel.db*"), tmp_path / "record.ndjson"):
            channels[file.name] = file.read_bytes().decode("latin-1")
    assert "***" in channels["audit"]
    assert "mysql" in channels["record.ndjson"]
    told = [
        (name, canary)
        for name, text in channels.items()
        for canary in (*EVERY, f"u0063{REDACTED[1:]}")
        if canary in text
    ]
    assert told == []
