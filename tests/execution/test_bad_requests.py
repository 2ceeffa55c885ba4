"""Requests and messages that are refused or limited: the run continues as ``onFailure`` says."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from engine.cluster.api import CallRecorder
from engine.cluster.simulated import AssumedCluster
from engine.execution.attempt import Clients
from engine.outbound.api import RequestRecorder
from engine.outbound.client import LiveHttpClient, Senders
from engine.outbound.secrets import Secrets
from tests.execution.test_worker_pool import Engine

HOSTS = frozenset({"127.0.0.1"})
METADATA = "http://169.254.169.254/latest/meta-data/iam/"


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked, self.left = [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.asked.append((self.path, body.decode()))
        self.send_response_only({"/redirect": 302, "/endless-refusal": 400}.get(self.path, 200))
        if self.path == "/redirect":
            self.send_header("Location", METADATA)
        if self.path.startswith("/endless"):
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b'{"x": "' + b"x" * 4096)
            self.server.left.set()
            return
        said = json.dumps({"id": 7}).encode()
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


class LiveEngine(Engine):
    """An engine whose requests go to real servers. It allows loopback only."""

    def __init__(self, tmp_path, *texts):
        self.outside = LiveHttpClient(Secrets(tmp_path), timeout=30, senders=Senders(HOSTS))
        super().__init__(tmp_path, *texts)

    def clients(self, claim):
        cluster = CallRecorder(AssumedCluster(claim.run.event))
        return Clients(cluster, RequestRecorder(self.outside, HOSTS), dry=False)


@pytest.fixture
def server():
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def playbook(server, on_failure):
    def request(name, url):
        return f"""
    - {{action: http.request, name: {name}, onFailure: {on_failure}, with: {{url: "{url}"}}}}"""

    def message(name, secret):
        return f"""
    - {{action: notify.send, name: {name}, onFailure: {on_failure},
       with: {{to: {{fromSecret: {secret}}}, body: "%rule"}}}}"""

    return f"""
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {{name: requests}}
spec:
  match: {{rules: [Terminal shell in container]}}
  actions:{request("redirect", f"{server.url}/redirect")}{
        request("off-list", "http://other.example/")
    }{request("metadata", METADATA)}{request("endless", f"{server.url}/endless")}{
        request("endless-refusal", f"{server.url}/endless-refusal")
    }{message("syslog", "syslog")}{message("file", "file")}{message("endless-message", "endless")}{
        request("ticket", f"{server.url}/ticket")
    }
  finally:
    - action: http.request
      name: last
      with:
        url: {server.url}/last
        body: "%steps.redirect.state %steps.ticket.state %steps.ticket.answer.id %steps.endless.answer.x"
"""


def secrets(tmp_path, server):
    key = "k" * 40
    (tmp_path / "syslog").write_text("syslog://")
    (tmp_path / "file").write_text(f"discord://123456789012345678/{key}?template=/etc/passwd")
    (tmp_path / "endless").write_text(f"json://127.0.0.1:{server.server_port}/endless-refusal")


def test_with_continue_each_later_step_runs_and_says_why_it_was_refused_or_limited(
    server, tmp_path
):
    secrets(tmp_path, server)
    with LiveEngine(tmp_path, playbook(server, "continue")) as engine:
        (run,) = engine.accept()
        engine.wait_for(*["next"] * 9, "failed")
        results = {result.step: result for result in engine.journal.find(run).results}
    states = "failed refused refused done failed refused refused failed done done"
    assert [result.state for result in results.values()] == states.split()
    said = {name: result.message for name, result in results.items()}
    assert said["redirect"] == "POST: answered 302, and redirects are not followed"
    assert said["off-list"] == "other.example is not in --http-hosts"
    assert said["metadata"] == "169.254.169.254 is not in --http-hosts"
    assert results["endless"].answer is None
    assert said["endless-refusal"] == "POST: answered 400"
    assert "does not support the service `syslog`" in said["syslog"]
    assert "`template`" in said["file"]
    assert said["endless-message"] == "json: answered 400"
    assert results["ticket"].answer == {"id": 7}
    assert server.asked[-1] == ("/last", "failed done 7 <NA>")
    assert server.left.is_set()
    assert {path for path, _ in server.asked} == {
        "/redirect", "/endless", "/endless-refusal", "/ticket", "/last"
    }  # fmt: skip


def test_with_stop_the_other_steps_are_skipped_and_finally_runs(server, tmp_path):
    secrets(tmp_path, server)
    with LiveEngine(tmp_path, playbook(server, "stop")) as engine:
        (run,) = engine.accept()
        engine.wait_for("next", "failed")
        outcome = [(result.step, result.state) for result in engine.journal.find(run).results]
    assert outcome[0] == ("redirect", "failed")
    assert {state for _, state in outcome[1:-1]} == {"skipped"}
    assert outcome[-1] == ("last", "done")
    assert [path for path, _ in server.asked] == ["/redirect", "/last"]
    assert server.asked[-1][1] == "failed skipped <NA> <NA>"
