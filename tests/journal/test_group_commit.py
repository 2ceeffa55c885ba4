"""The writer thread commits waiting jobs together, and a job that fails is rolled back alone."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from engine.journal.sqlite import schema
from engine.journal.sqlite.group_commit import MAX_TRANSACTION_JOBS, GroupCommitWriter
from engine.journal.sqlite.watchdog import Watchdog
from engine.model.errors import JournalError
from tests.support.engine import PATIENCE, wait_until

COMPUTING = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)"
    " SELECT sum(i) FROM n"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


@pytest.fixture
def writer(path):
    schema.prepare(path)
    writer = GroupCommitWriter(
        lambda: schema.connect(path, writes=True), "journal under test", schema.WalSync(path)
    )
    yield writer
    writer.close()


def in_one_transaction(writer, *works):
    """Return the futures of functions that run in the same transaction."""
    reached, go_on = threading.Event(), threading.Event()
    writer.submit(lambda _: (reached.set(), go_on.wait()))
    reached.wait()
    futures = [writer.submit(work) for work in works]
    go_on.set()
    return futures


def put(key):
    return lambda connection: connection.execute("INSERT INTO offsets VALUES (?, x'30')", (key,))


def broken(connection):
    put("broken")(connection)
    raise RuntimeError("a bug")


def lose(connection):
    connection.execute("ROLLBACK")
    raise sqlite3.OperationalError("disk I/O error")


def keys(path):
    with sqlite3.connect(path) as connection:
        found = [key for (key,) in connection.execute("SELECT key FROM offsets ORDER BY key")]
    connection.close()
    return found


def test_a_job_that_fails_is_rolled_back_alone(writer, path):
    first, bug, twice, last = in_one_transaction(writer, put("a"), broken, put("a"), put("b"))
    first.result()
    last.result()
    for failing, why in ((bug, "a bug"), (twice, "UNIQUE")):
        with pytest.raises(JournalError, match=why):
            failing.result()
    assert keys(path) == ["a", "b"]


def test_waiting_jobs_share_a_transaction_and_fail_with_it(writer, path):
    for future in in_one_transaction(writer, put("a"), lose, put("b")):
        with pytest.raises(JournalError, match="disk I/O error"):
            future.result()
    assert writer.last_error == "the journal cannot be written: disk I/O error"
    assert keys(path) == []
    assert writer.probe() is None
    writer.submit(put("c")).result()
    assert keys(path) == ["c"]


def test_a_job_cannot_be_cancelled(writer, path):
    (future,) = in_one_transaction(writer, put("a"))
    assert not future.cancel()
    future.result()
    assert keys(path) == ["a"]


def test_close_writes_the_waiting_jobs_and_ends_the_thread(path):
    schema.prepare(path)
    flush = schema.WalSync(path)
    writer = GroupCommitWriter(
        lambda: schema.connect(path, writes=True), "journal to be closed", flush
    )
    futures = in_one_transaction(writer, *(put(str(number)) for number in range(9)))
    writer.close()
    assert all(future.done() for future in futures)
    assert len(keys(path)) == 9
    assert "journal to be closed" not in [thread.name for thread in threading.enumerate()]


def test_the_writer_connects_again_after_a_failure(path):
    schema.prepare(path)
    opened = []

    def connect():
        opened.append(schema.connect(path, writes=True))
        return opened[-1]

    writer = GroupCommitWriter(connect, "journal that is reopened", schema.WalSync(path))
    for future in in_one_transaction(writer, put("a"), lose):
        assert isinstance(future.exception(), JournalError)
    writer.submit(put("b")).result()
    writer.close()
    assert len(opened) == 2
    assert keys(path) == ["b"]


def test_futures_resolve_after_the_sync(path):
    schema.prepare(path)
    order = []
    writer = GroupCommitWriter(
        lambda: schema.connect(path, writes=True), "journal", lambda: order.append("synced")
    )
    for future in in_one_transaction(writer, put("a"), put("b")):
        future.add_done_callback(lambda _: order.append("resolved"))
    writer.close()
    assert order == ["synced", "resolved", "resolved"]


def test_a_job_fails_when_the_sync_fails(path):
    def full():
        raise OSError(28, "No space left on device")

    schema.prepare(path)
    writer = GroupCommitWriter(lambda: schema.connect(path, writes=True), "journal", full)
    with pytest.raises(JournalError, match="No space left on device"):
        writer.submit(put("a")).result()
    assert "No space left" in writer.last_error
    writer.close()


class Hanging:
    """A disk whose sync hangs until ``go_on`` is set. now: seconds of a fake clock."""

    def __init__(self):
        self.now = 0.0
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self):
        self.reached.set()
        self.go_on.wait(PATIENCE)


@pytest.fixture
def disk():
    return Hanging()


@pytest.fixture
def watched(path, disk):
    """Return a writer on the hanging disk, and its watchdog."""
    schema.prepare(path)
    writer = GroupCommitWriter(
        lambda: schema.connect(path, writes=True), "journal that hangs", disk, now=lambda: disk.now
    )
    watch = Watchdog(writer, lambda: None, lambda: disk.now)
    yield writer, watch
    disk.go_on.set()
    watch.close()
    writer.close()


def test_current_waiting_and_new_jobs_are_refused_while_a_commit_is_stalled(watched, disk, path):
    writer, watch = watched
    first = writer.submit(put("a"))
    disk.reached.wait()
    behind = writer.submit(put("b"))
    disk.now += 4
    watch.check()
    assert (writer.probe(), first.done(), behind.done()) == (None, False, False)
    disk.now += 2
    watch.check()
    assert "has not answered for 5 seconds" in writer.probe()
    for future in (first, behind, writer.submit(put("c"))):
        with pytest.raises(JournalError, match="has not answered"):
            future.result(0)
    disk.go_on.set()
    wait_until(lambda: writer.last_progress is None)
    watch.check()
    assert writer.probe() is None
    writer.submit(put("d")).result()
    assert keys(path) == ["a", "d"]  # the current job was written, the refused jobs were not


def test_a_long_computation_is_not_a_stall(watched, disk, path):
    writer, watch = watched
    disk.go_on.set()

    def compute(connection):
        for _ in range(3):
            connection.execute(COMPUTING).fetchone()
            disk.now += 4
            watch.check()
        put("a")(connection)

    writer.submit(compute).result()
    assert writer.probe() is None
    assert keys(path) == ["a"]


def test_a_transaction_has_a_maximum_number_of_jobs(path):
    schema.prepare(path)
    ended, flush = [], schema.WalSync(path)
    writer = GroupCommitWriter(
        lambda: schema.connect(path, writes=True), "journal with a crowd", flush, ended.append
    )
    in_one_transaction(
        writer, *(put(str(number)) for number in range(2 * MAX_TRANSACTION_JOBS + 1))
    )
    writer.close()
    assert len(keys(path)) == 2 * MAX_TRANSACTION_JOBS + 1
    assert ended == [True] * 4  # the first job, which made the others wait, has its own transaction


def test_an_idle_writer_is_not_stalled(watched, disk):
    writer, watch = watched
    disk.go_on.set()
    writer.submit(put("a")).result()
    wait_until(lambda: writer.last_progress is None)
    disk.now += 999
    watch.check()
    assert writer.probe() is None


def test_a_writer_that_refuses_jobs_can_be_closed(watched, disk, path):
    writer, watch = watched
    first = writer.submit(put("a"))
    disk.reached.wait()
    closing = threading.Thread(target=writer.close)
    closing.start()
    wait_until(lambda: writer.probe() == "the journal is closed")
    disk.now += 6
    watch.check()
    assert isinstance(first.exception(0), JournalError)
    disk.go_on.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert keys(path) == ["a"]
