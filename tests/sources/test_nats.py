"""A NATS server that is unavailable or silent is reported soon, and does not delay a stop."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
import structlog
from engine.sources.base import EventSink, SourceThread
from engine.sources.nats import JetStream
from engine.telemetry.events import Observers
from tests.support.engine import PATIENCE, wait_until
from tests.support.intake import InstantJournal, intake_of


@contextlib.contextmanager
def source_of(port):
    sink = EventSink("nats", intake_of(InstantJournal()), Observers(), lambda: None)
    source = SourceThread(JetStream(f"nats://u:canary@127.0.0.1:{port}"), sink)
    yield source
    source.stop()


@pytest.fixture
def silent():
    """A server that accepts connections and does not answer: its port, and an event set by the first one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connected, connections = threading.Event(), []

        def take():
            with contextlib.suppress(OSError):
                while True:
                    connections.append(server.accept()[0])
                    connected.set()

        thread = threading.Thread(target=take)
        thread.start()
        yield server.getsockname()[1], connected
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in connections:
            connection.close()


def wait_for_error(source, words):
    wait_until(lambda: words in (source.status()["error"] or ""), source.status)


def test_the_source_is_not_connected_until_the_server_answers(silent):
    port, came = silent
    with source_of(port) as source:
        assert source.status()["error"] == "not connected yet"
        source.start()
        assert came.wait(PATIENCE)
        assert source.status()["error"] == "not connected yet"


def test_a_server_that_refuses_connections_is_logged_at_once_and_only_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with structlog.testing.capture_logs() as logs, source_of(port) as source:
        source.start()
        wait_for_error(source, "Connect call failed")
        assert "canary" not in source.status()["error"]
    assert [line["event"] for line in logs] == ["source_unavailable"]


def test_a_server_that_does_not_answer_is_reported(silent):
    port, _ = silent
    with source_of(port) as source:
        source.start()
        wait_for_error(source, f"127.0.0.1:{port} falco.>: no connection within 3 s")


def test_the_source_stops_at_once_while_it_connects(silent):
    port, came = silent
    with source_of(port) as source:
        source.start()
        assert came.wait(PATIENCE)
        source.stop()
        # stop() did not wait until the attempt failed after 3 seconds
        assert source.status()["error"] == "not connected yet"
