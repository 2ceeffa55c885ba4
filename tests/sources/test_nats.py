"""A NATS server that is away, or says nothing: that is told soon, and keeps nobody from ending."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest
import structlog
from engine.sources.base import EventSink, SourceThread
from engine.sources.nats import JetStream
from engine.telemetry.events import Observers
from tests.support.intake import InstantJournal, intake_of

PATIENCE = 20.0


@contextlib.contextmanager
def source_of(port):
    taker = EventSink("nats", intake_of(InstantJournal()), Observers(), lambda: None)
    source = SourceThread(JetStream(f"nats://u:canary@127.0.0.1:{port}"), taker)
    yield source
    source.stop()


@pytest.fixture
def silent():
    """A server that takes connections and says nothing; ``came`` is set with the first."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server_came, connections = threading.Event(), []

        def take():
            with contextlib.suppress(OSError):
                while True:
                    connections.append(server.accept()[0])
                    server_came.set()

        thread = threading.Thread(target=take)
        thread.start()
        yield server.getsockname()[1], server_came
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in connections:
            connection.close()


def is_told(source, words):
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE
    while words not in (source.status()["error"] or ""):
        assert time.monotonic() < deadline, source.status()
        pause.wait(0.02)


def test_it_is_not_connected_until_it_is(silent):
    port, came = silent
    with source_of(port) as source:
        assert source.status()["error"] == "not connected yet"
        source.start()
        assert came.wait(PATIENCE)
        assert source.status()["error"] == "not connected yet"


def test_a_server_that_refuses_is_told_at_once_and_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with structlog.testing.capture_logs() as logs, source_of(port) as source:
        source.start()
        is_told(source, "Connect call failed")
        assert "canary" not in source.status()["error"]
    assert [line["event"] for line in logs] == ["source_unavailable"]


def test_a_server_that_says_nothing_is_told(silent):
    port, _ = silent
    with source_of(port) as source:
        source.start()
        is_told(source, f"127.0.0.1:{port} falco.>: no connection within 3 s")


def test_it_ends_at_once_while_it_connects(silent):
    port, came = silent
    with source_of(port) as source:
        source.start()
        assert came.wait(PATIENCE)
        source.stop()
        # the attempt was given up, and not waited for until it failed after its 3 seconds
        assert source.status()["error"] == "not connected yet"
