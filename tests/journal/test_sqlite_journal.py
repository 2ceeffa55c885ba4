"""What only the SQLite journal has: its file, its lock, its thread, a disk that is full."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from engine.journal.protocol import AcceptBatch, Pause
from engine.journal.sqlite import scheduler, schema, watchdog
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.errors import Finding, JournalError, Location, PlaybookError
from engine.model.run import Outcome
from tests.support.journals import LEASE, NOW, accept, claim, playbook, run, step, stored_playbook

ROOT = Path(__file__).parents[2]
DONE = Outcome("done", "")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path):
    journal = SqliteJournal(path, stored_playbook)
    yield journal
    journal.close()


def python(script, *arguments):
    """A process that runs the script, with its lines of output to be read."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process):
    with process:
        try:
            out, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    return out.split("\n")[:-1]


@pytest.mark.usefixtures("journal")
def test_a_second_process_is_refused_and_told_who_owns_the_file(path):
    other = python(
        """
        import sys
        from engine.model.errors import JournalError
        from engine.journal.sqlite.journal import SqliteJournal
        try:
            SqliteJournal(sys.argv[1], None)
        except JournalError as error:
            print(error)
        """,
        path,
    )
    (line,) = finished(other)
    assert f"process {os.getpid()} owns it" in line


def test_a_killed_owner_leaves_the_file_free_and_what_it_accepted_in_it(path):
    owner = python(
        """
        import sys
        from engine.journal.protocol import AcceptBatch
        from engine.journal.sqlite.journal import SqliteJournal
        from tests.support.journals import NOW, run, stored_playbook
        journal = SqliteJournal(sys.argv[1], stored_playbook)
        journal.accept(AcceptBatch([run(1), run(2)]), NOW).result()
        assert len(journal.claim("cluster", 1, NOW)) == 1
        print("accepted", flush=True)
        sys.stdin.read()
        """,
        path,
    )
    assert owner.stdout.readline() == "accepted\n"
    with owner:
        owner.kill()
    playbook()
    journal = SqliteJournal(path, stored_playbook)
    try:
        claims = journal.claim("cluster", 10, NOW)
        assert [(c.run.id, c.interrupted) for c in claims] == [
            (run(1).id, True), (run(2).id, False),
        ]  # fmt: skip
    finally:
        journal.close()


def test_the_same_process_cannot_open_it_twice_but_again_after_closing(journal, path):
    with pytest.raises(JournalError, match="only one process can"):
        SqliteJournal(path, stored_playbook)
    journal.close()
    SqliteJournal(path, stored_playbook).close()


def test_a_full_disk_fails_what_is_written_says_so_and_heals(path):
    script = """
        import resource, sys
        from engine.journal.protocol import AcceptBatch, Pause
        from engine.model.errors import JournalError
        from engine.journal.sqlite.journal import SqliteJournal
        from tests.support.journals import NOW, run, stored_playbook
        journal = SqliteJournal(sys.argv[1], stored_playbook)
        journal.accept(AcceptBatch([run(1)]), NOW).result()
        free = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, free[1]))
        for work in (
            lambda: journal.accept(AcceptBatch([run(2)]), NOW).result(),
            lambda: journal.claim("cluster", 1, NOW),
            lambda: journal.save_key_values({"a": 1}),
        ):
            try:
                work()
            except JournalError as error:
                print("refused", error)
        journal.accept(AcceptBatch(), NOW).result()
        print("writable", journal.write_error())
        print("known", journal.known([run(1).id, run(2).id]) == {run(1).id})
        resource.setrlimit(resource.RLIMIT_FSIZE, free)
        print("writable", journal.write_error())
        journal.accept(AcceptBatch([run(2)]), NOW).result()
        print("claimed", len(journal.claim("cluster", 9, NOW)), journal.key_values())
        journal.close()
        """
    *refused, broken, known, healed, claimed = finished(python(script, path))
    assert len(refused) == 3
    assert all(line.startswith("refused the journal cannot be written: ") for line in refused)
    assert broken.startswith("writable the journal cannot be written: ")
    assert (known, healed, claimed) == ("known True", "writable None", "claimed 2 {}")


@pytest.mark.usefixtures("journal")
def test_its_thread_has_a_name():
    assert "journal journal.db" in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("change", "why"),
    [("PRAGMA user_version = 99", "has version 99"), ("PRAGMA user_version = 0", "has version 0")],
)
def test_another_versions_file_is_refused_and_left_alone(path, change, why):
    SqliteJournal(path, stored_playbook).close()
    connection = sqlite3.connect(path)
    connection.execute(change)
    connection.close()
    before = path.read_bytes()
    for _ in range(2):  # the lock is free again after the refusal
        with pytest.raises(JournalError, match=why):
            SqliteJournal(path, stored_playbook)
    assert path.read_bytes() == before


def test_a_closed_journal_is_one_file_with_everything_in_it(journal, path):
    journal.accept(AcceptBatch([run(1)]), NOW).result()
    journal.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["journal.db", "journal.db.lock"]


def test_what_is_no_journal_is_refused(tmp_path):
    (tmp_path / "text.db").write_text(
        "no database, but a long enough text to be told from one\n" * 9
    )
    for name in ("text.db", "missing/journal.db"):
        with pytest.raises(JournalError, match="cannot open the journal"):
            SqliteJournal(tmp_path / name, stored_playbook)


def test_only_its_owner_may_read_the_file(journal, path):
    journal.accept(AcceptBatch([run(1)]), NOW).result()
    files = [path, *path.parent.glob("journal.db-*"), path.with_name("journal.db.lock")]
    assert len(files) == 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_it_waits_for_the_disk_before_anybody_is_told(journal, path, monkeypatch):
    flushed, flush = [], os.fdatasync

    def fdatasync(descriptor):
        flush(descriptor)
        flushed.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    accept(journal, run(1))
    log = path.with_name(f"{path.name}-wal").stat().st_ino
    assert flushed == [log]
    claim(journal)
    assert flushed == [log, log]


def test_runs_of_one_event_share_its_body_and_those_of_one_playbook_its_snapshot(journal, path):
    first = run(1, of=playbook("a"))
    second = msgspec.structs.replace(run(1, of=playbook("b")), event=first.event)
    journal.accept(AcceptBatch([first, second, run(2, of=playbook("a"))]), NOW).result()
    connection = sqlite3.connect(path)
    count = "SELECT (SELECT count(*) FROM snapshots), (SELECT count(*) FROM events)"
    assert connection.execute(count).fetchone() == (2, 2)
    connection.close()


def test_a_run_keeps_the_blob_of_the_file_that_its_playbook_came_from(journal):
    one, other = (
        run(n, of=dataclasses.replace(playbook(), blob=blob)) for n, blob in ((1, "ab"), (2, "cd"))
    )
    journal.accept(AcceptBatch([one, other]), NOW).result()
    assert [c.run.playbook.blob for c in journal.claim("cluster", 2, NOW)] == ["ab", "cd"]


def test_a_run_that_this_engine_cannot_read_ends_as_failed_and_holds_up_nobody(path):
    def picky(snapshot):
        if stored_playbook(snapshot).name == "old":
            where = Location("old.yaml", 1, 1)
            raise PlaybookError([Finding(where, "unknown-action", "no action pod.melt")])
        return stored_playbook(snapshot)

    journal = SqliteJournal(path, picky)
    try:
        old = run(1, "demo/a", playbook("old", step("melt")))
        journal.accept(AcceptBatch([old, run(2, "demo/a")]), NOW).result()
        assert journal.claim("cluster", 10, NOW) == []
        assert [c.run for c in journal.claim("cluster", 10, NOW)] == [run(2, "demo/a")]
        assert journal.counts() == {"waiting": 0, "running": 1, "held": 0, "over": 1}
        with pytest.raises(JournalError, match=r"pod\.melt"):
            journal.find(old.id)
    finally:
        journal.close()


def test_many_runs_that_are_due_at_once_are_claimed_in_order(journal, monkeypatch):
    monkeypatch.setattr(scheduler, "MAX_DUE_RUNS", 50)
    count = 2 * scheduler.MAX_DUE_RUNS + 1
    runs = [run(number, "demo/a" if number % 2 else None) for number in range(count)]
    journal.accept(AcceptBatch(runs), NOW).result()
    with ThreadPoolExecutor(8) as pool:
        while claims := journal.claim("cluster", count, NOW):
            # what was accepted first comes due last
            waits = [Outcome("failed", "503", 99.0 - runs.index(c.run) / count) for c in claims]
            list(pool.map(lambda c, o: journal.settle(c, o, NOW), claims, waits))
    first = journal.claim("cluster", 3, NOW + 100)
    assert [c.run.id for c in first] == [r.id for r in (runs[0], runs[1], runs[2])]


def test_a_claim_reads_only_what_it_gives_however_long_a_lane_is(journal, path):
    runs = [run(number, "demo/a") for number in range(2000)]
    journal.accept(AcceptBatch(runs), NOW).result()
    (held,) = journal.claim("cluster", 8, NOW)
    connection = schema.connect(path, writes=True)
    steps = []
    connection.set_progress_handler(lambda: steps.append(1), 100)  # called every 100 instructions
    assert scheduler.queue_due_runs(connection, NOW + 1)
    assert scheduler.claim_heads(connection, "cluster", 8, NOW + 1, 10.0) == []
    scheduler.update_heads(connection, held.run.target)
    connection.close()
    assert len(steps) < 5
    journal.find(held.run.id)  # by then all have entered the lanes
    assert journal.next_due("cluster") == NOW + LEASE


WITHOUT_PAUSES = """
ALTER TABLE paused DROP COLUMN until; ALTER TABLE paused DROP COLUMN reason;
"""
WITHOUT_ARRIVING = f"""{WITHOUT_PAUSES}
DROP TABLE arrived;
"""
WITHOUT_UNDOING = f"""{WITHOUT_ARRIVING}
DROP INDEX runs_timers; DROP INDEX runs_undos; DROP INDEX runs_undoes; DROP TABLE holds;
ALTER TABLE runs DROP COLUMN undoes; CREATE TABLE probe (id INTEGER PRIMARY KEY, count INTEGER);
CREATE INDEX runs_timers ON runs (pool, due_at) WHERE state IN ('waiting', 'leased');
"""
WITHOUT_HAND = """
ALTER TABLE runs DROP COLUMN namespace; ALTER TABLE runs DROP COLUMN held;
DROP TABLE paused; DROP TABLE dead; DROP TABLE drops; DROP INDEX runs_settled; DROP INDEX runs_events;
"""


@pytest.mark.parametrize(
    ("version", "taken_away"),
    [
        (4, WITHOUT_PAUSES),
        (3, WITHOUT_ARRIVING),
        (2, WITHOUT_UNDOING),
        (1, WITHOUT_UNDOING + WITHOUT_HAND),
    ],
)
def test_the_file_of_an_older_version_is_taken_over_with_all_its_runs(
    tmp_path, version, taken_away
):
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path, stored_playbook)
    accept(journal, run(1))
    assert journal.find(run(1).id)  # it has entered the lanes
    journal.close()
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript(f"{taken_away} PRAGMA user_version = {version};")
    journal = SqliteJournal(path, stored_playbook)
    try:
        taken = claim(journal)
        assert taken.run == run(1)
        assert journal.add_undo_intent(taken, (), NOW + 1, {})
        journal.pause("p", Pause("alice", NOW))
        assert list(journal.paused()) == ["p"]
    finally:
        journal.close()


def fill(journal):
    """Accept and end runs until it takes no more, looking how full it is as whoever keeps house does."""
    for number in range(1000):
        journal.fill_ratio()
        accept(journal, run(number))
        journal.settle(claim(journal), DONE, NOW)


def test_a_journal_that_has_all_it_may_have_takes_no_more_and_recovers_once_there_is_room(tmp_path):
    journal = SqliteJournal(tmp_path / "journal.db", stored_playbook, max_bytes=400 * 1024)
    try:
        with pytest.raises(JournalError, match="full"):
            fill(journal)
        assert journal.fill_ratio() > 0.9
        while journal.delete_runs(NOW + 1):
            pass
        assert journal.fill_ratio() < 0.5
        accept(journal, run(9999))
        assert journal.known([run(9999).id])
    finally:
        journal.close()


@pytest.mark.parametrize("name", ["journal.db", "journal.db.lock"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_gone_or_another_takes_nothing_until_it_is_back(
    path, name, replaced, monkeypatch
):
    monkeypatch.setattr(watchdog, "INTERVAL", 0.01)
    with contextlib.closing(SqliteJournal(path, stored_playbook)) as journal:
        accept(journal, run(1))
        file = path.with_name(name)
        away = file.rename(file.with_name("away"))
        if replaced:
            file.touch()
        until(lambda: journal.write_error() is not None)
        assert f"{file} was deleted or replaced" in journal.write_error()
        with pytest.raises(JournalError, match="restore the file"):
            accept(journal, run(2))
        away.rename(file)
        until(lambda: journal.write_error() is None)
        accept(journal, run(3))
        assert journal.known([run(n).id for n in (1, 2, 3)]) == {run(1).id, run(3).id}


def until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
