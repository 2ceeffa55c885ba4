"""The spool in front of a real PostgreSQL: what it keeps, in which order it forwards, and what it refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from engine.journal.postgres import connection
from engine.journal.postgres.connection import parse_server
from engine.journal.postgres.journal import PostgresJournal
from engine.journal.postgres.liveness import Process
from engine.journal.records import AcceptBatch
from engine.journal.spool import queue as queue_module
from engine.journal.spool.file import SpoolFile
from engine.journal.spool.queue import SpooledQueue
from engine.journal.sqlite import schema
from engine.model.errors import JournalError, JournalUnavailableError
from engine.model.playbook import Match, Playbook, Throttle
from engine.model.throttle_window import ThrottleUse
from tests.support import journals
from tests.support.engine import PATIENCE, wait_until
from tests.support.journals import DONE, NOW, event, over, playbook, run, step, stored_playbook
from tests.support.postgres import database_of, shared_server, unavailable

ONCE = Throttle("once", 60.0, first=1)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return database_of(tmp_path_factory.mktemp("spool"))


@pytest.fixture
def journal(url):
    with shared_server().connect(url.rpartition("/")[2]) as connection:
        connection.execute(
            "TRUNCATE arrived, runs, history, run_ids, events, targets, throttle_windows, dead_letters"
        )
    opened = PostgresJournal(parse_server(url), Process("a", "engine", "1"), stored_playbook)
    yield opened
    opened.close()


@contextlib.contextmanager
def queue_of(journal, path, **of):
    wait_until(lambda: answers(journal))
    with contextlib.closing(
        SpooledQueue(journal, SpoolFile(path, journal.id(), stored_playbook, **of))
    ) as queue:
        queue.throttled = []
        queue.on_throttled = queue.throttled.append
        queue.start()
        yield queue


@contextlib.contextmanager
def outage(url, queue, monkeypatch, retry=PATIENCE):
    """Make the database unavailable until the queue has failed to forward runs.

    retry: seconds until it tries again.
    """
    failed, forward = threading.Event(), queue._forward

    def failing(runs):
        try:
            forward(runs)
        except JournalError:
            failed.set()
            raise

    monkeypatch.setattr(queue_module, "RETRY_INTERVAL", retry)
    monkeypatch.setattr(queue, "_forward", failing)
    with unavailable(url):
        yield
        assert failed.wait(PATIENCE)


def accept(queue, *runs, throttles=None, may_wait=True):
    batch = AcceptBatch(runs, {}, throttles or {}, may_wait)
    return queue.accept(batch, NOW).result(PATIENCE)


def answers(journal):
    """Whether no connection is left that the outage has cut."""
    with contextlib.suppress(JournalError):
        return journal.counts() is not None


def drained(queue):
    wait_until(lambda: not queue.spooling)


def claimed(journal):
    """Claim and end all runs. Return their numbers in the order of the claims."""
    found = []

    def claim_more():
        # another transaction can be moving runs to their queues: a claim finds none then
        for one in journal.claim("cluster", 9, journal.now()):
            journal.settle(one, DONE, journal.now())
            found.append(one.run.event.time_ns % 1000)
        return not any(journal.counts().values())

    wait_until(lambda: answers(journal))
    wait_until(claim_more)
    return found


def test_runs_of_an_outage_reach_the_database_once_and_in_their_order(
    url, journal, tmp_path, monkeypatch
):
    with queue_of(journal, tmp_path / "spool") as queue:
        accept(queue, run(1, "demo/a"))
        assert not queue.spooling
        with outage(url, queue, monkeypatch, retry=2.0):
            accept(queue, run(2, "demo/a"), run(3, "demo/b"))
            assert accept(queue, run(3, "demo/b"), run(4, "demo/a")) == {run(3).id: "duplicate"}
            assert (queue.status()["runs"], queue.write_error()) == (3, None)
            with pytest.raises(JournalError, match="this source waits"):
                accept(queue, run(9), may_wait=False)
        wait_until(lambda: journal.write_error() is None)
        accept(queue, run(5, "demo/a"))  # behind those of the spool
        accept(queue, run(1, "demo/a"))
        drained(queue)
        assert accept(queue, run(2, "demo/a")) == {run(2).id: "duplicate"}
        accept(queue, run(9), may_wait=False)
        assert [n for n in claimed(journal) if n not in (3, 9)] == [1, 2, 4, 5]
        assert over(journal) == 6
        assert queue.status()["fillRatio"] == 0


def test_throttles_are_decided_when_the_runs_are_forwarded(url, journal, tmp_path, monkeypatch):
    limited = replace(playbook("limited"), throttle=ONCE)
    monkeypatch.setitem(journals._thawed, limited.snapshot, limited)
    runs = [run(n, of=limited) for n in (1, 2, 3)]
    with_throttle = {one.id: ThrottleUse("key", ONCE, NOW) for one in runs}
    with queue_of(journal, tmp_path / "spool") as queue:
        with unavailable(url):
            assert accept(queue, *runs, throttles=with_throttle) == {}
        drained(queue)
        assert claimed(journal) == [1]
        assert [one.id for one in queue.throttled] == [one.id for one in runs[1:]]


def test_a_spool_survives_a_crash_while_it_is_written_and_while_it_is_forwarded(
    url, journal, tmp_path, monkeypatch
):
    runs = [run(n, f"demo/{n % 3}") for n in range(40)]
    with (
        queue_of(journal, tmp_path / "spool") as queue,
        outage(url, queue, monkeypatch),
    ):
        accept(queue, *runs[:20])
        accept(queue, *runs[20:])
        for name in ("", "-wal"):  # the files as SIGKILL leaves them
            shutil.copy(tmp_path / f"spool{name}", tmp_path / f"copy{name}")
    assert claimed(journal) == []
    for name in (
        "copy",
        "spool",
    ):  # the second one is the first one, killed before it deleted its runs
        with queue_of(journal, tmp_path / name) as queue:
            drained(queue)
    assert sorted(claimed(journal)) == list(range(40))


def counted(monkeypatch, key):
    """Two runs that a throttle counts, and their uses of it."""
    third = Throttle("third", 60.0, count=3)
    limited = replace(playbook(key), throttle=third)
    monkeypatch.setitem(journals._thawed, limited.snapshot, limited)
    runs = [run(n, of=limited) for n in (1, 2)]
    return runs, {one.id: ThrottleUse(key, third, NOW) for one in runs}


def test_a_throttle_counts_a_run_once_if_the_engine_dies_while_it_forwards(
    url, journal, tmp_path, monkeypatch
):
    runs, uses = counted(monkeypatch, "key")
    with (
        queue_of(journal, tmp_path / "spool") as queue,
        outage(url, queue, monkeypatch),
    ):
        accept(queue, *runs, throttles=uses)
        for name in ("", "-wal"):  # the files as SIGKILL leaves them before the runs are deleted
            shutil.copy(tmp_path / f"spool{name}", tmp_path / f"copy{name}")
    for name in ("spool", "copy"):
        with queue_of(journal, tmp_path / name) as queue:
            drained(queue)
    assert claimed(journal) == []
    assert journal.throttle_windows()["key"]["stamps"] == [NOW, NOW]


def test_a_throttle_counts_a_run_once_if_an_earlier_forward_commits_late(
    url, journal, tmp_path, monkeypatch
):
    """Its commit waits for a standby, and the engine has given up its connection."""
    runs, uses = counted(monkeypatch, "late")
    again = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        " AND query LIKE '%%throttle_windows%%'"
    )
    with (
        queue_of(journal, tmp_path / "spool") as queue,
        shared_server().connect() as admin,
    ):
        admin.execute("SET synchronous_commit = local")
        with outage(url, queue, monkeypatch, retry=2.0):  # the setting is changed before
            accept(queue, *runs, throttles=uses)
            monkeypatch.setattr(connection, "CLIENT_CHECK_MS", 0)
            monkeypatch.setattr(connection, "STALL_TIMEOUT", 0.1)
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'lost'")
        admin.execute("SELECT pg_reload_conf()")
        try:
            wait_until(lambda: admin.execute(again, (url.rpartition("/")[2],)).fetchone())
        finally:
            monkeypatch.setattr(connection, "STALL_TIMEOUT", PATIENCE)
            admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            admin.execute("SELECT pg_reload_conf()")
        drained(queue)
    assert journal.throttle_windows()["late"]["stamps"] == [NOW, NOW]


def test_a_disk_that_is_full_does_not_stop_the_runs_that_the_journal_has(
    url, journal, tmp_path, monkeypatch
):
    """The forwarded runs cannot be deleted. They stay forwarded, and new ones go to the database."""
    monkeypatch.setattr(queue_module, "DELETE_INTERVAL", 0.1)
    limited = replace(playbook("full"), throttle=ONCE)
    monkeypatch.setitem(journals._thawed, limited.snapshot, limited)
    lost = Playbook("gone", Match(), (step(),), snapshot=b"not known", digest="gone")
    runs = [*(run(n, of=limited) for n in (1, 2)), run(3, of=lost)]
    uses = {one.id: ThrottleUse("full", ONCE, NOW) for one in runs[:2]}
    with queue_of(journal, tmp_path / "spool") as queue:
        sync = queue._spool._writer._sync
        with unavailable(url):
            accept(queue, *runs, throttles=uses)
            queue._spool._writer._sync = full_disk
        drained(queue)
        assert queue.status()["runs"] == 3
        assert [one.id for one in queue.throttled] == [runs[1].id]
        wait_until(lambda: journal.write_error() is None)
        accept(queue, run(4))
        assert sorted(claimed(journal)) == [1, 4]
        queue._spool._writer._sync = sync
        wait_until(lambda: queue.status()["runs"] == 0)
        assert len(journal.dead_letters(9)) == 1


def full_disk():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_spool_refuses_and_keeps_what_it_has(url, journal, tmp_path):
    with queue_of(journal, tmp_path / "spool", max_runs=3) as queue:
        with unavailable(url):
            accept(queue, run(1), run(2))
            with pytest.raises(JournalError, match="spool is full"):
                accept(queue, run(3), run(4))
            accept(queue, run(3))
            assert "is full (3 runs" in queue.write_error()
        drained(queue)
        assert queue.write_error() is None
        assert sorted(claimed(journal)) == [1, 2, 3]
    with queue_of(journal, tmp_path / "spool", max_bytes=100_000) as queue, unavailable(url):
        large = run(7)
        large = type(large)(
            large.id, large.playbook, event(7, output="x" * 200_000), NOW, large.target
        )
        with pytest.raises(JournalError, match="spool is full"):
            accept(queue, large)
        assert queue.status()["runs"] == 0


def test_a_disk_without_space_is_a_full_spool(url, journal, tmp_path):
    with queue_of(journal, tmp_path / "spool") as queue, unavailable(url):
        accept(queue, run(1))
        queue._spool._writer.submit(
            lambda c: c.execute("PRAGMA max_page_count = 1").fetchone()  # not below its size
        ).result()
        large = event(2, output="x" * 500_000)
        with pytest.raises(JournalError, match=r"the spool .* cannot be written: .* full"):
            accept(queue, type(run(2))(run(2).id, playbook(), large, NOW, "demo/b"))
        assert (
            queue.write_error() is None
        )  # a new connection can use the space of a disk that has grown
        accept(queue, run(1))


def test_an_engine_is_ready_again_after_the_disk_of_its_spool_was_full(url, journal, tmp_path):
    """A load balancer sends no events to an engine that is not ready, so the next event cannot test the disk."""
    large = event(2, output="x" * 500_000)
    large = type(run(2))(run(2).id, playbook(), large, NOW, "demo/b")

    def connect(max_pages):
        connection = schema.connect(tmp_path / "spool", writes=True)
        connection.execute(f"PRAGMA max_page_count = {max_pages}").fetchone()
        return connection

    with queue_of(journal, tmp_path / "spool") as queue:
        writer = queue._spool._writer
        writer._connect = lambda: connect(1)  # not below its size, so that it cannot grow
        with unavailable(url):
            with pytest.raises(JournalError, match="full"):
                accept(queue, large)
            assert "full" in queue.write_error()
        wait_until(lambda: journal.write_error() is None)
        drained(queue)
        assert queue.write_error() is None  # the database accepts events
        assert "full" in queue._spool.write_error()
        writer._connect = lambda: connect(10_000)
        assert queue._spool.write_error() is None  # the disk has space


def test_a_run_is_forwarded_only_when_it_is_on_the_disk(tmp_path):
    """A crash before the sync loses its number, and the next run gets it."""
    with contextlib.closing(SpoolFile(tmp_path / "spool", "j", stored_playbook)) as spool:
        reached, passes, sync = threading.Event(), threading.Event(), spool._writer._sync
        spool._writer._sync = lambda: (reached.set(), passes.wait(PATIENCE), sync())
        written = spool.write(AcceptBatch([run(1)]))
        assert reached.wait(PATIENCE)
        assert spool.read() == []
        passes.set()
        written.result(PATIENCE)
        assert [one.id for one in spool.read()] == [run(1).id]


def test_a_failed_sync_leaves_the_playbooks_of_the_other_runs(tmp_path):
    """The engine has answered with an error, but the run is in the file."""
    with contextlib.closing(SpoolFile(tmp_path / "spool", "j", stored_playbook)) as spool:
        sync = spool._writer._sync
        spool._writer._sync = fail
        with pytest.raises(JournalError, match="Input/output error"):
            spool.write(AcceptBatch([run(1)])).result(PATIENCE)
        spool._writer._sync = sync
        spool.write(AcceptBatch([run(2)])).result(PATIENCE)
        first, second = spool.read()
        spool.delete(first.number)
        assert [one.error for one in spool.read()] == [""]
        spool.delete(second.number)
        assert spool.runs == 0


def fail():
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_throttle_that_cannot_be_read_does_not_stop_the_spool(url, journal, tmp_path):
    with shared_server().connect(url.rpartition("/")[2]) as admin:
        admin.execute("INSERT INTO throttle_windows VALUES ('other', 'not JSON', 9e9)")
    with queue_of(journal, tmp_path / "spool") as queue:
        with unavailable(url):
            accept(queue, run(1))
        drained(queue)
    assert claimed(journal) == [1]


def test_hostile_text_and_a_run_that_cannot_be_read_do_not_stop_the_others(url, journal, tmp_path):
    hostile = event(1, output_fields={"k8s.ns.name": "n\0s\ud800"})
    nul = type(run(1))(
        run(1).id, playbook(), hostile, NOW, "demo/a\0\ud800b" + "\U0001f600" * 5_000
    )
    lost = Playbook("gone", Match(), (step(),), snapshot=b"not known", digest="gone")
    with queue_of(journal, tmp_path / "spool") as queue:
        with unavailable(url):
            accept(queue, nul, run(2, of=lost), run(3))
        drained(queue)
        assert sorted(claimed(journal)) == [1, 3]
        (letter,) = journal.dead_letters(9)
        assert (letter.source, b"Terminal shell" in letter.body) == ("spool", True)


def test_a_spool_of_another_journal_is_refused_as_long_as_it_holds_runs(
    url, journal, tmp_path, monkeypatch
):
    path = tmp_path / "spool"
    with queue_of(journal, path) as queue, outage(url, queue, monkeypatch):
        accept(queue, run(1))
    with pytest.raises(JournalError, match="1 runs of another journal: start the engine with the"):
        SpoolFile(path, "other", stored_playbook)
    with queue_of(journal, path) as queue:
        drained(queue)
    SpoolFile(path, "other", stored_playbook).close()


def _newer(path):
    SpoolFile(path, "j", stored_playbook).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def _of_a_journal(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE runs (seq); PRAGMA user_version = 7;")


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (_newer, "has version 99, this engine supports version 1; start the engine that wrote it"),
        (_of_a_journal, "is not a spool, but another database: give --spool another file"),
        (
            lambda path: path.write_bytes(b"x" * 9_000),
            "is not a database; give --spool a file in a",
        ),
        (lambda path: path.mkdir(), "Is a directory; give --spool a file in a folder"),
        (lambda path: Path(f"{path}.lock").mkdir(), "cannot open the spool .*: Is a directory"),
    ],
)
def test_a_file_that_is_not_a_usable_spool_is_refused_with_the_next_step(tmp_path, prepare, why):
    prepare(tmp_path / "spool")
    with pytest.raises(JournalError, match=why):
        SpoolFile(tmp_path / "spool", "j", stored_playbook)


def test_a_spool_that_another_engine_has_open_is_refused(tmp_path):
    with (
        contextlib.closing(SpoolFile(tmp_path / "spool", "j", stored_playbook)),
        pytest.raises(JournalError, match=r"cannot open the spool .* owns it, .* use another file"),
    ):
        SpoolFile(tmp_path / "spool", "j", stored_playbook)


def test_a_spool_that_is_opened_while_the_database_is_away_is_checked_before_it_forwards(
    journal, tmp_path
):
    path = tmp_path / "spool"
    with pytest.raises(JournalError, match="was not used before, and the database does not answer"):
        SpoolFile(path, None, stored_playbook)
    with contextlib.closing(SpoolFile(path, "other", stored_playbook)) as spool:
        spool.write(AcceptBatch([run(1)])).result(PATIENCE)
    with contextlib.closing(SpooledQueue(journal, SpoolFile(path, None, stored_playbook))) as queue:
        with pytest.raises(JournalUnavailableError, match="1 runs of another journal"):
            queue._forward(queue._spool.read())
        assert queue.status()["runs"] == 1


def test_a_journal_that_waits_for_its_database_checks_it_before_the_first_use(url, journal):
    name = url.partition("//")[2].partition("@")[0]
    with shared_server().connect() as admin, contextlib.ExitStack() as stack:
        with unavailable(url):
            waiting = PostgresJournal(
                parse_server(url), Process("b", "engine", "1"), stored_playbook, may_wait=True
            )
            stack.callback(waiting.close)
            waiting._liveness.clock._last = time.time() + 3600  # as with a clock that is fast
            with pytest.raises(JournalError, match="not currently accepting connections"):
                waiting.counts()
            admin.execute(f"ALTER ROLE {name} SET synchronous_commit = off")
        try:
            with pytest.raises(JournalError, match="synchronous_commit = off"):
                waiting.counts()
            assert not waiting.is_open
        finally:
            admin.execute(f"ALTER ROLE {name} RESET synchronous_commit")
        wait_until(lambda: answers(waiting))
        wait_until(lambda: answers(journal) and abs(waiting.now() - journal.now()) < 5)
        assert waiting.is_open
