"""The thread that writes: what waits is one transaction, and each piece of work stands alone."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from engine.journal import schema
from engine.journal.journal import JournalError
from engine.journal.writer import Writer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


@pytest.fixture
def writer(path):
    schema.prepare(path)
    writer = Writer(
        lambda: schema.connect(path, writes=True), "journal under test", schema.Flush(path)
    )
    yield writer
    writer.close()


def held_up(writer, *works):
    """The futures of works that wait together, so that they share a transaction."""
    reached, go_on = threading.Event(), threading.Event()
    writer.submit(lambda _: (reached.set(), go_on.wait()))
    reached.wait()
    futures = [writer.submit(work) for work in works]
    go_on.set()
    return futures


def put(key):
    return lambda connection: connection.execute("INSERT INTO memory VALUES (?, x'30')", (key,))


def broken(connection):
    put("broken")(connection)
    raise RuntimeError("a bug")


def lose(connection):
    connection.execute("ROLLBACK")
    raise sqlite3.OperationalError("disk I/O error")


def keys(path):
    with sqlite3.connect(path) as connection:
        found = [key for (key,) in connection.execute("SELECT key FROM memory ORDER BY key")]
    connection.close()
    return found


def test_a_failing_piece_of_work_is_undone_and_its_neighbours_are_not(writer, path):
    first, bug, twice, last = held_up(writer, put("a"), broken, put("a"), put("b"))
    first.result()
    last.result()
    for failing, why in ((bug, "a bug"), (twice, "UNIQUE")):
        with pytest.raises(JournalError, match=why):
            failing.result()
    assert keys(path) == ["a", "b"]


def test_what_waits_together_is_one_transaction_and_fails_together(writer, path):
    for future in held_up(writer, put("a"), lose, put("b")):
        with pytest.raises(JournalError, match="disk I/O error"):
            future.result()
    assert writer.trouble == "the journal cannot be written: disk I/O error"
    assert keys(path) == []
    assert writer.probe() is None
    writer.submit(put("c")).result()
    assert keys(path) == ["c"]


def test_a_sender_who_hangs_up_does_not_take_what_he_sent_with_him(writer, path):
    (future,) = held_up(writer, put("a"))
    assert not future.cancel()
    future.result()
    assert keys(path) == ["a"]


def test_closing_writes_what_waits_and_ends_the_thread(path):
    schema.prepare(path)
    flush = schema.Flush(path)
    writer = Writer(lambda: schema.connect(path, writes=True), "journal to be closed", flush)
    futures = held_up(writer, *(put(str(number)) for number in range(9)))
    writer.close()
    assert all(future.done() for future in futures)
    assert len(keys(path)) == 9
    assert "journal to be closed" not in [thread.name for thread in threading.enumerate()]


def test_after_a_failure_the_file_is_opened_anew(path):
    schema.prepare(path)
    opened = []

    def connect():
        opened.append(schema.connect(path, writes=True))
        return opened[-1]

    writer = Writer(connect, "journal that is reopened", schema.Flush(path))
    for future in held_up(writer, put("a"), lose):
        assert isinstance(future.exception(), JournalError)
    writer.submit(put("b")).result()
    writer.close()
    assert len(opened) == 2
    assert keys(path) == ["b"]


def test_nobody_is_told_before_the_disk_has_it(path):
    schema.prepare(path)
    order = []
    writer = Writer(
        lambda: schema.connect(path, writes=True), "journal", lambda: order.append("flushed")
    )
    for future in held_up(writer, put("a"), put("b")):
        future.add_done_callback(lambda _: order.append("told"))
    writer.close()
    assert order == ["flushed", "told", "told"]


def test_what_the_disk_does_not_take_has_failed(path):
    def full():
        raise OSError(28, "No space left on device")

    schema.prepare(path)
    writer = Writer(lambda: schema.connect(path, writes=True), "journal", full)
    with pytest.raises(JournalError, match="No space left on device"):
        writer.submit(put("a")).result()
    assert "No space left" in writer.trouble
    writer.close()
