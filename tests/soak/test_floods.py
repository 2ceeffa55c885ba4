"""A flood of messages is cut to its budget and one digest."""

from __future__ import annotations

import http.server
import json
import threading
import time

import pytest
from tests.soak.watch import NOWHERE, wait_until
from tests.support.engine import engine
from tests.support.intake import alert

TELL = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: tell}
spec:
  match: {everything: true}
  actions:
    - {action: slack.post, with: {webhook: {fromSecret: hook}, text: "%rule"}}
"""
RAILS = """\
apiVersion: tiercel.dev/v1
kind: Guardrails
metadata: {name: default}
spec:
  budgets: [{effect: notify, limit: LIMIT, per: PERs, scope: playbook, onExceeded: digest}]
"""
LIMIT = 5
"""Messages in one window of the budget."""


@pytest.fixture
def slack():
    """A stand-in for Slack's incoming webhooks. ``messages`` contains what it received, and when."""

    class Door(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.messages.append((time.monotonic(), json.loads(body)["text"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
    server.messages = []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_flood_of_messages_is_cut_to_a_budget_and_a_digest(tmp_path, slack, size):
    many, per = size.of(300, 20_000), size.of(2, 30)
    (tmp_path / "secrets").mkdir()
    url = f"http://127.0.0.1:{slack.server_address[1]}/services/x"
    (tmp_path / "secrets" / "hook").write_text(url)
    (tmp_path / "kubeconfig").write_text(json.dumps(NOWHERE))
    secrets, nowhere = str(tmp_path / "secrets"), str(tmp_path / "kubeconfig")
    flags = ("--secrets-dir", secrets, "--kubeconfig", nowhere)
    rails = RAILS.replace("LIMIT", str(LIMIT)).replace("PER", str(per))
    with engine(tmp_path, {"tell.yaml": TELL, "rails.yaml": rails}, *flags) as running:
        began = time.monotonic()
        for first in range(0, many, 500):
            alerts = [alert(n) for n in range(first, min(first + 500, many))]
            assert running.post(alerts)[0] == 202
        queue = lambda: running.get("/status")[2]["queue"]  # noqa: E731
        wait_until(lambda: queue()["waiting"] == queue()["running"] == 0, "the runs do not end")
        digests = [text for _, text in slack.messages if "more like it" in text]
        told = sum(int(t.rpartition("and ")[2].split()[0].replace(",", "")) + 1 for t in digests)
        plain = [at for at, text in slack.messages if "more like it" not in text]
        assert told + len(plain) == many  # each is either sent or counted in a digest
        # a window is over ``per`` after its first message: so many there can have been, at most
        assert LIMIT <= len(plain) <= LIMIT * (1 + (plain[-1] - began) // per)
        assert 1 <= len(digests) <= 1 + (slack.messages[-1][0] - began) // per
        size.tell(events=many, messages=len(plain), digests=len(digests))
