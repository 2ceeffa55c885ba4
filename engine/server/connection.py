"""One HTTP/1.1 connection: reads and answers one request at a time, within time and memory limits.

Own code instead of uvicorn: uvicorn limits neither the time of a head and a body nor the bytes of unread
bodies, and it cannot reply before it reads the body. A few slow or huge senders would block the others.
docs/dependencies.md compares the throughput.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog

from engine.server.framing import BadRequest, RequestReader
from engine.server.messages import json_reply

if TYPE_CHECKING:
    from engine.server.connection_limits import OpenConnections
    from engine.server.messages import Reply, Request

log = structlog.get_logger()
NEVER = float("inf")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_ONLY_RESERVED_LEFT = json_reply(503, {"error": "too many connections"}, (b"retry-after", b"5"))
_TOO_MUCH_BUFFERED = json_reply(
    503, {"error": "too much is being sent at once"}, (b"retry-after", b"5")
)


class Connection(asyncio.Protocol):
    """Reads a request, passes it to the port, and reads the next one after the reply.

    peer: the address of the client.
    deadline: when the current wait ends, by the monotonic clock. It starts with the connection, which is
    before the TLS handshake.
    served: whether a request was answered that the port did not reject by its head.
    handshake: the task that accepts the connection.
    """

    def __init__(self, shared: OpenConnections, peer: str = "") -> None:
        self._shared = shared
        self._limits = shared.limits
        self._port = shared.port
        self.peer = peer
        self.served = False
        self.handshake: asyncio.Task[None] | None = None
        self.deadline = NEVER
        self._reader = RequestReader(shared.limits.head_bytes, shared.limits.headers)
        self._transport: Any = None
        self._client: Any = None
        self._request: Request | None = None  # its body is being read, or it is being answered
        self._body = bytearray()  # parts of an incomplete body
        self._counted_body = self._counted_input = 0  # their shares of shared.buffered_bytes
        self._head_started = 0.0  # 0 while no byte of a head is received
        self._answering = False
        self._advancing = False
        self._write_blocked = False
        self._read_paused = False
        self._no_more_requests = False
        self._ending = False
        shared.add(self)

    # Called by the transport.

    def connection_made(self, transport: Any) -> None:
        """Start to wait for a request."""
        self._transport = transport
        self._client = transport.get_extra_info("peername")
        self.deadline = monotonic() + self._limits.head

    def connection_lost(self, exc: Exception | None) -> None:
        """Release all memory, except a body that the port has. Also called if the TLS handshake failed."""
        del exc
        self._ending = True
        self._drop_input()
        if not self._answering:
            self._count_body(0)
        self._shared.remove(self)

    def data_received(self, data: bytes) -> None:
        """Read the input up to the end of one request. Discard it after the last reply."""
        if not self._no_more_requests:
            self._reader.add(data)
            self._advance()

    def eof_received(self) -> bool:
        """Keep the connection open while a reply is due. A TLS connection cannot be half closed."""
        self._no_more_requests = True
        return self._answering and self._transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        """Stop reading while the client does not read its replies."""
        self._write_blocked = True
        self.deadline = monotonic() + self._limits.write
        # both calls move the connection to the end of the order of eviction
        self._shared.forbid_eviction(self)
        self._shared.allow_eviction(self)
        self._apply_backpressure()

    def resume_writing(self) -> None:
        """Continue to read."""
        self._write_blocked = False
        self.deadline = monotonic() + self._limits.idle
        self._advance()

    # Requests.

    def _advance(self) -> None:
        """Read until a request is being answered, or until more input is needed."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while (
                not (self._answering or self._write_blocked or self._ending)
                and self._reader.unread()
                and (self._read_head() if self._request is None else self._read_body(self._request))
            ):
                pass
        except BadRequest as error:
            self._reject(json_reply(error.status, {"error": str(error)}))
        finally:
            self._advancing = False
        self._count_input()
        self._apply_backpressure()

    def _read_head(self) -> bool:
        """Read the head of a request and decide whether to read its body. Return whether to continue."""
        reader, limits = self._reader, self._limits
        now = monotonic()
        if not self._head_started:
            self._head_started = now
            self.deadline = now + limits.head
        request = reader.head()
        if request is None:
            if not reader.unread():  # only empty lines, which may precede a request
                self._head_started = 0.0
            return False
        self._shared.forbid_eviction(self)
        request.client, request.received_at = self._client, self._head_started
        self._request = request
        length = request.body_length
        rejection = self._rejection(request, length or 0)
        if rejection is not None:
            self._reject(rejection)
            return False
        if length == 0:
            self._answer(request, b"")
            return True
        self.deadline = now + limits.body
        if reader.unread():
            return self._read_body(request)
        if (
            request.headers.get(b"expect", b"").lower() == b"100-continue"
            and request.version == "1.1"
        ):
            self._transport.write(_CONTINUE)
        return True

    def _rejection(self, request: Request, length: int) -> Reply | None:
        """Return the reply to a request whose body must not be read, else None."""
        shared, port = self._shared, self._port
        if shared.only_reserved_left(self.peer) and not port.is_urgent(request):
            return _ONLY_RESERVED_LEFT
        if length > port.max_body:
            return _too_large(port.max_body)
        rejection = port.reject(request)
        if rejection is None and shared.buffered_bytes + length > self._limits.buffered_bytes:
            return _TOO_MUCH_BUFFERED
        return rejection

    def _read_body(self, request: Request) -> bool:
        """Read a part of the body. Return whether to continue."""
        reader = self._reader
        part = reader.body()
        self._count_body(self._counted_body + len(part))
        if self._counted_body > self._port.max_body:
            self._reject(_too_large(self._port.max_body))
            return False
        # other bodies can have arrived since the head was read
        if self._shared.buffered_bytes > self._limits.buffered_bytes:
            self._reject(_TOO_MUCH_BUFFERED)
            return False
        if not reader.body_complete():
            self._body += part
            return bool(part)
        if self._body:
            self._body += part
            part = bytes(self._body)
            self._body = bytearray()
        self._answer(request, part)
        return True

    def _answer(self, request: Request, body: bytes) -> None:
        """Pass a complete request to the port. Its body is counted until the reply."""
        request.body = body
        self._answering = True
        self._head_started = 0.0
        try:
            self._port.answer(request, self._reply)
        except Exception:  # a bug in the port must not affect other connections
            log.exception("request_failed")
            self._port.count_rejected(500)
            if self._answering:
                self._reply(json_reply(500, {"error": "internal error"}))

    def _count_body(self, size: int) -> None:
        """Count the received bytes of the body among those of all connections."""
        self._shared.buffered_bytes += size - self._counted_body
        self._counted_body = size

    def _count_input(self) -> None:
        """Count the input that waits behind a request. Over the limit, the reply ends the connection."""
        waiting = self._reader.unread() if self._answering or self._write_blocked else 0
        if waiting == self._counted_input:
            return
        shared = self._shared
        shared.buffered_bytes += waiting - self._counted_input
        self._counted_input = waiting
        if waiting and shared.buffered_bytes > self._limits.buffered_bytes:
            self._drop_input()

    def _drop_input(self) -> None:
        """Read no further request."""
        self._no_more_requests = True
        self._reader.clear()
        self._count_input()

    def _apply_backpressure(self) -> None:
        """Read from the transport only what can be used now."""
        pause = self._write_blocked or self._counted_input > 0
        if pause == self._read_paused or self._transport.is_closing():
            return
        self._read_paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # Replies.

    def check_timeout(self, now: float) -> None:
        """Close the connection if its deadline is over. now: by the monotonic clock."""
        if now < self.deadline or (self._answering and not self._write_blocked):
            return
        if self._write_blocked or self._ending:
            self._transport.abort()
        elif self._head_started:
            self._shared.timed_out += 1
            self._reject(json_reply(408, {"error": "the request did not arrive in time"}))
        else:
            self._end()

    def close_if_idle(self) -> None:
        """Close a connection without a complete head. Any other one ends with its reply."""
        if self._request is None:
            self._end()

    def abort(self) -> None:
        """Close the connection now."""
        self._shared.remove(self)
        if self._transport is not None:
            self._transport.abort()
        elif self.handshake is not None:
            self.handshake.cancel()

    def _reply(self, reply: Reply) -> None:
        """Send the reply to the current request, then read the next one or close."""
        request, self._request = self._request, None
        self._answering = False
        self._count_body(0)
        if request is None or self._ending or self._transport.is_closing():
            return
        self.served = True
        stays = request.keep_alive and not (
            reply.close or self._no_more_requests or self._shared.closing
        )
        persistent = None if request.version == "1.1" else b"keep-alive"
        connection = persistent if stays else b"close"
        self.deadline = monotonic() + self._limits.idle
        self._shared.allow_eviction(self)
        self._transport.write(reply.encode(connection, head_only=request.method == b"HEAD"))
        if stays:
            self._advance()
        else:
            self._end()

    def _reject(self, reply: Reply) -> None:
        """Send the last reply, to a request that is not read completely."""
        self._port.count_rejected(reply.status)
        head_only = self._request is not None and self._request.method == b"HEAD"
        self._request, self._body = None, bytearray()
        self._count_body(0)
        self._shared.forbid_eviction(self)
        self._shared.allow_eviction(self)
        self._transport.write(reply.encode(b"close", head_only=head_only))
        self._end(linger=True)

    def _end(self, *, linger: bool = False) -> None:
        """Close after the data that is already written.

        linger: read and discard more input first, because a reset could overtake the reply.
        """
        linger = linger or self._read_paused
        self._ending = True
        self._drop_input()
        if linger and self._transport.can_write_eof():
            self._apply_backpressure()
            self._transport.write_eof()
            self.deadline = monotonic() + self._limits.linger
        else:
            self._transport.close()


def _too_large(limit: int) -> Reply:
    size = f"{limit >> 20} MiB" if limit >> 20 else f"{limit} bytes"
    what = f"a body has at most {size}"
    return json_reply(413, {"error": what, "hint": "send less at once"})
