"""A rolling update over a migration of the shared tables: the engine of the previous version keeps working."""

from __future__ import annotations

import contextlib
import os
import threading

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.journal.postgres import migrations, schema
from engine.journal.postgres.connection import parse_server
from engine.journal.postgres.journal import PostgresJournal
from engine.journal.postgres.liveness import Process
from engine.model.errors import JournalError
from tests.support.engine import ROOT, engine, wait_until
from tests.support.journals import stored_playbook
from tests.support.postgres import OWNER, database_of, shared_server
from tests.support.replicas import KUBECONFIG, PLAYBOOKS, Receiver, alert

NEXT = """
ALTER TABLE runs ADD COLUMN note text NOT NULL DEFAULT 'none';
ALTER TABLE history ADD COLUMN note text NOT NULL DEFAULT 'none';
CREATE INDEX runs_note ON runs (note);
CREATE TABLE notes (run text PRIMARY KEY, note text NOT NULL);
"""
"""A migration to version 2, with locks on tables that are in use."""
NEXT_VERSION = f"""
import importlib.metadata
from engine.journal.postgres import migrations, schema
schema.VERSION = 2
migrations.MIGRATIONS += ({NEXT!r},)
found = importlib.metadata.version
importlib.metadata.version = lambda name: "99.0.0" if name == "tiercel" else found(name)
"""
"""Makes an engine that of the next version. Python imports it at its start as ``sitecustomize``."""


class Sender:
    """Posts events until it is stopped. answers: the status and the runs of each."""

    def __init__(self, running, first):
        self.answers, self._stopping = [], threading.Event()
        self._running, self._first = running, first
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def stop(self):
        self._stopping.set()
        self._thread.join()
        assert {status for status, _ in self.answers} == {202}
        return [run for _, runs in self.answers for run in runs]

    def _send(self):
        while not self._stopping.wait(0.05):
            status, _, body = self._running.post(alert("Tell", self._first + len(self.answers)))
            self.answers.append((status, body["runs"]))


@pytest.fixture
def start(tmp_path):
    receiver, url = Receiver(), database_of(tmp_path / "database")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    host = receiver.url.removeprefix("http://").rstrip("/")
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "sitecustomize.py").write_text(NEXT_VERSION)
    with contextlib.ExitStack() as stack:
        stack.callback(receiver.close)

        def start(name, *, is_next=False):
            (tmp_path / name).mkdir()
            path = f"{tmp_path / 'next'}:{ROOT}" if is_next else str(ROOT)
            files = {"p.yaml": PLAYBOOKS % (receiver.url, receiver.url)}
            env = {"PYTHONPATH": path}
            flags = ("--journal", url, "--kubeconfig", str(kubeconfig), "--http-hosts", host)
            return stack.enter_context(engine(tmp_path / name, files, *flags, env=env))

        yield start, receiver, url


def migrate(url):
    database = url.rpartition("/")[2]
    command = ["journal", "migrate", "--journal", shared_server().dsn(database, OWNER)]
    return CliRunner().invoke(cli, command)


def test_the_previous_version_works_during_and_after_a_migration(start, monkeypatch, tmp_path):
    start, receiver, url = start
    old = start("old")
    sender = Sender(old, 0)
    monkeypatch.setattr(schema, "VERSION", 2)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, NEXT))
    with pytest.raises(JournalError, match="run `tiercel journal migrate` with their owner"):
        PostgresJournal(parse_server(url), Process("new", "engine", "2"), stored_playbook)

    with shared_server().connect(url.rpartition("/")[2]) as reader:
        with monkeypatch.context() as patch, reader.transaction():
            reader.execute("SELECT count(*) FROM runs")  # as a backup that takes long
            patch.setattr(migrations, "ATTEMPTS", 2)
            before = len(sender.answers)
            result = migrate(url)
            assert (result.exit_code, "another session locks them" in result.output) == (2, True)
            wait_until(lambda: len(sender.answers) > before + 5)  # it does not wait for the reader
        assert migrate(url).output.endswith("now have version 2.\n")
        assert migrate(url).output.endswith("already have version 2.\n")

    new = start("new", is_next=True)
    second = Sender(new, 1_000_000)
    wait_until(lambda: len(second.answers) > 20)
    runs = sender.stop() + second.stop()
    assert len(runs) > 40
    wait_until(lambda: all(receiver.of(run) for run in runs))
    assert {receiver.of(run) for run in runs} == {1}
    for one in (old, new):
        wait_until(lambda one=one: len(one.get("/status")[2]["replicas"]) == 2)
        versions = {it["version"] for it in one.get("/status")[2]["replicas"]}
        assert versions == {old.get("/status")[2]["version"], "99.0.0"}
        shown = CliRunner().invoke(cli, ["status", "--server", one.admin]).output
        assert shown.count("replica ") == 2
    (tmp_path / "new" / "playbooks" / "p.yaml").write_text(
        "\n" + PLAYBOOKS % ("http://a", "http://b")
    )
    folder = str(tmp_path / "new" / "playbooks")
    command = ["status", "--server", new.admin, "--wait-for", folder, "--timeout"]
    wait_until(lambda: len({it["digest"] for it in new.get("/status")[2]["replicas"]}) == 2)
    waited = CliRunner().invoke(cli, [*command, "600ms"])
    assert (waited.exit_code, "; replica " in waited.output) == (1, True)  # the other one has not
    if os.environ.get("TIERCEL_SOAK") == "1":
        old.restart()  # the update goes back
        (run,) = old.post(alert("Tell", 2_000_000))[2]["runs"]
        wait_until(lambda: receiver.of(run) == 1)

    monkeypatch.setattr(schema, "VERSION", 3)
    monkeypatch.setattr(schema, "OLDEST_READER", 3)
    result = migrate(url)
    assert (result.exit_code, ": stop them first" in result.output) == (
        2,
        True,
    )
