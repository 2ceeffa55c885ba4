"""The contract of every source: it removes an event from its origin only when the event is on disk."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from concurrent.futures import Future

import nats
import pytest
import redis
import structlog
from engine.intake.deferred_records import DeferredRecords
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.errors import JournalError
from engine.sources.base import EventSink, SourceThread
from engine.sources.file import FollowedFile
from engine.sources.nats import DURABLE, STREAM, JetStream
from engine.sources.redis import RedisList
from engine.telemetry.events import Observers
from nats.js.errors import NotFoundError
from tests.support.components import NatsServer, RedisServer
from tests.support.engine import PATIENCE, wait_until
from tests.support.intake import PLAYBOOK, alert, intake_of
from tests.support.playbooks import playbook_from_snapshot


class FileOrigin:
    """A file that Falco writes with ``file_output``."""

    def __init__(self, folder):
        self.path = folder / "events.log"

    def fetching(self, journal):
        return FollowedFile(self.path, journal)

    def send(self, *bodies):
        with self.path.open("ab") as file:
            file.write(b"".join(body + b"\n" for body in bodies))

    def left(self):
        return None

    def start(self):
        pass

    def stop(self):
        pass


class RedisOrigin(RedisServer):
    """A Redis list that Falcosidekick pushes to."""

    def fetching(self, journal):
        del journal
        return RedisList(f"redis://127.0.0.1:{self.port}/0")

    def send(self, *bodies):
        with redis.Redis(port=self.port) as client:
            for body in bodies:
                client.rpush("falco", body)

    def left(self):
        with redis.Redis(port=self.port) as client:
            return client.llen("falco") + client.llen("falco:tiercel")


class NatsOrigin(NatsServer):
    """A JetStream stream of the subjects that Falcosidekick publishes to."""

    def fetching(self, journal):
        del journal
        return JetStream(f"nats://127.0.0.1:{self.port}")

    def login(self):
        return {}

    async def _do(self, what):
        client = await nats.connect(f"nats://127.0.0.1:{self.port}", **self.login())
        try:
            return await what(client)
        finally:
            await client.close()

    def start(self):
        """Create the stream before an engine looks for it. Two clients that create it at once fail."""

        async def make(client):
            await client.jetstream().add_stream(name=STREAM, subjects=["falco.>"])

        super().start()
        asyncio.run(self._do(make))

    def send(self, *bodies):
        async def publish(client):
            for body in bodies:
                await client.jetstream().publish("falco.notice.terminal_shell", body)

        asyncio.run(self._do(publish))

    def is_captured(self):
        async def count(client):
            return (await client.jetstream().account_info()).streams

        return asyncio.run(self._do(count)) == 1

    def remove(self, *names):
        """Delete the stream, or a consumer of it."""

        async def delete(client):
            stream = client.jetstream()
            await (stream.delete_consumer if names[1:] else stream.delete_stream)(*names)

        asyncio.run(self._do(delete))

    def left(self):
        async def pending(client):
            stream = client.jetstream()
            try:
                found = await stream.consumer_info(STREAM, DURABLE)
            except NotFoundError:  # no engine has connected yet
                return (await stream.stream_info(STREAM)).state.messages
            return found.num_pending + found.num_ack_pending

        return asyncio.run(self._do(pending))


SERVERS = [RedisOrigin, NatsOrigin]


@pytest.fixture(params=[FileOrigin, *SERVERS], ids=["file", "redis", "nats"])
def origin(request, tmp_path):
    folder = tmp_path / "origin"
    folder.mkdir()
    origin = request.param(folder)
    origin.start()
    yield origin
    origin.stop()


class UnreliableJournal:
    """A proxy of the real journal that refuses writes while it is ``full``."""

    def __init__(self, journal):
        self.full, self.refused = False, threading.Event()
        self._journal = journal

    def __getattr__(self, name):
        return getattr(self._journal, name)

    def accept(self, accepted, now):
        if not self.full:
            return self._journal.accept(accepted, now)
        self.refused.set()
        failed = Future()
        failed.set_exception(JournalError("disk full"))
        return failed


class Engine:
    """A running source with its intake. Runs are in the journal of ``folder``."""

    def __init__(self, folder, origin):
        self.origin, self.engine_events = origin, []
        self.real = SqliteJournal(folder / "j.db", playbook_from_snapshot)
        self.journal, self.records = UnreliableJournal(self.real), DeferredRecords()
        intake = intake_of(self.journal, PLAYBOOK, deferred_records=self.records)
        fetching = origin.fetching(self.journal)
        taker = EventSink(fetching.kind, intake, Observers(self.engine_events.append), lambda: None)
        self.source = SourceThread(fetching, taker)

    def __enter__(self):
        self.source.start()
        return self

    def __exit__(self, *_):
        self.source.stop()
        self.real.close()

    def count(self):
        return sum(self.real.counts().values())

    def wait_until(self, true):
        wait_until(true, lambda: (self.count(), self.source.status()))

    def nothing_is_left(self):
        return self.origin.left() in (0, None)


def bodies(first, last):
    return [json.dumps(alert(number)).encode() for number in range(first, last)]


def test_events_are_accepted_once_in_order_and_removed(tmp_path, origin):
    origin.send(*bodies(0, 3))
    with Engine(tmp_path, origin) as engine:
        engine.wait_until(lambda: engine.count() == 3)
        origin.send(*bodies(3, 250))
        engine.wait_until(lambda: engine.count() == 250)
        engine.wait_until(engine.nothing_is_left)
        assert sum(m.results.get("duplicate", 0) for m in engine.engine_events) == 0
        started = [engine.journal.claim("cluster", 1, 2e9)[0] for _ in range(1)]
        assert started[0].run.event.time_ns % 1_000_000_000 == 0


def test_no_event_is_removed_while_the_journal_accepts_no_writes(tmp_path, origin):
    with Engine(tmp_path, origin) as engine:
        engine.journal.full = True
        origin.send(*bodies(0, 5))
        assert engine.journal.refused.wait(PATIENCE)
        engine.wait_until(lambda: engine.source.status()["error"])
        assert origin.left() in (5, None)
        engine.journal.full = False
        engine.wait_until(lambda: engine.count() == 5)
        engine.wait_until(engine.nothing_is_left)
        engine.wait_until(lambda: engine.source.status()["error"] is None)


def test_an_engine_that_died_before_it_removed_events_starts_no_run_twice(tmp_path, origin):
    with Engine(tmp_path, origin) as engine:
        engine.journal.full = True
        origin.send(*bodies(0, 5))
        assert engine.journal.refused.wait(PATIENCE)
    with Engine(tmp_path, origin) as engine:
        engine.wait_until(lambda: engine.count() == 5)
        origin.send(*bodies(0, 7))
        engine.wait_until(lambda: engine.count() == 7)
        engine.wait_until(engine.nothing_is_left)


def test_a_message_that_is_not_an_event_is_a_dead_letter_and_is_removed(tmp_path, origin):
    origin.send(b'{"no": "event"}', *bodies(0, 1), b"{broken")
    with Engine(tmp_path, origin) as engine:
        engine.wait_until(lambda: engine.count() == 1)
        engine.wait_until(engine.nothing_is_left)
        dead = []
        engine.wait_until(lambda: dead.extend(engine.records.drain()[0]) or len(dead) == 2)
        assert {one.source for one in dead} == {engine.source.status()["kind"]}


@pytest.mark.parametrize("origin", SERVERS, ids=["redis", "nats"], indirect=True)
def test_a_message_is_parsed_in_the_same_way_alone_and_in_a_batch(tmp_path, origin):
    one = bodies(0, 9)
    pretty = json.dumps(alert(4), indent=2).encode()
    origin.send(b"[%b, %b]" % (one[0], one[1]), b"\n".join(one[2:4]), pretty, one[5], b"{broken")
    with Engine(tmp_path, origin) as engine:
        engine.wait_until(lambda: engine.count() == 6)
        engine.wait_until(engine.nothing_is_left)
        origin.send(b"[%b]" % one[6])
        engine.wait_until(lambda: engine.count() == 7)
        origin.send(b"\n".join(one[7:9]))
        engine.wait_until(lambda: engine.count() == 9)
        assert [letter.body for letter in engine.records.drain()[0]] == [b"{broken"]


@pytest.mark.parametrize("origin", SERVERS, ids=["redis", "nats"], indirect=True)
def test_the_source_continues_when_its_server_is_back(tmp_path, origin):
    origin.send(*bodies(0, 2))
    with Engine(tmp_path, origin) as engine:
        engine.wait_until(lambda: engine.count() == 2)
        engine.wait_until(engine.nothing_is_left)
        origin.stop()
        engine.wait_until(lambda: engine.source.status()["error"])
        origin.start()
        origin.send(*bodies(2, 4))
        engine.wait_until(lambda: engine.count() == 4)
        assert engine.source.status()["error"] is None


def test_a_missing_stream_is_created(tmp_path):
    origin = NatsOrigin(tmp_path)
    NatsServer.start(origin)
    try:
        with Engine(tmp_path, origin) as engine:
            engine.wait_until(origin.is_captured)
            origin.send(*bodies(0, 2))
            engine.wait_until(lambda: engine.count() == 2)
    finally:
        origin.stop()


@pytest.mark.parametrize("gone", [(STREAM, DURABLE), (STREAM,)], ids=["consumer", "stream"])
@pytest.mark.parametrize("origin", [NatsOrigin], ids=["nats"], indirect=True)
def test_a_consumer_or_stream_that_was_deleted_is_reported_and_created_again(
    tmp_path, origin, gone
):
    origin.send(*bodies(0, 2))
    with Engine(tmp_path, origin) as engine:
        engine.wait_until(lambda: engine.count() == 2)
        with structlog.testing.capture_logs() as logs:
            origin.remove(*gone)
            engine.wait_until(lambda: logs)
        assert "gone" in logs[0]["error"]
        engine.wait_until(lambda: engine.source.status()["error"] is None)
        engine.wait_until(origin.is_captured)
        origin.send(*bodies(2, 4))
        engine.wait_until(lambda: engine.count() == 4)


def test_the_target_of_a_source_does_not_contain_its_password():
    for fetching in (RedisList("redis://u:canary@h:1/0?key=k"), JetStream("nats://u:canary@h:1")):
        assert "canary" not in fetching.target
        assert fetching.target.startswith("h:1")


def test_the_error_of_a_refused_password_does_not_contain_it(tmp_path):
    origin = RedisOrigin(tmp_path)
    origin.start()
    try:
        origin.fetching = lambda _: RedisList(f"redis://u:canary@127.0.0.1:{origin.port}/0")
        with Engine(tmp_path, origin) as engine:
            engine.wait_until(lambda: "AuthenticationError" in engine.source.status()["error"])
            assert "canary" not in json.dumps(engine.source.status())
    finally:
        origin.stop()


class NatsOriginWithPassword(NatsOrigin):
    """A server with a password that must be escaped in a URL."""

    def login(self):
        return {"user": "u", "password": "p/w#?"}

    def command(self):
        return [*super().command(), "--user", "u", "--pass", "p/w#?"]

    def fetching(self, journal):
        del journal
        return JetStream(f"nats://u:p%2Fw%23%3F@127.0.0.1:{self.port}")


def test_a_password_in_a_url_is_percent_encoded(tmp_path):
    origin = NatsOriginWithPassword(tmp_path)
    origin.start()
    try:
        origin.send(*bodies(0, 2))
        with Engine(tmp_path, origin) as engine:
            engine.wait_until(lambda: engine.count() == 2)
    finally:
        origin.stop()


@pytest.fixture
def followed(tmp_path):
    folder = tmp_path / "origin"
    folder.mkdir()
    return FileOrigin(folder)


def test_a_renamed_file_is_read_to_its_end_before_the_new_one(tmp_path, followed):
    followed.send(*bodies(0, 2))
    with Engine(tmp_path, followed) as engine:
        engine.wait_until(lambda: engine.count() == 2)
        with followed.path.open("ab") as old:
            followed.path.rename(followed.path.with_suffix(".1"))
            old.write(bodies(2, 3)[0] + b"\n")
        followed.send(*bodies(3, 5))
        engine.wait_until(lambda: engine.count() == 5)


def test_a_truncated_file_is_read_from_its_beginning(tmp_path, followed):
    followed.send(*bodies(0, 9))
    with Engine(tmp_path, followed) as engine:
        engine.wait_until(lambda: engine.count() == 9)
        followed.path.write_bytes(b"")
        followed.send(*bodies(9, 10))
        engine.wait_until(lambda: engine.count() == 10)


def has_saved_its_offset(engine):
    """Whether the saved offset is the end of the file."""
    size = engine.origin.path.stat().st_size
    saved = engine.real.offset(str(engine.origin.path))
    return saved is not None and saved["offset"] == size


def test_a_restart_continues_at_the_offset_and_another_file_of_that_name_is_read_whole(
    tmp_path, followed
):
    followed.send(*bodies(0, 3))
    with Engine(tmp_path, followed) as engine:
        engine.wait_until(lambda: engine.count() == 3)
        engine.wait_until(lambda: has_saved_its_offset(engine))
    followed.send(*bodies(3, 4))
    with Engine(tmp_path, followed) as engine:
        engine.wait_until(lambda: engine.count() == 4)
        assert sum(m.results.get("duplicate", 0) for m in engine.engine_events) == 0
    followed.path.unlink()
    followed.send(*bodies(10, 30))
    with Engine(tmp_path, followed) as engine:
        engine.wait_until(lambda: engine.count() == 24)


def followed_before(folder, followed, *numbers):
    """Send events, and run an engine until it has read them."""
    followed.send(*bodies(*numbers))
    with Engine(folder, followed) as engine:
        engine.wait_until(lambda: engine.count() == numbers[1])
        engine.wait_until(lambda: has_saved_its_offset(engine))


def rotate(followed, *, to, at=0.0):
    """Rename the file. at: its modification time, in seconds from now, because the kernel's clock is coarse."""
    rotated = followed.path.with_name(to)
    followed.path.rename(rotated)
    os.utime(rotated, (time.time() + at,) * 2)
    return rotated


def batches(engine):
    return [sum(engine_event.results.values()) for engine_event in engine.engine_events]


def duplicates(engine):
    return sum(engine_event.results.get("duplicate", 0) for engine_event in engine.engine_events)


def test_a_file_that_was_renamed_while_the_engine_was_down_is_read_to_its_end_first(
    tmp_path, followed
):
    followed_before(tmp_path, followed, 0, 3)
    followed.send(*bodies(3, 5))
    rotate(followed, to="yesterday")
    followed.send(*bodies(5, 7))
    with Engine(tmp_path, followed) as engine:
        engine.wait_until(lambda: batches(engine) == [2, 2])
        assert engine.count() == 7
        assert duplicates(engine) == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("events.log.2", "events.log.1"),
        ("events.log-20261124", "events.log-20261125"),
        ("events-2026-11-24.log", "events-2026-11-25.log"),
    ],
)
def test_files_that_were_created_and_renamed_while_the_engine_was_down_are_read(
    tmp_path, followed, first, second
):
    followed.send(*bodies(100, 120))
    rotate(followed, to="events.log.3", at=-10)  # older than the first read
    followed_before(tmp_path, followed, 0, 3)
    followed.send(*bodies(3, 5))
    rotate(followed, to=first, at=1)
    followed.send(*bodies(5, 8))
    rotate(followed, to=second, at=2)
    followed.path.with_name("events-other.log").write_bytes(bodies(200, 201)[0] + b"\n")
    followed.send(*bodies(8, 9))
    with Engine(tmp_path, followed) as engine:
        engine.wait_until(lambda: batches(engine) == [2, 3, 1])
        assert engine.count() == 9
        assert duplicates(engine) == 0


def test_a_renamed_file_is_followed_until_a_new_one_exists(tmp_path, followed):
    followed_before(tmp_path, followed, 0, 3)
    rotated = rotate(followed, to="events.log.1")
    with Engine(tmp_path, followed) as engine:
        with rotated.open("ab") as file:  # Falco has not reopened its file yet
            file.write(bodies(3, 4)[0] + b"\n")
        engine.wait_until(lambda: engine.count() == 4)
        followed.send(*bodies(4, 5))
        engine.wait_until(lambda: engine.count() == 5)


def test_a_lost_file_that_was_not_read_to_its_end_is_logged(tmp_path, followed):
    followed_before(tmp_path, followed, 0, 3)
    rotate(followed, to="events.log.2").unlink()
    followed.send(*bodies(3, 5))
    rotate(followed, to="events.log.1", at=1)
    followed.send(*bodies(5, 6))
    with structlog.testing.capture_logs() as logs, Engine(tmp_path, followed) as engine:
        engine.wait_until(lambda: engine.count() == 6)
    (line,) = logs
    assert line["log_level"] == "warning"
    assert str(followed.path) in line["error"]
    assert "gone" in line["error"]


def test_an_unfinished_line_waits_and_lines_that_are_not_json_are_skipped(tmp_path, followed):
    half = bodies(1, 2)[0]
    with Engine(tmp_path, followed) as engine:
        followed.send(b"Fri: Falco version 0.44", *bodies(0, 1))
        with followed.path.open("ab") as file:
            file.write(half[:50])
        engine.wait_until(lambda: engine.count() == 1)
        with followed.path.open("ab") as file:
            file.write(half[50:] + b"\n")
        engine.wait_until(lambda: engine.count() == 2)
        assert engine.records.drain()[0] == []
