"""What an attacker can make many of: messages, broken events, reloads; nothing stalls, grows or breaks."""

from __future__ import annotations

import copy
import http.server
import json
import random
import threading
import time
from pathlib import Path

import pytest
from tests.kubelet_files import Mount
from tests.serving import PATIENCE, engine
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


def wait_until(true, what):
    pause, deadline = threading.Event(), time.monotonic() + 3 * PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        pause.wait(0.02)


def memory_of(pid):
    """Resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


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


NOWHERE = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "none",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "none", "user": {}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
}
"""A kubeconfig of a server that is not there."""


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


def test_swapped_configmaps_under_load_cost_no_event_and_never_half_a_set(tmp_path, size):
    swaps = size.of(12, 300)

    def set_of(version):
        """Two playbooks that carry the version; half of them loaded would be seen by their names."""
        return {
            f"{name}.yaml": PLAYBOOK.replace("mark-shell", f"{name}-{version}").encode()
            for name in ("one", "two")
        }

    mount = Mount(tmp_path / "playbooks", set_of(0))
    with engine(tmp_path, mount.folder, "--dry-run") as running:
        stopping, seen = threading.Event(), []

        def post():
            number = 0
            while not stopping.is_set():
                status, _, said = running.post(alert(number))
                number += 1
                seen.append((status, len(said["runs"])))

        thread = threading.Thread(target=post)
        thread.start()
        try:
            for version in range(1, swaps):
                broken = {**set_of(version), "one.yaml": b"kind: Nothing\n"}
                mount.write(broken if version % 3 == 0 else set_of(version))
                before = len(seen)
                wait_until(lambda n=before: len(seen) > n + 5, "nothing is accepted")
            mount.write(set_of("last"))
            began = time.monotonic()
            names = lambda: {  # noqa: E731
                name
                for file in running.get("/status")[2]["playbooks"]["files"]
                for name in file["playbooks"]
            }
            wait_until(lambda: names() == {"one-last", "two-last"}, "the last set is not in force")
            took = time.monotonic() - began
        finally:
            stopping.set()
            thread.join()
        assert set(seen) == {(202, 2)}  # each event ran both of one set
        for row in running.get("/runs?limit=1000")[2]["runs"]:
            assert row["playbook"].startswith(("one-", "two-"))
        mount.write({"one.yaml": b"kind: Nothing\n"})
        running.restart()  # while Git is broken, the last good set runs
        assert names() == {"one-last", "two-last"}
        size.tell(swaps=swaps, events=len(seen), last_set_in_force_after_s=round(took, 2))
