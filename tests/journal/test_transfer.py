"""Copies of a journal between SQLite and a real PostgreSQL, there and back."""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.cluster.api import NETWORK_POLICY, POD
from engine.journal.postgres import connection
from engine.journal.postgres.connection import parse_server
from engine.journal.postgres.journal import PostgresJournal
from engine.journal.postgres.liveness import Process
from engine.journal.records import AcceptBatch, DeadLetter, Decision, DroppedRuns, Pause, RunFilter
from engine.journal.sqlite.journal import SqliteJournal
from engine.journal.transfer import to_postgres, to_sqlite
from engine.model.calls import ObjectChange
from engine.model.errors import JournalError
from engine.model.run import Outcome
from tests.support.engine import PATIENCE, wait_until
from tests.support.journals import (
    DONE,
    FAILED,
    NOW,
    accept,
    claim,
    event,
    over,
    playbook,
    run,
    step,
    stored_playbook,
)
from tests.support.postgres import database_of, shared_server

LABEL = ObjectChange(POD, "demo", "web", "u1", ("metadata", "labels", "seen"), "true", None)
POLICY = ObjectChange(NETWORK_POLICY, "demo", "tiercel-1")
HELD = Outcome("held", "over the budget", retry_in=3600.0)
LONG = "demo/" + "x" * 3_000


def empty(_total):
    return lambda _done: None


@pytest.fixture
def url(tmp_path):
    return database_of(tmp_path / "database")


def open_file(path):
    return contextlib.closing(SqliteJournal(path, stored_playbook))


def open_database(url):
    return contextlib.closing(
        PostgresJournal(parse_server(url), Process("a", "engine", "1"), stored_playbook)
    )


def fill(journal):
    """Write at least one row of each kind. Return the ids of the runs."""
    for number, until in ((1, NOW + 60), (2, None)):
        accept(journal, run(number, f"demo/{number}"))
        taken = claim(journal)
        assert journal.add_undo_intent(taken, (POLICY, LABEL), until, {"uid": "u1"})
        journal.settle(taken, DONE, NOW)
    accept(journal, run(3, "demo/held", playbook("two", step("a"), step("b"))))
    held = claim(journal)
    journal.keep(held, {"held": [held.step.name, NOW]})
    journal.settle(held, HELD, NOW)
    accept(journal, run(4, "demo/leased"))
    claim(journal)
    accept(journal, run(5, LONG))
    journal.settle(claim(journal), replace(FAILED, retry_in=900.0), NOW)
    accept(journal, run(6, "demo/failed"))
    journal.settle(claim(journal), FAILED, NOW)
    shared = event(7, output_fields={"n": "\0"})
    both = [replace_event(run(n, "demo/queue", playbook(f"p{n}")), shared) for n in (7, 8)]
    accept(journal, *both, run(9, "demo/queue"))  # these stay in the inbox
    journal.pause("other", Pause("alice", NOW, NOW + 5, "why"))
    journal.save_offset("/var/log/falco", {"offset": 7})
    journal.save_throttle_windows({"k" * 900: {"acted": [[NOW, "r"]], "until": NOW}})
    journal.update_budgets({"b"}, lambda _: ({"b": {"until": NOW, "n": 1}}, None), NOW)
    journal.save_set("digest", {"p.yaml": b"x"}, "revision")
    letter = DeadLetter(NOW, "http", "not JSON", b"\0\xff")
    journal.save_dropped([letter, letter], [DroppedRuns("p", "throttle", "k", 3, NOW, NOW + 1)])
    return [run(n).id for n in (1, 2, 4, 5, 6, 9)] + [both[0].id, both[1].id, held.run.id]


def replace_event(one, other):
    return type(one)(one.id, one.playbook, other, one.received, one.target)


def contents(journal, ids):
    """Everything that a user of the journal can read."""
    return {
        "runs": [readable(journal.find(id_)) for id_ in ids],
        "listed": len(journal.runs(RunFilter())),
        "counts": journal.counts(),
        "inForce": journal.in_force(),
        "paused": dict(journal.paused()),
        "letters": journal.dead_letters(9),
        "dropped": journal.dropped_runs(RunFilter()),
        "windows": [*journal.throttle_windows().values()],
        "budgets": dict(journal.budget_windows()),
        "offset": journal.offset("/var/log/falco"),
        "set": journal.last_set(),
    }


def readable(record):
    """A record without the queue of a target with a long name, which PostgreSQL shortens."""
    target = record.run.target[:40]
    one = record.run
    short = type(one)(one.id, one.playbook, one.event, one.received, target, one.trace)
    return replace(record, run=short)


def finish(journal, ids):
    """Do what an engine on the copy does: go on with the runs, decide, undo. Return the states."""
    assert journal.decide(ids[-1], Decision("approve", "alice", NOW + 1))
    assert journal.undo(ids[1], Decision("undo", "alice", NOW + 1)) == ["mark"]
    done = []
    while claims := journal.claim("cluster", 9, NOW + 1000):
        for one in claims:
            state = "undone" if one.undo else "done"
            assert journal.settle(one, Outcome(state, "it is"), NOW + 1000)
            done.append((one.run.id, bool(one.undo), one.interrupted))
    assert journal.in_force() == []
    assert journal.counts() == {"waiting": 0, "running": 0, "held": 0}
    assert over(journal) == len(ids)
    return done


def test_a_copy_has_everything_and_an_engine_on_it_completes_the_runs(url, tmp_path):
    with open_file(tmp_path / "from.db") as journal:
        ids = fill(journal)
    with open_file(tmp_path / "from.db") as journal:  # which ends the leases
        before = contents(journal, ids)
        queued = [one.run.id for one in journal.runs(RunFilter()) if one.run.target == "demo/queue"]
    copied = to_postgres.copy(tmp_path / "from.db", parse_server(url), empty)
    assert (copied.rows["runs"], copied.rows["run_ids"], copied.rows["events"]) == (11, 9, 8)
    with open_database(url) as journal:
        assert contents(journal, ids) == before
        assert journal.accept(AcceptBatch([run(6)]), NOW).result() == {run(6).id: "duplicate"}
        accept(journal, run(20))  # it stays in the inbox of the database
    to_sqlite.copy(parse_server(url), tmp_path / "back.db", empty)
    with open_file(tmp_path / "back.db") as journal:
        ids.insert(2, run(20).id)
        found = contents(journal, ids)
        assert found["runs"].pop(2).position == 0
        assert {**found, "listed": 9, "counts": before["counts"]} == before
        finished = finish(journal, ids)
    with open_database(url) as journal:
        assert sorted(finish(journal, ids)) == sorted(finished)
        order = [id_ for id_, *_ in finished if id_ in queued]
    assert order == [*reversed(queued)]
    assert [one for one in finished if one[2]] == [(run(4).id, False, True)]


def test_a_copy_may_take_longer_than_an_idle_transaction_of_the_engine(url, tmp_path, monkeypatch):
    """A large file is read, or written to its disk, between two statements."""
    with open_file(tmp_path / "from.db") as journal:
        fill(journal)
    monkeypatch.setattr(connection, "IDLE_TIMEOUT_MS", 1)
    to_postgres.copy(tmp_path / "from.db", parse_server(url), empty)
    to_sqlite.copy(parse_server(url), tmp_path / "back.db", empty)


def copy(source, target):
    return CliRunner().invoke(cli, ["journal", "copy", str(source), str(target)])


def test_the_command_copies_and_says_what_comes_next(url, tmp_path):
    with open_file(tmp_path / "from.db") as journal:
        accept(journal, run(1))
    result = copy(tmp_path / "from.db", url)
    assert result.exit_code == 0, result.output
    assert "Runs and undos among them: 1." in result.output
    assert f"Next: tiercel serve --journal {url}" in result.output
    again = copy(tmp_path / "from.db", url)
    assert (again.exit_code, "is not empty (1 rows in all_runs)" in again.output) == (1, True)
    back = copy(url, tmp_path / "from.db")
    assert (back.exit_code, "exists: give the name of a new file" in back.output) == (1, True)
    assert sorted(one.name for one in tmp_path.glob("from.db*")) == ["from.db", "from.db.lock"]


def _version(path, number):
    with open_file(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {number}")


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda _: None, "cannot read the journal"),
        (lambda path: path.write_bytes(b"x" * 5_000), "file is not a database"),
        (lambda path: _version(path, 6), "start and stop this engine once with it, which migrates"),
        (lambda path: _version(path, 99), "use the command of the engine that wrote it"),
    ],
)
def test_a_file_that_cannot_be_copied_is_refused(url, tmp_path, prepare, why):
    prepare(tmp_path / "from.db")
    result = copy(tmp_path / "from.db", url)
    assert (result.exit_code, why in result.output) == (1, True), result.output


def test_a_journal_that_an_engine_uses_is_refused(url, tmp_path):
    with open_file(tmp_path / "from.db"), open_database(url):
        result = copy(tmp_path / "from.db", url)
        assert (result.exit_code, "owns it" in result.output) == (1, True), result.output
        result = copy(url, tmp_path / "to.db")
        assert (result.exit_code, "(a): stop them, and copy again" in result.output) == (1, True)
        assert not (tmp_path / "to.db").exists()


def test_an_engine_that_starts_while_a_copy_begins_is_found(url, tmp_path):
    """A transaction sees the rows from before its first query, which must not be before its lock."""
    with open_database(url) as journal:
        accept(journal, run(1))
    database = url.rpartition("/")[2]
    waits = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        " AND query LIKE 'LOCK TABLE%%'"
    )
    with (
        shared_server().connect(database) as engine,
        shared_server().connect() as admin,
        ThreadPoolExecutor(1) as pool,
    ):
        engine.execute("BEGIN; LOCK TABLE replicas IN ROW EXCLUSIVE MODE")
        copied = pool.submit(copy, url, tmp_path / "to.db")
        wait_until(lambda: admin.execute(waits, (database,)).fetchone())
        engine.execute(
            "INSERT INTO replicas (id, name, process, version, tables) VALUES (1, 'late', 'engine', '1', 1)"
        )
        engine.execute("COMMIT")
        result = copied.result(PATIENCE)
    assert (result.exit_code, "(late): stop them" in result.output) == (1, True), result.output


def test_hostile_names_that_are_equal_in_the_database_are_copied(url, tmp_path):
    counted = [
        DroppedRuns("p", "throttle", key, 2, NOW, NOW) for key in ("k\0", "k\ufffd", "l" * 200)
    ]
    with open_file(tmp_path / "from.db") as journal:
        journal.save_dropped([DeadLetter(NOW, "ht\0tp", "n\0", b"\0")], counted)
        journal.save_throttle_windows({key: {"until": NOW} for key in ("t\0", "t\ufffd")})
        journal.save_offset("o\0", 1)
        journal.save_offset("o\ufffd", 2)
        accept(journal, run(1, "demo/\0"), run(2, "demo/\ufffd"))
    to_postgres.copy(tmp_path / "from.db", parse_server(url), empty)
    with open_database(url) as journal:
        counts = {one.key: one.count for one in journal.dropped_runs(RunFilter())}
        assert counts == {"k\ufffd": 4, "l" * 200: 2}
        assert [one.run.id for one in journal.claim("cluster", 9, NOW)] == [run(1).id]


def test_a_copy_that_breaks_off_leaves_nothing(url, tmp_path):
    with open_file(tmp_path / "from.db") as journal:
        accept(journal, run(1))
    database = url.rpartition("/")[2]

    def broken(_total):
        with shared_server().connect() as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (database,),
            )
        return lambda _done: None

    with pytest.raises(JournalError, match="cannot use the journal"):
        to_postgres.copy(tmp_path / "from.db", parse_server(url), broken)
    with open_database(url) as journal:
        assert journal.counts()["waiting"] == 0
    with shared_server().connect(database) as connection:
        connection.execute("DELETE FROM replicas")
    with pytest.raises(JournalError, match="cannot"):
        to_sqlite.copy(parse_server(url), tmp_path / "to.db", broken)
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith("to.db")] == []


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ("a.db", "b.db", "tiercel backup TO --journal FROM"),
        ("postgresql://a/b", "postgresql://c/d", "pg_dump"),
        ("a.db", "postgresql://127.0.0.1", "TO does not name a database"),
        ("postgresql://u:secret@127.0.0.1/d", "b.db", "FROM must not contain a password"),
        ("a.db", "postgresql://127.0.0.1:1/d", "cannot"),
    ],
)
def test_wrong_use_is_one_sentence(source, target, why):
    result = copy(source, target)
    assert result.exit_code in (1, 2)
    assert why in result.output
    assert "secret" not in result.output
