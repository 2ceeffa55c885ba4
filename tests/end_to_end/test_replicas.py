"""Two engines on one PostgreSQL: shared decisions, commands for both, fail-over, a database that is away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.support.engine import engine, refusal
from tests.support.postgres import database_of, shared_server

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: none
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
users: [{name: none, user: {}}]
"""
PLAYBOOKS = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: tell}
spec:
  match: {rules: [Tell]}
  actions: [{action: http.request, with: {url: "%s"}}]
---
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: once}
spec:
  match: {rules: [Once]}
  throttle: {first: 1, within: 10m}
  actions: [{action: http.request, with: {url: "%s"}}]
"""
PATIENCE = 60.0
ESTABLISHED = "01"
"""State of a connection in /proc/PID/net/tcp."""


class Receiver:
    """An HTTP server that counts requests, and answers only if it is told to."""

    def __init__(self):
        self.requests, self.answers, self.changed = [], True, threading.Condition()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._socket.close()

    def of(self, run):
        """Return how many requests a run has sent."""
        return sum(f"Idempotency-Key: {run}/".encode() in request for request in self.requests)

    def wait_for(self, run):
        """Wait for the request of a run."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.of(run), PATIENCE)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError):
            received = connection.recv(65_536)
            with self.changed:
                self.requests.append(received)
                self.changed.notify_all()
            if self.answers:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            else:
                connection.recv(1)  # until the client is gone


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def start(tmp_path, receiver):
    """Start replicas."""
    url, kubeconfig = database_of(tmp_path / "database"), tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    host = receiver.url.removeprefix("http://").rstrip("/")
    with contextlib.ExitStack() as stack:

        def start(name):
            folder = tmp_path / name
            folder.mkdir()
            files = {"p.yaml": PLAYBOOKS % (receiver.url, receiver.url)}
            flags = ("--journal", url, "--kubeconfig", str(kubeconfig), "--http-hosts", host)
            return stack.enter_context(engine(folder, files, *flags))

        yield start


def alert(rule, number=0):
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"rule": rule, "time": now, "output_fields": {"proc.pid": number}}


@pytest.mark.skipif(os.environ.get("TIERCEL_SOAK") != "1", reason="only in `make soak`")
def test_replicas_share_decisions_and_commands_and_take_over_from_a_killed_one(start, receiver):
    a, b = start("a"), start("b")
    event = alert("Tell")
    answers = [one.post(event)[2] for one in (a, b, a)]
    assert answers[0]["runs"] == answers[1]["runs"] == answers[2]["runs"]
    assert [one["duplicates"] for one in answers] == [0, 1, 1]
    receiver.wait_for(*answers[0]["runs"])
    started = [one.post(alert("Once", n))[2]["runs"] for n, one in enumerate((a, b, a, b))]
    assert [len(runs) for runs in started] == [1, 0, 0, 0]
    events = b.get("/events/recent")[2]["events"]
    assert [one["ended"] for one in events[-2:]] == ["throttle", "throttle"]
    receiver.wait_for(*started[0])

    replicas = a.get("/status")[2]["replicas"]
    assert len({one["name"] for one in replicas}) == 2
    assert {one["digest"] for one in replicas} <= {a.get("/status")[2]["playbooks"]["digest"], None}

    tiercel("pause", "--playbook", "tell", "--server", a.admin)
    wait_until(lambda: b.get("/status")[2]["paused"] == ["tell"])
    wait_until(lambda: b.post(alert("Tell", 9))[2]["runs"] == [])
    tiercel("resume", "--playbook", "tell", "--server", b.admin)
    wait_until(lambda: a.get("/status")[2]["paused"] == [])

    receiver.answers = False
    run = None
    while run is None:  # the pause ends at this replica within a second
        run = next(iter(a.post(alert("Tell", 2))[2]["runs"]), None)
    receiver.wait_for(run)
    holder, other = (a, b) if _holds(a, receiver) else (b, a)
    holder.kill()
    ended = other.wait_for_audit(_ended(run), PATIENCE)
    assert ended["state"] == "failed"
    assert "may have run" in ended["message"]
    assert receiver.of(run) == receiver.of(answers[0]["runs"][0]) == 1


def _ended(run):
    """A test of audit lines. On a busy machine, a replica can postpone an attempt because it was late."""
    return lambda line: line.get("run") == run and line["state"] != "waiting"


def _holds(running, receiver):
    """Whether the worker of this engine has the connection that the receiver does not answer."""
    port = int(receiver.url.rpartition(":")[2].rstrip("/"))
    process = Path(f"/proc/{running.pids[-1]}")
    rows = [line.split() for line in (process / "net/tcp").read_text().splitlines()[1:]]
    sockets = {
        f"socket:[{row[9]}]"
        for row in rows
        if int(row[2].rpartition(":")[2], 16) == port and row[3] == ESTABLISHED
    }
    opened = set()
    for one in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            opened.add(str(one.readlink()))
    return not sockets.isdisjoint(opened)


def wait_until(holds):
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.05)


def tiercel(*arguments):
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output


def test_a_stopped_replica_does_not_act_after_its_claims_were_taken_over(start, receiver):
    receiver.answers = False
    a, b = start("a"), start("b")
    (run,) = a.post(alert("Tell"))[2]["runs"]
    receiver.wait_for(run)
    holder, other = (a, b) if _holds(a, receiver) else (b, a)
    for pid in holder.pids:
        os.kill(pid, signal.SIGSTOP)
    ended = other.wait_for_audit(_ended(run), PATIENCE)
    assert "may have run" in ended["message"]
    for pid in holder.pids:
        os.kill(pid, signal.SIGCONT)
    receiver.answers = True
    (later,) = holder.post(alert("Tell", 1))[2]["runs"]
    receiver.wait_for(later)
    assert receiver.of(run) == 1


def test_an_engine_without_its_database_answers_503_and_heals(start, receiver, tmp_path):
    a = start("a")
    database = database_of(tmp_path / "database").rpartition("/")[2]
    with shared_server().connect() as admin:
        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (database,),
        )
        assert a.post(alert("Tell"))[0] == 503
        assert a.post({"rule": "Unmatched"})[0] == 200  # never touches the database
        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
    event = alert("Tell", 1)
    answers = []
    wait_until(lambda: answers.append(a.post(event)) or answers[-1][0] == 202)
    receiver.wait_for(*answers[-1][2]["runs"])


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--journal", "postgresql://127.0.0.1:1/tiercel"), "cannot open the journal 127.0.0.1:1"),
        (("--journal", "postgresql://u:secret@127.0.0.1/t"), "must not contain a password"),
        (
            ("--journal", "postgresql://127.0.0.1/t", "--dry-run"),
            "--dry-run cannot use the journal",
        ),
    ],
)
def test_a_journal_that_cannot_be_used_is_one_sentence(tmp_path, flags, why):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    code, said = refusal(tmp_path, {}, *flags, "--kubeconfig", str(kubeconfig))
    assert (code, why in said, "secret" in said) == (2, True, False)
    assert "Traceback" not in said
