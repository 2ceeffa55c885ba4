"""What the engine shows an API server, and what stands before it may say again, stays unsaid."""

from __future__ import annotations

import base64
import json
import socketserver
import threading

import pytest
from click.testing import CliRunner
from engine.cli.command import cli
from engine.errors import PermanentError, TemporaryError
from engine.ports.cluster import POD, Call
from engine.ports.kubernetes import connect

TOKEN = {"token": "canary-kube-token-123"}
PASSWORD = {"username": "ada", "password": "canary-pass-word"}
BASIC = base64.b64encode(b"ada:canary-pass-word").decode()


class Echo(socketserver.StreamRequestHandler):
    """Says the Authorization header that it was shown again, as its server's ``answer`` has it."""

    def handle(self):
        head = iter(self.rfile.readline, b"\r\n")
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
def test_no_error_says_what_the_server_says_again_of_our_credentials(host, user, tmp_path):
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


def test_a_password_in_the_servers_url_is_not_shown(tmp_path):
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
