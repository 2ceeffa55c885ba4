"""Streams of the API server: the log of a container over HTTP, and the output of a command over WebSocket.

Both read within a deadline and keep one piece of the stream in memory. websockets parses the frames, because it
limits their size and needs no thread. The stream module of the official client keeps all output in memory.
Import this module late: few steps use it.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

import httptools
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response as HandshakeResponse
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from engine.cluster.execution import STATUS, StreamError
from engine.outbound.connections import MAX_HEAD, MAX_HEADERS, seconds_left

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
"""Subprotocols of exec, best first. The first byte of a message is its channel (KEP-4006)."""
STDOUT = 1
"""The channel of the output."""
MAX_MESSAGE = 1 << 20
"""Bytes of a WebSocket message. The API server sends at most 32 KiB."""
MAX_ERROR = 64 << 10
"""Bytes that are read of an error response and of the final Status."""
_READ_SIZE = 65_536
_SWITCHING = 101
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""Detects within 30 s that the machine of the API server is gone while a stream is silent."""


class Stream(NamedTuple):
    """A response whose body arrives in pieces.

    pieces: (channel, bytes). The pieces of a log have the channel STDOUT. Those of an error response too.
    Iterating raises StreamError, TimeoutError, OSError. Close it to close the connection.
    """

    status: int
    headers: Mapping[str, str]
    pieces: Iterator[tuple[int, bytes]]


def keep_alive(connection: socket.socket) -> None:
    """Let the kernel check a silent connection."""
    for option in _KEEPALIVE:
        with contextlib.suppress(OSError):  # a socket of a proxy's TLS tunnel has no such options
            connection.setsockopt(*option)


def read_response(connection: socket.socket, deadline: float) -> Stream:
    """Read the head of an HTTP response. The caller has sent the request. Raises StreamError, OSError.

    deadline: of the whole stream, on the monotonic clock.
    """
    parser = _LogParser()
    parser.read_head(connection, deadline)
    return Stream(parser.status, parser.headers, _log_pieces(parser, connection, deadline))


def open_websocket(
    connection: socket.socket, url: str, headers: Mapping[str, str], deadline: float
) -> Stream:
    """Send the handshake of a WebSocket and read the response. Raises StreamError, OSError.

    url: with the scheme ws or wss. The status is 101 if the stream is open.
    """
    protocol = ClientProtocol(
        parse_uri(url),
        subprotocols=[Subprotocol(one) for one in PROTOCOLS],
        max_size=MAX_MESSAGE,
    )
    request = protocol.connect()
    for name, value in headers.items():
        request.headers[name] = value
    protocol.send_request(request)
    events = _events(protocol, connection, deadline)
    response = next(events, None)
    if not isinstance(response, HandshakeResponse):
        raise StreamError("the server closed the connection before it answered")
    found = {name.lower(): value for name, value in response.headers.raw_items()}
    if response.status_code != _SWITCHING:
        body = bytes(response.body or b"")[:MAX_ERROR]
        return Stream(response.status_code, found, iter([(STDOUT, body)]))
    if protocol.handshake_exc is not None or protocol.subprotocol is None:
        raise StreamError(f"the server does not support {PROTOCOLS[0]}")
    return Stream(_SWITCHING, found, _messages(events))


def _events(protocol: ClientProtocol, connection: socket.socket, deadline: float) -> Iterator[Any]:
    """Yield the response of the handshake and the frames. Raises StreamError for an invalid frame, OSError."""
    while True:
        for data in protocol.data_to_send():
            if data:
                connection.settimeout(seconds_left(deadline))
                connection.sendall(data)
        connection.settimeout(seconds_left(deadline))
        data = connection.recv(_READ_SIZE)
        if data:
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
        yield from protocol.events_received()
        if protocol.parser_exc is not None and not isinstance(protocol.parser_exc, EOFError):
            raise StreamError(f"a frame is invalid: {str(protocol.parser_exc)[:200]}")
        if not data:
            return


def _messages(events: Iterator[Any]) -> Iterator[tuple[int, bytes]]:
    """Yield the channel and the bytes of each message, up to the Status. Raises StreamError if there is none."""
    channel: int | None = None
    status = b""
    for event in events:
        if not isinstance(event, Frame):
            continue
        if event.opcode is Opcode.CLOSE:
            break
        if event.opcode not in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
            continue
        data = bytes(event.data)
        if event.opcode is not Opcode.CONT:
            channel, data = (data[0], data[1:]) if data else (None, b"")
        if channel == STATUS:
            status = (status + data)[:MAX_ERROR]
            if event.fin and status:
                yield STATUS, status
                return
        elif channel is not None and data:
            yield channel, data
    raise StreamError("the server closed the connection before the command ended")


class _LogParser:
    """Parses a response with httptools, which calls the ``on_…`` methods."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._bytes_of_head = 0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.has_head = self.complete = False

    def read_head(self, connection: socket.socket, deadline: float) -> None:
        """Read until the head is complete. Raises StreamError, OSError."""
        while not self.has_head:
            self._bytes_of_head += self.read(connection, deadline)
            if self._bytes_of_head > MAX_HEAD + _READ_SIZE or len(self.headers) > MAX_HEADERS:
                raise StreamError("the head of the response is too long")

    def read(self, connection: socket.socket, deadline: float) -> int:
        """Read and parse some bytes. Return how many. Raises StreamError at the end of the connection."""
        connection.settimeout(seconds_left(deadline))
        data = connection.recv(_READ_SIZE)
        if not data:
            if self.has_head and not {"content-length", "transfer-encoding"} & self.headers.keys():
                self.complete = True  # the end of the connection ends the body (RFC 9112, 6.3)
                return 0
            raise StreamError("the server closed the connection before the response ended")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise StreamError(f"the response is not HTTP ({str(error)[:100]})") from None
        return len(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def _log_pieces(
    parser: _LogParser, connection: socket.socket, deadline: float
) -> Iterator[tuple[int, bytes]]:
    while True:
        if parser.body:
            piece = bytes(parser.body)
            parser.body.clear()
            yield STDOUT, piece
        if parser.complete:
            return
        parser.read(connection, deadline)
