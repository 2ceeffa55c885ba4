"""The writer of the worker process gathers jobs, longer in a flood of events."""

from __future__ import annotations

import contextlib
import threading

import pytest
from engine.journal.sqlite import schema
from engine.journal.sqlite.group_commit import (
    FLOOD_DELAY,
    FLOOD_EVENTS_PER_SECOND,
    MAX_GATHER_JOBS,
    MIN_GATHER_JOBS,
    USUAL_DELAY,
    GatherDelay,
    GroupCommitWriter,
)
from tests.support.engine import PATIENCE


@pytest.fixture
def connection(tmp_path):
    schema.prepare(tmp_path / "journal.db")
    with contextlib.closing(schema.connect(tmp_path / "journal.db", writes=True)) as connection:
        yield connection


def add_events(connection, events):
    rows = [(b"{}",)] * events
    connection.executemany("INSERT INTO events (body, received) VALUES (?, 0)", rows)


def test_the_delay_is_longer_during_a_flood_of_events(connection):
    now = 100.0
    delay = GatherDelay(lambda: now)
    assert delay(connection) == USUAL_DELAY
    delays = []
    for events in (
        0,
        FLOOD_EVENTS_PER_SECOND * 0.9,
        FLOOD_EVENTS_PER_SECOND * 1.1,
        FLOOD_EVENTS_PER_SECOND * 1.1,
        1,
    ):
        add_events(connection, int(events))
        now += 1.0
        delays.append(delay(connection))
    assert delays == [USUAL_DELAY, USUAL_DELAY, FLOOD_DELAY, FLOOD_DELAY, USUAL_DELAY]


def test_the_writer_does_not_gather_more_than_the_maximum_number_of_jobs(tmp_path):
    path = tmp_path / "journal.db"
    schema.prepare(path)
    held, go_on = threading.Event(), threading.Event()
    writer = GroupCommitWriter(
        lambda: schema.connect(path, writes=True),
        "journal under test",
        schema.WalSync(path),
        gather_delay=lambda _: 3_600.0,
    )
    writer.submit(lambda _: (held.set(), go_on.wait()))
    held.wait()
    several = [writer.submit(lambda _: None) for _ in range(MIN_GATHER_JOBS + 1)]
    go_on.set()
    for future in several:
        future.result(PATIENCE)
    for future in [writer.submit(lambda _: None) for _ in range(MAX_GATHER_JOBS)]:
        future.result(PATIENCE)
    writer.close()
