"""The SQLite journal: its file, lock, thread, migrations, and behaviour on a full disk."""

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from engine.cluster.api import POD
from engine.journal.records import AcceptBatch, Pause, RunFilter
from engine.journal.sqlite import claims, schema, undo_intents, watchdog
from engine.journal.sqlite.journal import SqliteJournal
from engine.journal.undo_rules import UndoIntent
from engine.model.calls import ObjectChange
from engine.model.errors import Finding, JournalError, Location, PlaybookError
from engine.model.run import Outcome
from tests.support.engine import PATIENCE, wait_until
from tests.support.journals import (
    LEASE,
    NOW,
    accept,
    claim,
    playbook,
    run,
    step,
    stored_playbook,
)

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
    """Start a process that runs the script, with pipes."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process):
    with process:
        try:
            out, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    return out.split("\n")[:-1]


@pytest.mark.usefixtures("journal")
def test_a_second_process_is_refused_with_the_pid_of_the_owner(path):
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


def test_accepted_runs_survive_the_kill_of_the_owner(path):
    owner = python(
        """
        import sys
        from engine.journal.records import AcceptBatch
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


def test_a_process_can_open_the_file_again_only_after_closing_it(journal, path):
    with pytest.raises(JournalError, match="only one process can"):
        SqliteJournal(path, stored_playbook)
    journal.close()
    SqliteJournal(path, stored_playbook).close()


def test_writes_fail_on_a_full_disk_and_work_again_afterwards(path):
    script = """
        import resource, sys
        from engine.journal.records import AcceptBatch, Pause, RunFilter
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
            lambda: journal.save_offset("a", 1),
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
        print("claimed", len(journal.claim("cluster", 9, NOW)), journal.offset("a"))
        journal.close()
        """
    *refused, broken, known, healed, claimed = finished(python(script, path))
    assert len(refused) == 3
    assert all(line.startswith("refused the journal cannot be written: ") for line in refused)
    assert broken.startswith("writable the journal cannot be written: ")
    assert (known, healed, claimed) == ("known True", "writable None", "claimed 2 None")


@pytest.mark.usefixtures("journal")
def test_the_writer_thread_has_a_name():
    assert "journal journal.db" in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("change", "why"),
    [("PRAGMA user_version = 99", "has version 99"), ("PRAGMA user_version = 0", "has version 0")],
)
def test_a_file_of_an_unknown_version_is_refused_and_not_changed(path, change, why):
    SqliteJournal(path, stored_playbook).close()
    connection = sqlite3.connect(path)
    connection.execute(change)
    connection.close()
    before = path.read_bytes()
    for _ in range(2):  # the refusal unlocks the file
        with pytest.raises(JournalError, match=why):
            SqliteJournal(path, stored_playbook)
    assert path.read_bytes() == before


def test_a_closed_journal_is_a_single_file(journal, path):
    journal.accept(AcceptBatch([run(1)]), NOW).result()
    journal.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["journal.db", "journal.db.lock"]


def test_a_file_that_is_not_a_journal_is_refused(tmp_path):
    (tmp_path / "text.db").write_text(
        "no database, but a long enough text to be told from one\n" * 9
    )
    for name in ("text.db", "missing/journal.db"):
        with pytest.raises(JournalError, match="cannot open the journal"):
            SqliteJournal(tmp_path / name, stored_playbook)


def test_only_the_owner_can_read_the_files(journal, path):
    journal.accept(AcceptBatch([run(1)]), NOW).result()
    files = [path, *path.parent.glob("journal.db-*"), path.with_name("journal.db.lock")]
    assert len(files) == 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_write_is_synced_before_its_future_resolves(journal, path, monkeypatch):
    synced, flush = [], os.fdatasync

    def fdatasync(descriptor):
        flush(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    accept(journal, run(1))
    log = path.with_name(f"{path.name}-wal").stat().st_ino
    assert synced == [log]
    claim(journal)
    assert synced == [log, log]


def test_runs_share_the_stored_event_and_the_stored_playbook(journal, path):
    first = run(1, of=playbook("a"))
    second = msgspec.structs.replace(run(1, of=playbook("b")), event=first.event)
    journal.accept(AcceptBatch([first, second, run(2, of=playbook("a"))]), NOW).result()
    connection = sqlite3.connect(path)
    count = "SELECT (SELECT count(*) FROM snapshots), (SELECT count(*) FROM events)"
    assert connection.execute(count).fetchone() == (2, 2)
    connection.close()


def test_a_run_keeps_the_blob_id_of_its_playbook_file(journal):
    one, other = (
        run(n, of=dataclasses.replace(playbook(), blob=blob)) for n, blob in ((1, "ab"), (2, "cd"))
    )
    journal.accept(AcceptBatch([one, other]), NOW).result()
    assert [c.run.playbook.blob for c in journal.claim("cluster", 2, NOW)] == ["ab", "cd"]


def test_a_run_that_this_engine_cannot_read_ends_as_failed_and_blocks_no_other_run(path):
    def without_pod_melt(snapshot):
        if stored_playbook(snapshot).name == "old":
            where = Location("old.yaml", 1, 1)
            raise PlaybookError([Finding(where, "unknown-action", "no action pod.melt")])
        return stored_playbook(snapshot)

    journal = SqliteJournal(path, without_pod_melt)
    try:
        old = run(1, "demo/a", playbook("old", step("melt")))
        journal.accept(AcceptBatch([old, run(2, "demo/a")]), NOW).result()
        assert journal.claim("cluster", 10, NOW) == []
        assert [c.run for c in journal.claim("cluster", 10, NOW)] == [run(2, "demo/a")]
        assert journal.counts() == {"waiting": 0, "running": 1, "held": 0}
        with pytest.raises(JournalError, match=r"pod\.melt"):
            journal.find(old.id)
    finally:
        journal.close()


def test_many_runs_that_are_due_at_once_are_claimed_in_order(journal, monkeypatch):
    monkeypatch.setattr(claims, "MAX_DUE_RUNS", 50)
    count = 2 * claims.MAX_DUE_RUNS + 1
    runs = [run(number, "demo/a" if number % 2 else None) for number in range(count)]
    journal.accept(AcceptBatch(runs), NOW).result()
    with ThreadPoolExecutor(8) as pool:
        while taken := journal.claim("cluster", count, NOW):
            # the run that was accepted first is due last
            waits = [Outcome("failed", "503", 99.0 - runs.index(c.run) / count) for c in taken]
            list(pool.map(lambda c, o: journal.settle(c, o, NOW), taken, waits))
    first = journal.claim("cluster", 3, NOW + 100)
    assert [c.run.id for c in first] == [r.id for r in (runs[0], runs[1], runs[2])]


def test_the_cost_of_a_claim_does_not_depend_on_the_length_of_the_target_queue(journal, path):
    runs = [run(number, "demo/a") for number in range(2000)]
    journal.accept(AcceptBatch(runs), NOW).result()
    (held,) = journal.claim("cluster", 8, NOW)
    connection = schema.connect(path, writes=True)
    steps = []
    connection.set_progress_handler(lambda: steps.append(1), 100)  # once per 100 instructions
    assert claims.queue_due_runs(connection, NOW + 1)
    assert claims.claim_heads(connection, "cluster", 8, NOW + 1, 10.0) == []
    claims.update_heads(connection, held.run.target)
    connection.close()
    assert len(steps) < 5
    journal.find(held.run.id)  # moves all runs to the target queues
    assert journal.next_due("cluster") == NOW + LEASE


VERSION_6 = """
ALTER TABLE pauses RENAME TO paused; ALTER TABLE undo_intents RENAME TO holds;
ALTER TABLE playbook_sets RENAME TO sets; ALTER TABLE dead_letters RENAME TO dead;
DROP TABLE throttle_windows; DROP TABLE budget_windows; DROP TABLE offsets; DROP TABLE dry_run;
CREATE TABLE memory (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
VERSION_5 = f"""{VERSION_6}
ALTER TABLE runs DROP COLUMN revision; ALTER TABLE sets DROP COLUMN revision;
"""
VERSION_4 = f"""{VERSION_5}
ALTER TABLE paused DROP COLUMN until; ALTER TABLE paused DROP COLUMN reason;
"""
VERSION_3 = f"""{VERSION_4}
DROP TABLE arrived;
"""
VERSION_2 = f"""{VERSION_3}
DROP INDEX runs_timers; DROP INDEX runs_undos; DROP INDEX runs_undoes; DROP TABLE holds;
ALTER TABLE runs DROP COLUMN undoes; CREATE TABLE probe (id INTEGER PRIMARY KEY, count INTEGER);
CREATE INDEX runs_timers ON runs (pool, due_at) WHERE state IN ('waiting', 'leased');
"""
ONLY_IN_VERSION_2 = """
ALTER TABLE runs DROP COLUMN namespace; ALTER TABLE runs DROP COLUMN held;
DROP TABLE paused; DROP TABLE dead; DROP TABLE drops; DROP INDEX runs_settled; DROP INDEX runs_events;
"""


@pytest.mark.parametrize(
    ("version", "downgrade"),
    [
        (6, VERSION_6),
        (5, VERSION_5),
        (4, VERSION_4),
        (3, VERSION_3),
        (2, VERSION_2),
        (1, VERSION_2 + ONLY_IN_VERSION_2),
    ],
)
def test_a_file_of_an_older_version_is_migrated_with_its_runs(tmp_path, version, downgrade):
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path, stored_playbook)
    accept(journal, run(1))
    assert journal.find(run(1).id)  # moves the run to the target queues
    journal.close()
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript(f"{downgrade} PRAGMA user_version = {version};")
    journal = SqliteJournal(path, stored_playbook)
    try:
        taken = claim(journal)
        assert taken.run == run(1)
        assert journal.add_undo_intent(taken, (), NOW + 1, {})
        journal.pause("p", Pause("alice", NOW))
        assert list(journal.paused()) == ["p"]
    finally:
        journal.close()


def test_a_file_that_version_0_4_wrote_keeps_its_state(tmp_path):
    path = tmp_path / "journal.db"
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript((Path(__file__).parent / "version_6.sql").read_text())
    with contextlib.closing(SqliteJournal(path, lambda _: playbook())) as journal:
        window = {"acted": [[NOW, run(1).id]], "until": NOW + 60}
        assert journal.throttle_windows() == {'["p","once",["a"]]': window}
        assert journal.budget_windows() == {
            '["enforce","disrupt"]': {"targets": {"u1": NOW}, "until": NOW + 60},
            "digest:enforce/p/tell": {"count": 3, "until": NOW + 9},
        }
        assert journal.offset("/var/log/falco.json")["offset"] == 345
        assert journal.paused() == {"q": Pause("alice", NOW, NOW + 3600, "an upgrade")}
        assert journal.last_set() == ("d1", {"a.yaml": b"x: 1"}, "v1.2")
        assert (len(journal.dead_letters(9)), len(journal.dropped_runs(RunFilter()))) == (1, 1)
        assert journal.find(run(1).id).undo == {"mark": NOW + 60}
        assert claim(journal, 0).run == run(2)  # the file was in a dry run, which is over
        (undo,) = [one for one in journal.claim("cluster", 9, NOW + 60) if one.undo]
        assert undo.changes[0].name == "web"


def fill(journal):
    """Accept and finish runs until the journal is full. Measure it after each run, as maintenance does."""
    for number in range(1000):
        journal.fill_ratio()
        accept(journal, run(number))
        journal.settle(claim(journal), DONE, NOW)


def test_a_full_journal_refuses_runs_and_accepts_again_after_runs_were_deleted(tmp_path):
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
def test_a_deleted_or_replaced_file_is_refused_until_it_is_restored(
    path, name, replaced, monkeypatch
):
    monkeypatch.setattr(watchdog, "INTERVAL", 0.01)
    with contextlib.closing(SqliteJournal(path, stored_playbook)) as journal:
        accept(journal, run(1))
        file = path.with_name(name)
        away = file.rename(file.with_name("away"))
        if replaced:
            file.touch()
        wait_until(lambda: journal.write_error() is not None)
        assert f"{file} was deleted or replaced" in journal.write_error()
        with pytest.raises(JournalError, match="restore the file"):
            accept(journal, run(2))
        away.rename(file)
        wait_until(lambda: journal.write_error() is None)
        accept(journal, run(3))
        assert journal.known([run(n).id for n in (1, 2, 3)]) == {run(1).id, run(3).id}


def test_undo_intents_of_one_transaction_are_written_as_if_one_after_the_other(journal):
    """Two steps label one pod, an attempt is late, and another run has two changes."""
    label = ObjectChange(POD, "demo", "web", "u1", ("metadata", "labels", "seen"), "1", "0")
    other = dataclasses.replace(label, name="db", uid="u2")
    accept(journal, *(run(number, f"demo/{number}") for number in (1, 2, 3, 4)))
    taken = journal.claim("cluster", 4, NOW)
    late = dataclasses.replace(taken[3], fence=taken[3].fence - 1)

    def addition(claim, *changes, state=()):
        intent = UndoIntent(claim.run.id, claim.step.name, claim.position, changes, NOW + 60)
        return undo_intents.Addition(journal._key(claim), intent, dict(state), NOW)

    given = [
        addition(taken[0], label, state={"uid": "u1"}.items()),
        addition(taken[1], dataclasses.replace(label, put="2", before="1"), other),
        addition(late, label, state={"uid": "late"}.items()),
        addition(taken[2], dataclasses.replace(label, put="3", before="1")),
    ]
    written = journal._write(lambda connection: undo_intents.add(connection, given))
    assert written == [True, True, False, True]
    found = {(one.run, one.change.name): one.change for one in journal.in_force()}
    assert {key: (one.before, one.put) for key, one in found.items()} == {
        (taken[0].run.id, "web"): ("0", "3"),
        (taken[1].run.id, "web"): ("0", "3"),
        (taken[1].run.id, "db"): ("0", "1"),
        (taken[2].run.id, "web"): ("0", "3"),
    }
    assert set(found[taken[2].run.id, "web"].others) == {"1", "2"}
    again = {one.run.id: one.attempt_state for one in journal.claim("cluster", 9, NOW + LEASE)}
    assert again[taken[0].run.id] == {"uid": "u1"}
    assert again[late.run.id] == {}


def test_a_transaction_of_many_undo_intents_takes_several_statements(journal, monkeypatch):
    """Five steps change three values each: one of its own, and two that an earlier run has changed."""
    monkeypatch.setattr(claims, "ROWS_PER_STATEMENT", 2)

    def label(pod, put, before):
        return ObjectChange(POD, "demo", pod, pod, ("metadata", "labels", "seen"), put, before)

    accept(journal, *(run(number, f"demo/{number}") for number in range(6)))
    first, *taken = journal.claim("cluster", 6, NOW)
    shared = ("web", "db")
    earlier = tuple(label(pod, "first", "original") for pod in shared)
    assert journal.add_undo_intent(first, earlier, NOW + 60, {})
    for claimed in taken:
        assert journal.keep(claimed, {"kept": claimed.run.id})
    given = [
        undo_intents.Addition(
            journal._key(claimed),
            UndoIntent(
                claimed.run.id,
                claimed.step.name,
                0,
                [label(pod, str(n), "first") for pod in (f"own-{n}", *shared)],
                NOW + 60 + n,
            ),
            {"added": n},
            NOW,
        )
        for n, claimed in enumerate(taken)
    ]
    assert journal._write(lambda connection: undo_intents.add(connection, given)) == [True] * 5
    found = {(one.run, one.change.name): one for one in journal.in_force()}
    assert len(found) == 2 + 5 * 3
    for n, claimed in enumerate(taken):
        id_ = claimed.run.id
        assert {found[id_, pod].change.before for pod in shared} == {"original"}
        assert found[id_, f"own-{n}"].change.before == "first"
        assert found[id_, "web"].until == NOW + 60 + n
        assert journal.undo_times(label(f"own-{n}", "", "").key) == [NOW + 60 + n]
    states = {one.run.id: one.attempt_state for one in journal.claim("cluster", 9, NOW + LEASE)}
    assert states == {first.run.id: {}} | {
        one.run.id: {"kept": one.run.id, "added": n} for n, one in enumerate(taken)
    }
