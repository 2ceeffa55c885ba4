"""Two replicas on one Redis list: each has its own processing list, and a dead one's events are taken over."""

from __future__ import annotations

import threading

import pytest
import redis
from engine.sources.redis import RedisList
from tests.support.components import RedisServer


class Sink:
    """Takes events until it has as many as the test wants."""

    def __init__(self, wanted):
        self.stopping, self.received, self._wanted = threading.Event(), [], wanted

    def connected(self):
        pass

    def deliver(self, *events):
        self.received += events
        if len(self.received) >= self._wanted:
            self.stopping.set()


@pytest.fixture
def client(tmp_path):
    server = RedisServer(tmp_path)
    server.start()
    with redis.Redis(port=server.port) as opened:
        opened.url = f"redis://127.0.0.1:{server.port}/0"
        yield opened
    server.stop()


def test_the_events_of_a_dead_replica_are_taken_over_and_those_of_a_live_one_are_not(client):
    client.rpush("falco:tiercel:dead", b"1", b"2")
    client.rpush("falco:tiercel:live", b"busy")
    client.rpush("falco", b"3")
    sink = Sink(wanted=3)
    RedisList(client.url, ("own", lambda: ["own", "live"])).run(sink)
    assert sink.received == [b"1", b"2", b"3"]
    assert client.lrange("falco:tiercel:live", 0, -1) == [b"busy"]
    assert sorted(client.keys()) == [b"falco:tiercel:live"]
