"""An engine with a spool whose database goes away: it answers 202, is killed, and forwards the events later."""

from __future__ import annotations

import time

import pytest
from engine.model.event import parse_time
from tests.support.engine import ROOT, engine, refusal, wait_until
from tests.support.postgres import database_of, shared_server, unavailable
from tests.support.replicas import KUBECONFIG, PLAYBOOKS, Receiver, alert

PASSWORD = "correct-horse-battery"
FAST_CLOCK = """\
import time
time.time, time.time_ns = (lambda f=time.time: f() + 3600), (lambda f=time.time_ns: f() + 3600 * 10**9)
"""
"""A module sitecustomize, with which the clock of an engine is an hour fast."""


@pytest.fixture
def url(tmp_path):
    """The URL of a database for a role that needs a password."""
    server, address = shared_server(), database_of(tmp_path / "database")
    rules, role = server.folder / "pg_hba.conf", address.partition("//")[2].partition("@")[0]
    trust = rules.read_text()
    rules.write_text(f"host all keyholder 127.0.0.1/32 scram-sha-256\n{trust}")
    with server.connect() as admin:
        admin.execute(f"CREATE ROLE keyholder LOGIN IN ROLE {role} PASSWORD '{PASSWORD}'")
        admin.execute("SELECT pg_reload_conf()")
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    yield address.replace(f"{role}@", "keyholder@")
    rules.write_text(trust)
    with server.connect() as admin:
        admin.execute("SELECT pg_reload_conf()")
        admin.execute("DROP ROLE keyholder")


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def test_a_killed_engine_forwards_the_events_of_an_outage_once(tmp_path, url, receiver):
    """Its clock is an hour fast, and its password is in a file and in no log."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    host = receiver.url.removeprefix("http://").rstrip("/")
    flags = ["--journal", url, "--spool", str(tmp_path / "spool"), "--http-hosts", host]
    flags += [
        "--kubeconfig",
        str(kubeconfig),
        "--journal-password-file",
        str(tmp_path / "password"),
    ]
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(FAST_CLOCK)
    env = {"PYTHONPATH": f"{tmp_path / 'clock'}:{ROOT}"}
    files = {"p.yaml": PLAYBOOKS % (receiver.url, receiver.url)}
    with engine(tmp_path, files, *flags, env=env) as running:
        assert running.post(alert("Once", 0))[0] == 202
        with unavailable(url):
            answers = [running.post(alert("Tell", n)) for n in range(5)]
            answers += [running.post(alert("Once", n)) for n in range(1, 4)]
            assert {status for status, _, _ in answers} == {202}
            runs = [answer["runs"][0] for _, _, answer in answers]
            status = running.get("/status")[2]
            assert (status["spool"]["runs"], status["queue"], status["paused"]) == (8, None, None)
            assert status["journal"]["error"].startswith("the journal cannot be")
            assert "tiercel_spool_runs 8.0" in running.get("/metrics")[2]
            assert running.get("/readyz")[0] == 200
            assert running.wait_for_log(lambda line: line["event"] == "spooling")["file"]
            running.kill()
            said = f"{running.log}{running.audit}{status}"
            running.restart()  # the database is still away
            status, _, answer = running.post(alert("Tell", 9))
            assert (status, running.get("/status")[2]["spool"]["runs"]) == (202, 9)
            runs.insert(5, answer["runs"][0])
        for run in runs[:6]:
            receiver.wait_for(run)
        wait_until(lambda: running.get("/status")[2]["spool"]["runs"] == 0)
        assert running.wait_for_log(lambda line: line["event"] == "spool_not_empty")["runs"] == 8
        assert [receiver.of(run) for run in runs] == [1] * 6 + [0] * 3
        received = running.get(f"/runs/{runs[0]}")[2]["received"]
        assert abs(parse_time(received) / 1e9 - time.time()) < 600  # by the clock of the database
        assert PASSWORD not in f"{said}{running.log}{running.audit}"
        wait_until(lambda: [d["count"] for d in running.get("/runs")[2]["drops"]] == [3])


def test_a_spool_for_a_journal_in_a_file_is_refused(tmp_path):
    code, said = refusal(tmp_path, {}, "--spool", str(tmp_path / "spool"), "--dry-run")
    assert (code, "--spool keeps events for --journal postgresql://…" in said) == (2, True), said
    assert "Traceback" not in said
