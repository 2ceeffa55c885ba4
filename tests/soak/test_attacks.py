"""Clients and servers that try to exhaust the engine. Memory stays below 512 MiB, and others get answers."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import resource
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.soak.burst import RAILS, drained
from tests.soak.watch import NOWHERE
from tests.support.engine import engine
from tests.support.intake import PLAYBOOK, alert

MOST = 512
"""MiB of both processes together. Shared pages count once (PSS)."""
HEAD = b"POST /events HTTP/1.1\r\nhost: localhost\r\n"
CLOSED = 1_000
"""Probes whose connection the engine may close before their head has arrived."""
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
PLAYBOOKS = 100
MANY = {
    f"p{number}.yaml": PLAYBOOK.replace("mark-shell", f"p{number}") for number in range(PLAYBOOKS)
}
ASK = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: NAME}
spec:
  match: {rules: [NAME]}
  actions:
    - ACTION
"""


class Watched:
    """Measures the memory of an engine and the latency of a probe until ``stop``."""

    def __init__(self, running):
        self.running, self.peak, self.slowest, self.answered = running, 0.0, 0.0, False
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=one) for one in (self._sample, self._probe)]
        for thread in self._threads:
            thread.start()

    def stop(self):
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _sample(self):
        while True:
            self.peak = max(self.peak, sum(map(pss, self.running.pids)))
            if self._stopping.wait(0.02):
                return

    def _probe(self):
        closed = 0
        while closed < CLOSED:
            began = time.monotonic()
            try:
                self.answered = self.running.get("/livez")[0] == 200
            except ConnectionError:  # of 128 that connect meanwhile, the oldest is closed
                closed += 1
                continue
            self.slowest = max(self.slowest, time.monotonic() - began)
            if not self.answered or self._stopping.wait(0.02):
                return
        self.answered = False


def pss(pid):
    """Return the memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def measured(running, size, name):
    """Run an attack: probes are answered all the time, and memory stays bounded."""
    watched = Watched(running)
    try:
        yield
    finally:
        watched.stop()
    assert watched.answered, "a probe was not answered"
    assert watched.peak < MOST
    size.tell(
        **{f"{name}_peak_mib": round(watched.peak), f"{name}_livez_s": round(watched.slowest, 3)}
    )


def connect(url, source="127.0.0.1"):
    address = urlsplit(url)
    opened = socket.create_connection((address.hostname, address.port), 20, (source, 0))
    opened.settimeout(0.2)
    return opened


def send(opened, data):
    """Send as much as the engine accepts. Return whether that was everything."""
    try:
        opened.sendall(data)
    except (TimeoutError, ConnectionError):
        return False
    return True


def endless(attack, running, first, again, number, connections=1):
    """Send data repeatedly on several connections at the same time. They stay open until the attack ends."""
    opened = [attack.enter_context(connect(running.events)) for _ in range(connections)]
    alive = [one for one in opened if send(one, first)]
    for _ in range(number):
        alive = [one for one in alive if send(one, again)]


@pytest.fixture
def files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8_192, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("files")
def test_clients_exhaust_neither_memory_nor_connections(tmp_path, size):
    flags = ("--dry-run", "--kubeconfig", str(tmp_path / "kubeconfig"))
    (tmp_path / "kubeconfig").write_text(json.dumps(NOWHERE))
    part = 64 * 1024
    with engine(tmp_path, MANY, *flags) as running, contextlib.ExitStack() as attack:
        with measured(running, size, "trailers"):
            trailers = b"a:\r\n" * (part // 4)
            endless(attack, running, CHUNKED + b"0\r\n", trailers, size.of(32, 640))
        with measured(running, size, "headers"):
            endless(attack, running, HEAD, b"a:\r\n" * 9_700, 1, size.of(60, 300))
        with measured(running, size, "chunks"):
            tiny = b"2\r\n  \r\n" * (part // 7)
            endless(attack, running, CHUNKED, tiny, size.of(32, 1_000), size.of(1, 4))
        with measured(running, size, "pipelined"):
            body = json.dumps(alert(0, rule="Other", output="x" * 3_000_000)).encode()
            whole = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
            endless(attack, running, whole, whole, size.of(3, 10), size.of(8, 30))
        with measured(running, size, "idle"):
            sources = [f"127.0.0.{number}" for number in range(1, size.of(3, 6))]
            for url, number in ((running.events, size.of(300, 600)), (running.admin, 200)):
                for source in sources * number:
                    attack.enter_context(connect(url, source))
            assert running.post(alert(0, rule="Other"))[0] == 200
        attack.close()
        with measured(running, size, "runs"):
            events = size.of(20, 1_000)
            status, _, said = running.post([alert(number) for number in range(events)])
            assert (status, len(said["runs"])) == (202, events * PLAYBOOKS)
        with measured(running, size, "folder"):
            large = tmp_path / "large"
            large.write_bytes(b"#" * 2**20)
            for number in range(size.of(100, 20_000)):
                os.link(large, tmp_path / "playbooks" / f"large-{number}.yaml")
            running.wait_for_log(lambda line: "folder-limit" in str(line), 120)


class Endless:
    """A server whose answers do not end once ``begun`` is set. sent: number of bytes it wrote."""

    def __init__(self, most):
        self.begun, self.sent, self.asked = threading.Event(), 0, 0
        outer = self

        class Door(http.server.BaseHTTPRequestHandler):
            def answer(self):
                self.send_response(200 if outer.begun.is_set() else 404)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                if not outer.begun.is_set():
                    self.wfile.write(b"{}")
                    return
                outer.asked += 1
                self.wfile.write(b'{"kind": "')
                with contextlib.suppress(OSError):
                    for _ in range(most // 65_536):
                        outer.sent += self.wfile.write(b"x" * 65_536)

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = answer  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.mark.parametrize("who", ["webhook", "server"])
def test_an_endless_answer_is_cut(tmp_path, size, who):
    with Endless(size.of(64, 400) << 20) as server:
        url = f"http://{server.address}"
        kubeconfig = json.dumps(NOWHERE).replace("http://127.0.0.1:1", url)
        (tmp_path / "kubeconfig").write_text(kubeconfig)
        action = {
            "webhook": '{action: http.request, with: {url: "%s/x"}}' % url,  # noqa: UP031 - braces
            "server": "{action: pod.label, with: {labels: {a: b}}}",
        }[who]
        text = ASK.replace("NAME", who).replace("ACTION", action)
        flags = ("--kubeconfig", str(tmp_path / "kubeconfig"), "--http-hosts", server.address)
        with engine(tmp_path, {"a.yaml": text, "rails.yaml": RAILS}, *flags) as running:
            server.begun.set()
            with measured(running, size, who):
                events = [alert(n, rule=who) for n in range(size.of(4, 20))]
                assert running.post(events)[0] == 202
                if who == "webhook":
                    drained(running)
                else:  # it is tried again and again
                    running.wait_for_log(lambda line: line.get("event", "").startswith("step_"), 60)
            assert server.asked
            size.tell(asked=server.asked, taken_mib=server.sent >> 20)
