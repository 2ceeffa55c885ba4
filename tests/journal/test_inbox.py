"""Accepted runs wait in the inbox, where they are visible, until a claim or a reader needs them."""

import contextlib
import select
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from engine.journal.records import AcceptBatch, RunFilter
from engine.journal.sqlite import inbox
from engine.journal.sqlite.journal import SqliteJournal
from tests.support.journals import DONE, NOW, accept, claim, playbook, run, step, stored_playbook

SLOW = playbook("slow", step(effect="notify", pool="slow"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path):
    with contextlib.closing(SqliteJournal(path, stored_playbook)) as journal:
        yield journal


def waiting(path):
    """Return the number of rows of the inbox in the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*) FROM arrived").fetchone()[0]


def test_runs_in_the_inbox_are_known_counted_found_and_listed(journal, path):
    accept(journal, run(1), run(2))
    assert waiting(path) == 1
    assert journal.known([run(1).id, run(2).id, run(3).id]) == {run(1).id, run(2).id}
    assert journal.counts()["waiting"] == 2
    assert waiting(path) == 1  # neither of the two moved the runs
    assert journal.find(run(1).id).run == run(1)
    assert {record.run.id for record in journal.runs(RunFilter())} == {run(1).id, run(2).id}
    assert journal.counts()["waiting"] == 2
    assert journal.known([run(1).id]) == {run(1).id}


def test_runs_in_the_inbox_survive_a_restart(journal, path):
    accept(journal, run(1))
    journal.close()
    with contextlib.closing(SqliteJournal(path, stored_playbook)) as again:
        assert again.known([run(1).id, run(2).id]) == {run(1).id}
        assert claim(again).run == run(1)


def test_a_claim_moves_only_as_many_runs_as_it_needs(journal, path):
    for number in range(2 * inbox.MAX_ENTERING_RUNS):
        accept(journal, run(number))
    assert len(journal.claim("cluster", 4, NOW)) == 4
    assert waiting(path) == inbox.MAX_ENTERING_RUNS
    assert len(journal.claim("cluster", 4, NOW)) == 4
    assert waiting(path) == inbox.MAX_ENTERING_RUNS


def test_a_claim_of_the_slow_pool_moves_nothing_without_a_slow_run(journal, path):
    accept(journal, run(1))
    assert journal.claim("slow", 4, NOW) == []
    assert journal.next_due("slow") is None
    assert waiting(path) == 1
    accept(journal, run(2, of=SLOW))
    assert [one.run.id for one in journal.claim("slow", 4, NOW)] == [run(2, of=SLOW).id]


def test_accepts_move_runs_when_the_inbox_is_too_long(journal, path, monkeypatch):
    monkeypatch.setattr(inbox, "MAX_WAITING_EVENTS", 10)
    for number in range(10 * inbox._WRITES_PER_CHECK):
        accept(journal, run(number))
    assert waiting(path) <= 10 + inbox._WRITES_PER_CHECK
    assert journal.counts()["waiting"] == 10 * inbox._WRITES_PER_CHECK


def test_the_runs_of_a_large_body_keep_their_order(journal):
    runs = [run(number, "demo/web") for number in range(120)]
    journal.accept(AcceptBatch(runs), NOW).result()
    done = []
    while claims := journal.claim("cluster", 1, NOW):
        done.append(claims[0].run.id)
        journal.settle(claims[0], DONE, NOW)
    assert done == [one.id for one in runs]


def test_a_repeated_event_leaves_one_run_and_one_event(journal, path):
    accept(journal, run(1))
    accept(journal, run(1))
    assert len(journal.claim("cluster", 9, NOW)) == 1
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone()[0] == 1


def test_runs_that_the_worker_process_finished_are_known_to_the_owner(journal, path):
    with contextlib.closing(SqliteJournal(path, stored_playbook, worker_process=True)) as worker:
        accept(journal, run(1))
        worker.settle(claim(worker), DONE, NOW)
        assert journal.known([run(1).id]) == {run(1).id}
        accept(journal, run(2))
        assert journal.known([run(1).id]) == {run(1).id}
        assert journal.find(run(1).id).outcome == "done"


def waits_for_a_lock(pid):
    """Return whether the process waits for a file lock, according to /proc/locks."""
    blocked = (
        line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line
    )
    return any(words[words.index("->") + 4] == str(pid) for words in blocked)


@pytest.mark.usefixtures("journal")
def test_a_worker_process_waits_until_an_earlier_one_has_ended(path):
    script = """
        import sys
        from engine.journal.sqlite.journal import SqliteJournal
        from tests.support.journals import stored_playbook
        SqliteJournal(sys.argv[1], stored_playbook, worker_process=True)
        print("locked", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, **pipes) as first:
        assert first.stdout.readline() == "locked\n"
        with subprocess.Popen(command, cwd=root, **pipes) as second:
            locked = [second.stdout]
            while not waits_for_a_lock(second.pid) and not select.select(locked, [], [], 0)[0]:
                pass
            assert not select.select(locked, [], [], 0)[0]
            first.kill()
            assert second.stdout.readline() == "locked\n"
            second.kill()


def test_a_batch_that_fails_is_not_known_and_the_other_batches_are_written(journal, monkeypatch):
    broken = run(2)
    bodies = []

    def insert_or_fail(connection, statement, rows, insert=inbox.insert_rows):
        if statement.startswith("INSERT INTO arrived"):
            bodies.append(len(rows))
            if any(broken.id.encode() in row[1] for row in rows):
                raise sqlite3.IntegrityError("this one cannot be written")
        return insert(connection, statement, rows)

    monkeypatch.setattr(inbox, "insert_rows", insert_or_fail)
    reached, go_on = threading.Event(), threading.Event()
    journal._writer.submit(lambda _: (reached.set(), go_on.wait()))
    reached.wait()
    futures = [journal.accept(AcceptBatch([one]), NOW) for one in (run(1), broken, run(3))]
    go_on.set()
    assert [future.exception() is None for future in futures] == [True, False, True]
    assert bodies[0] == 3
    assert journal.known([one.id for one in (run(1), broken, run(3))]) == {run(1).id, run(3).id}
