"""One connection of HTTP/1.1: one request after the other, each within its time and its share of the memory.

Own code instead of uvicorn, because uvicorn limits neither the time of a head and a body nor the bytes of
unread bodies, and cannot reply before it reads the body. A few slow or huge senders would block the others.
docs/dependencies.md compares the throughput.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from engine.server.framing import BadRequest, Reader
from engine.server.messages import Reply, Request, said

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.server.connection_limits import ConnectionLimits
    from engine.server.framing import Head

log = structlog.get_logger()
NEVER = float("inf")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_URGENT_ONLY = said(503, {"error": "too many connections"}, (b"retry-after", b"5"))
_TOO_MUCH = said(503, {"error": "too much is being sent at once"}, (b"retry-after", b"5"))


class _Asked(NamedTuple):
    """A request whose body is being read, or that is being answered."""

    head: Head
    request: Request


class Connection(asyncio.Protocol):
    """Reads a request, has it answered, and only then reads the next one.

    peer: the address of the other end. deadline: by the monotonic clock; it counts from when the connection
    is made, which is before the handshake of TLS. served: whether a request was answered that the port did
    not refuse by its head. arriving: the task of its handshake.
    """

    def __init__(self, house: ConnectionLimits, peer: str = "") -> None:
        self._house = house
        self.peer = peer
        self.served = False
        self._reader = Reader(house.limits.head_bytes, house.limits.fields)
        self.arriving: asyncio.Task[None] | None = None
        self._transport: Any = None
        self._client: Any = None
        self._asked: _Asked | None = None
        self._body = bytearray()
        self._counted = self._held = 0
        self._began = 0.0
        self._busy = self._advancing = self._stuck = self._paused = False
        self._last = self._done = False
        self.deadline = NEVER
        house.enter(self)

    # What the transport calls.

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        self._transport = transport
        self._client = transport.get_extra_info("peername")
        self.deadline = time.monotonic() + self._house.limits.head

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything but a body that the port has. Also called if the handshake of TLS failed."""
        del exc
        self._done = True
        self._drop_input()
        if not self._busy:
            self._count(0)
        self._house.leave(self)

    def data_received(self, data: bytes) -> None:
        """Read what came, up to the end of one request; discard it after the last reply."""
        if not self._last:
            self._reader.add(data)
            self._advance()

    def eof_received(self) -> bool:
        """Keep the connection open for a reply that is due. TLS cannot be half closed."""
        self._last = True
        return self._busy and self._transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        """The sender does not read its replies: read no more from it, and wait a limited time."""
        self._stuck = True
        self.deadline = time.monotonic() + self._house.limits.write
        self._house.serve(self)
        self._house.wait(self)
        self._flow()

    def resume_writing(self) -> None:
        """The sender reads again."""
        self._stuck = False
        self.deadline = time.monotonic() + self._house.limits.idle
        self._advance()

    # Requests.

    def _advance(self) -> None:
        """Read until a request is being answered, or more input is needed."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._can_read():
                asked = self._asked
                if not (self._read_head() if asked is None else self._read_body(asked)):
                    break
        except BadRequest as error:
            self._refuse(said(error.status, {"error": str(error)}))
        finally:
            self._advancing = False
        self._count_held()
        self._flow()

    def _can_read(self) -> bool:
        return self._reader.left > 0 and not (self._busy or self._stuck or self._done)

    def _read_head(self) -> bool:
        """Judge a request by its head, before its body is read; whether to read on."""
        house = self._house
        if not self._began:
            self._began = time.monotonic()
            self.deadline = self._began + house.limits.head
        head = self._reader.head()
        if head is None:
            if not self._reader.left:  # empty lines before a request
                self._began = 0.0
            return False
        house.serve(self)
        request = Request(head.method, head.target, head.headers, self._client, self._began)
        asked = self._asked = _Asked(head, request)
        early = self._judge(request, head.length or 0)
        if early is not None:
            self._refuse(early)
            return False
        self.deadline = time.monotonic() + house.limits.body
        if not head.length and head.length is not None:
            self._answer(asked, b"")
            return True
        expects = head.headers.get(b"expect", b"").lower() == b"100-continue"
        if expects and head.version == "1.1" and not self._reader.left:
            self._transport.write(_CONTINUE)
        return True

    def _judge(self, request: Request, length: int) -> Reply | None:
        """The reply to a request whose body is not read."""
        house = self._house
        if house.scarce(self.peer) and not house.port.urgent(request):
            return _URGENT_ONLY
        if length > house.port.most:
            return _too_large(house.port.most)
        early = house.port.refuse(request)
        if early is None and house.buffered + length > house.limits.buffered:
            return _TOO_MUCH
        return early

    def _read_body(self, asked: _Asked) -> bool:
        """Take a part of the body; whether to read on."""
        house = self._house
        part = self._reader.body()
        self._count(self._counted + len(part))
        early = None
        if self._counted > house.port.most:
            early = _too_large(house.port.most)
        elif house.buffered > house.limits.buffered:  # others came since the head did
            early = _TOO_MUCH
        if early is not None:
            self._refuse(early)
            return False
        if not self._reader.whole:
            self._body += part
            return bool(part)
        if self._body:
            self._body += part
            part = bytes(self._body)
            self._body = bytearray()
        self._answer(asked, part)
        return True

    def _answer(self, asked: _Asked, body: bytes) -> None:
        """Give a whole request to the port; it counts until it is answered."""
        request, port = asked.request, self._house.port
        request.body = body
        self._busy = True
        self._began = 0.0
        reply = self._replier(asked)
        try:
            port.answer(request, reply)
        except Exception:  # the port's door
            port.refused(500)
            reply(said(500, {"error": "internal error"}))
            log.exception("request")

    def _count(self, size: int) -> None:
        """The bytes of the body, among those of all connections."""
        self._house.buffered += size - self._counted
        self._counted = size

    def _count_held(self) -> None:
        """The bytes that wait behind a request; if there is no room, the connection ends with the reply."""
        house = self._house
        held = self._reader.left if self._busy or self._stuck else 0
        house.buffered += held - self._held
        self._held = held
        if held and house.buffered > house.limits.buffered:
            self._drop_input()

    def _drop_input(self) -> None:
        """Read no further request."""
        self._last = True
        self._reader.clear()
        self._count_held()

    def _flow(self) -> None:
        """Read from the transport only what can be used now."""
        pause = self._stuck or self._held > 0
        if pause == self._paused or self._transport.is_closing():
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # Replies.

    def sweep(self, now: float) -> None:
        """End what is late."""
        if now < self.deadline or (self._busy and not self._stuck):
            return
        if self._stuck or self._done:
            self._transport.abort()
        elif self._began:
            self._house.late += 1
            self._refuse(said(408, {"error": "the request did not come in time"}))
        else:
            self._end()

    def leave(self) -> None:
        """The listener ends: close a connection without a complete head, any other one after its reply."""
        if self._asked is None:
            self._end()

    def abort(self) -> None:
        """End it now."""
        self._house.leave(self)
        if self._transport is not None:
            self._transport.abort()
        elif self.arriving is not None:
            self.arriving.cancel()

    def _replier(self, asked: _Asked) -> Callable[[Reply], None]:
        def reply(answer: Reply) -> None:
            self._asked, self._busy = None, False
            self._count(0)
            if self._done or self._transport.is_closing():
                return
            self.served = True
            head = asked.head
            stays = head.keep and not (answer.close or self._house.closing or self._last)
            told = None if stays and head.version == "1.1" else b"keep-alive" if stays else b"close"
            self.deadline = time.monotonic() + self._house.limits.idle
            self._house.wait(self)
            self._transport.write(answer.encoded(told, head_only=head.method == b"HEAD"))
            if stays:
                self._advance()
            else:
                self._end()

        return reply

    def _refuse(self, reply: Reply) -> None:
        """The last reply, to a request that is not read to its end."""
        self._house.port.refused(reply.status)
        head_only = self._asked is not None and self._asked.head.method == b"HEAD"
        self._asked, self._body = None, bytearray()
        self._count(0)
        self._house.serve(self)
        self._house.wait(self)
        self._transport.write(reply.encoded(b"close", head_only=head_only))
        self._end(linger=True)

    def _end(self, *, linger: bool = False) -> None:
        """Close after what is written. linger: read on and discard it, for a reset could overtake the reply."""
        linger = linger or self._paused
        self._done = True
        self._drop_input()
        if linger and self._transport.can_write_eof():
            self._flow()
            self._transport.write_eof()
            self.deadline = time.monotonic() + self._house.limits.rest
        else:
            self._transport.close()


def _too_large(most: int) -> Reply:
    what = (
        f"a body has at most {most >> 20} MiB" if most >> 20 else f"a body has at most {most} bytes"
    )
    return said(413, {"error": what, "hint": "send less at once"})
