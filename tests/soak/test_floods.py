"""What an attacker can make many of: messages, broken events, reloads; nothing stalls, grows or breaks."""

from __future__ import annotations

import copy
import http.server
import json
import random
import threading
import time

import pytest
from tests.serving import engine
from tests.soak.watch import NOWHERE, memory_of, wait_until
from tests.taking import FALCO, PLAYBOOK, SIDEKICK, alert

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
  budgets: [{effect: notify, limit: 5, per: PER, scope: playbook, onExceeded: digest}]
"""


@pytest.fixture
def slack():
    """A stand-in for Slack's incoming webhooks; ``messages`` is what it got."""

    class Door(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.messages.append(json.loads(body)["text"])
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


def test_a_flood_of_messages_comes_to_a_budget_and_a_digest(tmp_path, slack, size):
    many, per = size.of(300, 20_000), size.of("2s", "30s")
    (tmp_path / "secrets").mkdir()
    url = f"http://127.0.0.1:{slack.server_address[1]}/services/x"
    (tmp_path / "secrets" / "hook").write_text(url)
    (tmp_path / "kubeconfig").write_text(json.dumps(NOWHERE))
    flags = (
        "--secrets-dir",
        str(tmp_path / "secrets"),
        "--kubeconfig",
        str(tmp_path / "kubeconfig"),
    )
    files = {"tell.yaml": TELL, "rails.yaml": RAILS.replace("PER", per)}
    with engine(tmp_path, files, *flags) as running:
        for first in range(0, many, 500):
            alerts = [alert(n) for n in range(first, min(first + 500, many))]
            assert running.post(alerts)[0] == 202
        queue = lambda: running.get("/status")[2]["queue"]  # noqa: E731
        wait_until(lambda: queue()["waiting"] == queue()["running"] == 0, "the runs do not end")
        digests = [text for text in slack.messages if "more like it" in text]
        told = sum(int(t.rpartition("and ")[2].split()[0].replace(",", "")) + 1 for t in digests)
        plain = len(slack.messages) - len(digests)
        assert told + plain == many  # each is either sent or counted in a digest
        assert len(slack.messages) < 5 + many // 10
        size.tell(events=many, messages=plain, digests=len(digests))


VALUES = (
    None, "", "<NA>", 0, -1, 1.5, 2**70, True, [], {}, [[]], ["a", 1], {"a": {}}, "x" * 5_000, "\x00\x1b[2J",
    "\u202e", "syscalls", "2026-03-01T10:00:00Z", "0001-01-01T00:00:00+23:59", "%rule", "../..", "' OR 1=1",
)  # fmt: skip


def mutated(chance):
    """One of the shapes that Falco and Falcosidekick send, with something wrong in it, as bytes."""
    value = json.loads(json.dumps(chance.choice((FALCO, SIDEKICK))))
    for _ in range(chance.randrange(1, 4)):
        where = chance.choice((value, value.get("output_fields") or value))
        if not isinstance(where, dict) or not where:
            where = value
        key = chance.choice([*where, "k8s.pod.uid", "extra", "RULE", "specversion", "data"])
        if chance.random() < 0.2:
            where.pop(key, None)
        else:
            where[key] = copy.deepcopy(chance.choice(VALUES))
    body = json.dumps(value).encode()
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        place = chance.randrange(len(body))
        body = body[:place] + bytes([chance.randrange(256)]) + body[place + chance.randrange(2) :]
    if chance.random() < 0.05:
        body = body[: chance.randrange(len(body))]
    return body


def test_mutated_events_are_taken_or_refused_and_nothing_else(tmp_path, size):
    many, seed = size.of(2_000, 200_000), time.time_ns() % 10**6
    chance = random.Random(seed)  # noqa: S311 - mutations, no secrets
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run") as running:
        answers, half = {}, 0.0
        for number in range(many // 20):
            lines = [mutated(chance).replace(b"\n", b" ") for _ in range(20)]
            body = lines[0] if number % 4 == 0 else b"\n".join(lines)
            status, _, said = running.post(body)
            assert status in (200, 202, 400), (seed, status, said, body[:2000])
            answers[status] = answers.get(status, 0) + 1
            if number == many // 40:
                half = memory_of(running.pid)
        assert running.get("/livez")[0] == 200
        grown = memory_of(running.pid) - half
        assert not [line for line in running.log if "Traceback" in json.dumps(line)], seed
        if size.full:
            assert grown < 40, grown
        size.tell(events=many, answers=answers, grown_mb=round(grown, 1), seed=seed)
