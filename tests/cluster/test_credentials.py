"""Credentials for the API server: sources, renewal, and that no message contains them."""

from __future__ import annotations

import base64
import json
import socketserver
import threading
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.cluster import client
from engine.cluster import kubeconfig as kubeconfig_port
from engine.cluster.api import POD
from engine.cluster.client import connect
from engine.cluster.kubeconfig import ConnectionSettingsError
from engine.model.calls import Call
from engine.model.errors import PermanentError, TemporaryError

from tests.support.http_head import read_head

TOKEN = {"token": "canary-kube-token-123"}
PASSWORD = {"username": "ada", "password": "canary-pass-word"}
BASIC = base64.b64encode(b"ada:canary-pass-word").decode()


class Echo(socketserver.StreamRequestHandler):
    """Repeats the Authorization header of the request in the form of ``server.answer``."""

    def handle(self):
        head = read_head(self.rfile)
        lines = [line.decode().strip().partition(": ")[::2] for line in head]
        headers = {name.lower(): value for name, value in lines}
        self.rfile.read(int(headers.get("content-length", 0)))
        shown = headers["authorization"]
        scheme, _, secret = shown.partition(" ")
        if scheme == "Basic":
            secret = base64.b64decode(secret).decode().partition(":")[2]
        self.wfile.write(self.server.answer(shown, secret).encode())


def reply(status, body):
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"


ANSWERS = {
    "forbidden": lambda shown, _: reply(403, json.dumps({"message": f"denied: {shown}"})),
    "broken": lambda _, secret: reply(500, json.dumps({"message": f"denied: {secret}"})),
    "too much": lambda shown, _: reply(429, json.dumps({"message": f"denied: {shown}"})),
    "no JSON, cut in its midst": lambda _, secret: reply(502, f"{'<html>' * 32}{secret}"),
    "no HTTP": lambda shown, _: f"{shown}\r\n\r\n",
}


@pytest.fixture(params=ANSWERS)
def host(request):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.answer = ANSWERS[request.param]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("user", [TOKEN, PASSWORD], ids=["token", "password"])
def test_credentials_that_the_server_repeats_are_in_no_error(host, user, tmp_path):
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": host}}],
        "users": [{"name": "x", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    cluster = connect(str(tmp_path / "kubeconfig"), None)
    patch = Call("patch", "v1", "pods", "demo", "p", {"metadata": {"labels": {"a": "b"}}})
    for ask in (lambda: cluster.get(POD, "p", "demo"), lambda: cluster.send(patch)):
        with pytest.raises((PermanentError, TemporaryError)) as caught:
            ask()
        said = f"{caught.value} {cluster.breaker.error}"
        assert "cana" not in said
        assert BASIC not in said


def test_a_password_in_the_api_servers_url_is_not_shown(tmp_path):
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://ada:canary-pass-word@127.0.0.1:1/x"}}],
        "users": [{"name": "u", "user": TOKEN}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    file = tmp_path / "config"
    file.write_text(json.dumps(config))
    assert connect(str(file), None).host == "http://***@127.0.0.1:1/x"


def test_a_password_in_the_engines_url_is_not_shown():
    server = "http://ada:canary-pass-word@127.0.0.1:1"
    result = CliRunner().invoke(cli, ["history", "--server", server])
    assert result.exit_code == 2
    assert "http://***@127.0.0.1:1" in result.stderr
    assert "canary" not in result.stderr


class Gate(socketserver.StreamRequestHandler):
    """Answers 200 to ``server.token`` and 401 to other tokens, and records the headers."""

    def handle(self):
        head = [line.decode().strip() for line in read_head(self.rfile)]
        shown = next((line.partition(" ")[2] for line in head if line.lower()[:5] == "autho"), "")
        self.server.shown.append(shown)
        granted = shown == f"Bearer {self.server.token}"
        body = json.dumps({"kind": "Pod", "metadata": {"name": "p"}} if granted else {})
        self.wfile.write(reply(200 if granted else 401, body).encode())


@pytest.fixture
def gate():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Gate) as server:
        server.daemon_threads = True
        server.token, server.shown = "first", []
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def kubeconfig(folder, server, user, /, **context):
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": server if isinstance(server, dict) else {"server": server}}],
        "users": [{"name": "x", "user": user}],
        "contexts": [{"name": "x", "context": context or {"cluster": "x", "user": "x"}}],
    }  # fmt: skip
    (folder / "kubeconfig").write_text(json.dumps(config))
    return str(folder / "kubeconfig")


V1 = "client.authentication.k8s.io/v1"


def plugin(folder, output, code=0):
    """Return a user with a plugin that writes a text; each start adds a letter to the file ``starts``."""
    said = output if isinstance(output, str) else json.dumps(
        {"apiVersion": V1, "kind": "ExecCredential", "status": output}
    )  # fmt: skip
    (folder / "said").write_text(said)
    script = folder / "plugin"
    script.write_text(
        f"#!/bin/sh\nprintf x >> '{folder}/starts'\ncat '{folder}/said'\n"
        f"echo no session >&2\nexit {code}\n"
    )
    script.chmod(0o755)
    return {"exec": {"apiVersion": V1, "command": str(script), "interactiveMode": "Never"}}


def starts(folder):
    return len((folder / "starts").read_text())


SERVER = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("server", "user", "why"),
    [
        ({}, {"token": "t"}, "no `server`"),
        ("", {"token": "t"}, "no `server`"),
        ("127.0.0.1:6443", {"token": "t"}, "not an http"),
        ("https://", {"token": "t"}, "not an http"),
        ("https://h:port", {"token": "t"}, "not an http"),
        ("https://ada:canary@h:port", {"token": "t"}, "not an http"),
        ({"server": 6443}, {"token": "t"}, "no `server`"),
        (SERVER, None, "no credentials"),
        (SERVER, {"username": "ada"}, "no credentials"),
        (SERVER, {"tokenFile": "empty"}, "is empty"),
        (SERVER, {"tokenFile": "absent"}, "No such file"),
        (SERVER, {"tokenFile": "huge"}, "larger than 64 KiB"),
        (SERVER, {"token": "a b"}, "token"),
        (SERVER, {"exec": {"apiVersion": V1, "command": "/absent/plugin"}}, "cannot be started"),
        (SERVER, {"exec": {"apiVersion": V1}}, "`command`"),
        (SERVER, "fails", "exits with 3: no session"),
        (SERVER, "canary, no JSON", "valid ExecCredential"),
        (SERVER, "[]", "valid ExecCredential"),
        (SERVER, json.dumps({"apiVersion": "v0", "kind": "ExecCredential", "status": {}}), V1),
        (SERVER, "x" * (2 << 20), "more than 1 MiB"),
        (SERVER, {"status": {"token": ""}}, "neither a token"),
        (SERVER, {"status": {"clientCertificateData": "x"}}, "neither a token"),
        (SERVER, {"status": {"token": "t", "expirationTimestamp": "soon"}}, "valid ExecCredential"),
    ],
)
def test_missing_credentials_are_a_settings_error_at_the_start(tmp_path, server, user, why):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "huge").write_text("t" * 70_000)
    if isinstance(user, str):
        user = plugin(tmp_path, user, code=3 if user == "fails" else 0)
    elif user and "status" in user:
        user = plugin(tmp_path, user["status"])
    with pytest.raises(ConnectionSettingsError, match=why) as caught:
        connect(kubeconfig(tmp_path, server, user), None)
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("users: [{name: x, user: {token: canary}}\nclusters: ]", "valid YAML, line"),
        ("[]", "valid kubeconfig"),
        ("{}", "current-context"),
        ("users: 3\ncurrent-context: x", "valid kubeconfig"),
    ],
)
def test_the_error_of_a_broken_kubeconfig_contains_no_secrets(tmp_path, text, why):
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(ConnectionSettingsError, match=why) as caught:
        connect(str(tmp_path / "kubeconfig"), None)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("who", [None, "", "another"])
def test_a_context_without_a_user_is_an_error(tmp_path, who):
    with pytest.raises(ConnectionSettingsError, match="user"):
        connect(kubeconfig(tmp_path, SERVER, {"token": "t"}, cluster="x", user=who), None)


def test_an_empty_user_is_anonymous(gate, tmp_path):
    cluster = connect(kubeconfig(tmp_path, gate.url, {}), None)
    with pytest.raises(TemporaryError, match="401"):
        cluster.get(POD, "p", "demo")
    assert gate.shown == [""]


def test_a_401_renews_the_credentials_and_repeats_the_call(gate, tmp_path):
    cluster = connect(kubeconfig(tmp_path, gate.url, plugin(tmp_path, {"token": "first"})), None)
    assert cluster.get(POD, "p", "demo")
    gate.token = "second"
    plugin(tmp_path, {"token": "second"})
    assert cluster.get(POD, "p", "demo")
    assert cluster.get(POD, "p", "demo")
    assert gate.shown == [f"Bearer {one}" for one in ("first", "first", "second", "second")]
    assert starts(tmp_path) == 2


def test_an_expired_credential_is_renewed_before_use(gate, tmp_path, monkeypatch):
    said = {"token": "old", "expirationTimestamp": "2990-01-01T00:00:00Z"}
    cluster = connect(kubeconfig(tmp_path, gate.url, plugin(tmp_path, said)), None)
    plugin(tmp_path, {"token": "first", "expirationTimestamp": "2999-01-01T00:00:00Z"})
    then = 32_200_000_000.0  # in 2990
    clock = SimpleNamespace(time=lambda: then, monotonic=time.monotonic)
    monkeypatch.setattr(kubeconfig_port, "time", clock)
    assert cluster.get(POD, "p", "demo")
    assert cluster.get(POD, "p", "demo")
    assert gate.shown == ["Bearer first"] * 2
    assert starts(tmp_path) == 2


def test_a_credential_that_is_already_expired_does_not_start_the_plugin_at_every_call(
    gate, tmp_path
):
    said = {"token": "first", "expirationTimestamp": "2020-01-01T00:00:00Z"}
    cluster = connect(kubeconfig(tmp_path, gate.url, plugin(tmp_path, said)), None)
    for _ in range(5):
        assert cluster.get(POD, "p", "demo")
    assert starts(tmp_path) == 2


@pytest.mark.parametrize("now", ["fails", "no JSON", "gone", "token file"])
def test_a_failed_renewal_is_temporary_and_keeps_the_previous_credentials(gate, tmp_path, now):
    (tmp_path / "token").write_text("first\n")
    file = now == "token file"
    user = {"tokenFile": "token"} if file else plugin(tmp_path, {"token": "first"})
    cluster = connect(kubeconfig(tmp_path, gate.url, user), None)
    gate.token = "second"
    if now == "gone":
        (tmp_path / "plugin").unlink()
    elif file:
        (tmp_path / "token").write_text("")
    else:
        plugin(tmp_path, now, code=3 if now == "fails" else 0)
    for _ in range(3):
        with pytest.raises(TemporaryError, match="no credentials") as caught:
            cluster.get(POD, "p", "demo")
        assert not caught.value.answered  # so that no attempt is used up
    assert set(gate.shown) == {"Bearer first"}
    assert cluster.breaker.error
    gate.token = "first"
    assert cluster.get(POD, "p", "demo")
    if now not in ("gone", "token file"):
        assert starts(tmp_path) == 2  # not at every call


def test_unverified_certificates_are_logged_once(gate, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(client, "log", SimpleNamespace(warning=lambda text, **_: told.append(text)))
    server = {"server": gate.url, "insecure-skip-tls-verify": True}
    cluster = connect(kubeconfig(tmp_path, server, {"token": "first"}), None)
    for _ in range(2):
        assert cluster.get(POD, "p", "demo")
    assert len(told) == 1
