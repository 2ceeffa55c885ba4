"""Two replicas on a primary and its standby: shared decisions and commands, and the loss of any of them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.support.engine import engine, refusal, wait_until
from tests.support.postgres import Postgres, move_clock, scratch
from tests.support.replicas import KUBECONFIG, PLAYBOOKS, Receiver, alert

ESTABLISHED = "01"
"""State of a connection in /proc/PID/net/tcp."""


@pytest.fixture(scope="module")
def one_receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def receiver(one_receiver):
    yield one_receiver
    one_receiver.answering.set()


class Database:
    """A primary and a synchronous standby, whose clock is an hour fast, on fixed ports. url: of both."""

    def __init__(self):
        folder = scratch()
        self.primary = Postgres.primary(folder)
        self.primary.start()
        with self.primary.connect() as connection:
            connection.execute("CREATE DATABASE journal")
        self.standby = self.primary.standby(folder)
        move_clock(self.primary, "journal", 3600, self.standby.port)
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in (self.primary, self.standby))
        self.url = f"postgresql://postgres@{hosts}/journal?target_session_attrs=read-write"

    def close(self):
        for server in (self.primary, self.standby):
            server.kill()


@pytest.fixture(scope="module")
def database():
    with contextlib.closing(Database()) as made:
        yield made


@pytest.fixture(scope="module")
def replicas(tmp_path_factory, one_receiver, database):
    """Two replicas for all tests. A test that kills one of them starts it again."""
    parent = tmp_path_factory.mktemp("replicas")
    (parent / "kubeconfig").write_text(KUBECONFIG)
    url, host = one_receiver.url, one_receiver.url.removeprefix("http://").rstrip("/")
    flags = ("--kubeconfig", str(parent / "kubeconfig"), "--http-hosts", host)
    with contextlib.ExitStack() as stack:
        started = []
        for name in "ab":
            (parent / name).mkdir()
            files = {"p.yaml": PLAYBOOKS % (url, url)}
            made = engine(parent / name, files, "--journal", database.url, *flags)
            started.append(stack.enter_context(made))
        yield started


def test_replicas_share_duplicates_and_throttles(replicas, receiver):
    a, b = replicas
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
    assert receiver.of(*answers[0]["runs"]) == receiver.of(*started[0]) == 1


def test_the_status_names_the_replicas_and_commands_apply_to_all_of_them(replicas, receiver):
    a, b = replicas
    found = a.get("/status")[2]["replicas"]
    assert len({one["name"] for one in found}) == 2
    assert {one["digest"] for one in found} <= {a.get("/status")[2]["playbooks"]["digest"], None}

    tiercel("pause", "--playbook", "tell", "--server", a.admin)
    wait_until(lambda: b.get("/status")[2]["paused"] == ["tell"])
    waiting = []  # until this replica knows of the pause, it queues runs; they wait for the end of the pause
    wait_until(lambda: waiting.extend(found := b.post(alert("Tell"))[2]["runs"]) or not found)
    tiercel("resume", "--playbook", "tell", "--server", b.admin)
    wait_until(lambda: a.get("/status")[2]["paused"] == [])
    for run in waiting:
        receiver.wait_for(run)
    wait_until(lambda: a.post(alert("Tell"))[2]["runs"])


def start_unanswered(one, receiver):
    """Start a run whose request gets no answer. Return it, the replica that holds it, and the other one."""
    receiver.answering.clear()
    (run,) = one[0].post(alert("Tell"))[2]["runs"]
    receiver.wait_for(run)
    a, b = one
    return (run, a, b) if _holds(a, receiver) else (run, b, a)


def test_the_runs_of_a_killed_replica_are_taken_over(replicas, receiver):
    run, holder, other = start_unanswered(replicas, receiver)
    # the worker process first, because it ends its claims when the engine process ends
    for pid in reversed(holder.pids):
        os.kill(pid, signal.SIGKILL)
    holder.wait()
    ended = other.wait_for_audit(_ended(run))
    assert (ended["state"], "may have run" in ended["message"]) == ("failed", True)
    assert receiver.of(run) == 1
    holder.restart()
    receiver.answering.set()
    (later,) = holder.post(alert("Tell"))[2]["runs"]
    receiver.wait_for(later)


def _ended(run):
    """Return a predicate for the audit line that ends a run. On a busy machine, an attempt can be postponed."""
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


def tiercel(*arguments):
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output


def test_a_stopped_replica_does_not_act_after_its_claims_were_taken_over(replicas, receiver):
    run, holder, other = start_unanswered(replicas, receiver)
    for pid in holder.pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        ended = other.wait_for_audit(_ended(run))
    finally:
        for pid in holder.pids:
            os.kill(pid, signal.SIGCONT)
    assert "may have run" in ended["message"]
    receiver.answering.set()
    (later,) = holder.post(alert("Tell", 1))[2]["runs"]
    receiver.wait_for(later)
    assert receiver.of(run) == 1


def test_replicas_without_their_database_answer_503_and_heal(replicas, receiver, database):
    a, _ = replicas
    with database.primary.connect() as admin:
        admin.execute("ALTER DATABASE journal ALLOW_CONNECTIONS false")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'journal'"
        )
        assert a.post(alert("Tell"))[0] == 503
        assert a.post({"rule": "Unmatched"})[0] == 200  # never touches the database
        status, _, metrics = a.get("/metrics")
        assert (status, "tiercel_cluster_answers" in metrics) == (
            200,
            True,
        )  # of the worker process
        admin.execute("ALTER DATABASE journal ALLOW_CONNECTIONS true")
    receiver.wait_for(*accepted_at_last(a, alert("Tell", 1)))


def accepted_at_last(one, event):
    """Send an event until it is acknowledged. Return its runs."""
    answers = []
    wait_until(lambda: answers.append(one.post(event)) or answers[-1][0] == 202)
    return answers[-1][2]["runs"]


def test_replicas_go_on_with_the_standby_after_the_primary_was_killed(replicas, receiver, database):
    before = [accepted_at_last(one, alert("Tell", 1))[0] for one in replicas]
    for run in before:
        receiver.wait_for(run)
    unanswered, holder, _ = start_unanswered(replicas, receiver)
    database.primary.kill_all()
    assert [one.post(alert("Tell", 2))[0] for one in replicas] == [503, 503]
    database.standby.promote()
    database.primary, database.standby = database.standby, database.primary
    after = [accepted_at_last(one, alert("Tell", 3))[0] for one in replicas]
    for run in after:
        receiver.wait_for(run)
    assert receiver.of(unanswered) == 1
    receiver.answering.set()
    ended = holder.wait_for_audit(lambda line: line.get("run") == unanswered)
    assert (ended["attempt"], ended["state"]) == (1, "waiting")  # nobody has taken it over
    with contextlib.closing(database.primary.connect("journal")) as journal:
        known = {run.hex for (run,) in journal.execute("SELECT id FROM run_ids").fetchall()}
    assert known >= {*before, *after}  # the standby has what the primary acknowledged
    wait_until(lambda: len(replicas[0].get("/status")[2]["replicas"] or ()) == 2)


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
