"""A rolling update under load with Redis or JetStream in between loses no event."""

from __future__ import annotations

import json
import threading
import time

import pytest
from engine.journal.records import RunFilter
from engine.journal.sqlite.journal import SqliteJournal
from tests.contracts.test_sources import NatsOrigin, RedisOrigin
from tests.support.engine import engine
from tests.support.intake import PLAYBOOK, alert
from tests.support.playbooks import playbook_from_snapshot

FLAGS = {
    RedisOrigin: lambda origin: ("--redis", f"redis://127.0.0.1:{origin.port}/0"),
    NatsOrigin: lambda origin: ("--nats", f"nats://127.0.0.1:{origin.port}"),
}


@pytest.mark.parametrize("kind", FLAGS, ids=["redis", "nats"])
def test_a_rolling_update_loses_no_event(tmp_path, kind, size):
    rounds, batch = size.of(2, 40), size.of(30, 100)
    folder = tmp_path / "origin"
    folder.mkdir()
    origin = kind(folder)
    origin.start()
    stopping, sent, most = threading.Event(), [], 0

    def send():
        while not stopping.wait(size.of(0.2, 0.01)):
            if len(sent) >= most:  # however slowly the engine starts, it can keep up
                continue
            numbers = range(len(sent), len(sent) + batch)
            origin.send(*(json.dumps(alert(number)).encode() for number in numbers))
            sent.extend(numbers)

    thread = threading.Thread(target=send)
    try:
        with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run", *FLAGS[kind](origin)) as running:
            thread.start()
            for number in range(rounds):
                most = (number + 1) * 10 * batch
                while len(sent) < (number + 1) * batch:
                    stopping.wait(0.01)
                (running.kill if number % 2 else running.terminate)()
                running.restart()
            stopping.set()
            thread.join()
            deadline, pause = time.monotonic() + 120, threading.Event()
            while origin.left():
                assert time.monotonic() < deadline, origin.left()
                pause.wait(0.05)
            running.terminate()
        journal = SqliteJournal(tmp_path / "tiercel.db", playbook_from_snapshot)
        assert len(journal.runs(RunFilter(limit=len(sent) + 1))) == len(sent)
        journal.close()
        size.tell(rounds=rounds, sent=len(sent), lost=0)
    finally:
        stopping.set()
        if thread.is_alive():
            thread.join()
        origin.stop()
