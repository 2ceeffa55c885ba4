"""Commands and logs of a server that breaks the protocols."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from types import SimpleNamespace

import pytest
from engine.cluster import streams
from engine.cluster.execution import Output, StreamError
from engine.model.errors import PermanentError
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

SUCCESS = json.dumps({"status": "Success"}).encode()
FAR = 2.0**31


@contextlib.contextmanager
def websocket(handle, protocol="v5.channel.k8s.io"):
    """Run a WebSocket server for one connection. Yield the stream of a client."""

    def quietly(connection):
        with contextlib.suppress(ConnectionClosed):
            handle(connection)

    with serve(quietly, "127.0.0.1", 0, subprotocols=protocol and [protocol]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = server.socket.getsockname()
        try:
            with socket.create_connection(address) as client:
                url = f"ws://127.0.0.1:{address[1]}/api?command=a"
                yield streams.open_websocket(client, url, {"Authorization": "Bearer x"}, FAR)
        finally:
            server.shutdown()
            thread.join()


def output_of(*messages):
    def handle(connection):
        assert connection.request.headers["Authorization"] == "Bearer x"
        for message in messages:
            connection.send(message)

    with websocket(handle) as stream:
        output = Output(stream.pieces)
        return b"".join(output), output.exit_code


def test_output_and_errors_in_the_order_of_their_arrival():
    assert output_of(b"\1a", b"\2b", b"\1", b"\1c", b"\3" + SUCCESS) == (b"abc", 0)


def test_a_message_may_be_fragmented():
    status = b"\3" + SUCCESS
    assert output_of([b"\1a", b"b"], [status[:5], status[5:]]) == (b"ab", 0)


@pytest.mark.parametrize(
    "messages", [[], [b"\1a"], [b"\1a", b"\3"], [b""]], ids=["empty", "output", "status", "channel"]
)
def test_a_connection_that_is_closed_in_the_middle_is_an_error(messages):
    with pytest.raises(StreamError, match="before the command ended"):
        output_of(*messages)


def test_a_message_that_is_too_large_is_an_error():
    with pytest.raises(StreamError, match="a frame is invalid"):
        output_of(b"\1" + bytes(streams.MAX_MESSAGE + 1))


@pytest.mark.parametrize(
    "status", [b"x", b"[]", b"{}", b'{"status":1,"details":{"causes":[1]}}', b"[" * 40_000]
)
def test_a_status_of_another_form_is_an_error(status):
    with pytest.raises(PermanentError, match="was not run"):
        output_of(b"\3" + status)


def test_an_exit_code_that_is_not_a_number_is_an_error():
    details = {"causes": [{"reason": "ExitCode", "message": "many"}]}
    with pytest.raises(PermanentError, match="not valid"):
        output_of(b"\3" + json.dumps({"status": "Failure", "details": details}).encode())


def test_a_server_without_the_protocol_is_an_error():
    with (
        pytest.raises(StreamError, match=r"does not support v5\.channel"),
        websocket(lambda _: None, None),
    ):
        pass


def answered(*parts):
    """Return the stream of a log whose server sends these bytes and closes the connection."""
    received = iter([*parts, b""])
    connection = SimpleNamespace(settimeout=lambda _: None, recv=lambda _: next(received))
    return streams.read_response(connection, FAR)


def pieces(stream):
    return b"".join(data for _, data in stream.pieces)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_the_pieces_of_a_log():
    stream = answered(CHUNKED, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")
    assert (stream.status, pieces(stream)) == (200, b"abcde")
    assert pieces(answered(b"HTTP/1.1 200 OK\r\n\r\nab", b"c")) == b"abc"


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",),
        (CHUNKED, b"3\r\nabc\r\n"),
        (CHUNKED, b"zzz\r\nabc\r\n"),
        (b"not HTTP at all\r\n\r\n",),
        (),
    ],
)
def test_a_log_that_is_cut_off_or_is_not_http_is_an_error(parts):
    with pytest.raises(StreamError):
        pieces(answered(*parts))


def test_a_head_without_an_end_is_an_error():
    with pytest.raises(StreamError, match="too long"):
        answered(b"HTTP/1.1 200 OK\r\n", *[b"a%d: %s\r\n" % (n, b"x" * 60_000) for n in range(9)])
