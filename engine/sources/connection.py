"""One connection of HTTP/1.1: httptools parses, here are the order of replies and everything that bounds it.

Its own protocol, and not a framework's or uvicorn's: those have neither a time by which a request's head
and body must be there, nor a reply before the body is read, so a few slow or huge senders would hold up
the rest. It also costs two thirds of what uvicorn does (docs/dependencies.md has the figures).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import httptools
import structlog

from engine.sources.request import Reply, Request, said

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.sources.house import House

log = structlog.get_logger()
NEVER = float("inf")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.Protocol):
    """Requests of one connection, answered in their order. deadline: by the monotonic clock.

    It counts from when it is made, which is before the handshake of TLS.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._client: Any = None
        self._waiting: deque[tuple[Request, str, bool]] = deque()
        self._reading: Request | None = None
        self._early: Reply | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._began = 0.0
        self._head = 0
        self._busy = self._done = self._stuck = False
        self.deadline = NEVER
        house.open.add(self)

    # What the transport calls.

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        self._transport = transport
        self._client = transport.get_extra_info("peername")
        self.deadline = time.monotonic() + self._house.limits.head

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything; the parser refers to us. Also where it was never made."""
        del exc
        self._done = True
        self._house.open.discard(self)
        if not self._house.open:
            self._house.left.set()
        self._let_go()
        self._waiting.clear()
        del self._parser

    def data_received(self, data: bytes) -> None:
        """Parse what came; what comes after the last reply is thrown away."""
        if self._done:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as if it had not asked for it, and then closed
        except httptools.HttpParserError as error:
            self._broken(400, f"no HTTP: {str(error)[:100]}")
            return
        if self._reading is None and self._began and not self._done:
            self._head += len(data)
            if self._head > self._house.limits.head_bytes:
                self._broken(431, "the head is too large")

    def eof_received(self) -> bool:
        """A sender that has said all may still want his reply."""
        waits = (self._busy or bool(self._waiting)) and not self._done
        self._done = self._done or waits
        return waits and self._transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        """The sender does not read his replies: take no more of him, and not for long."""
        self._stuck = True
        self.deadline = time.monotonic() + self._house.limits.write
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """He does again."""
        self._stuck = False
        self.deadline = time.monotonic() + self._house.limits.idle
        if not self._transport.is_closing():
            self._transport.resume_reading()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._target, self._headers, self._head = b"", {}, 0
        self._began = time.monotonic()
        self.deadline = self._began + self._house.limits.head

    def on_url(self, url: bytes) -> None:
        """Its target, or a part of it."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Judge the request by its head, before any of the body is taken."""
        if self._early is not None or self._done:
            return
        house = self._house
        request = Request(
            self._parser.get_method(), self._target, self._headers, self._client, self._began
        )
        self._reading = request
        length = self._headers.get(b"content-length", b"0")
        most, size = house.port.most, int(length) if length.isdigit() else 0
        if size > most:
            self._early = _too_large(most)
        else:
            self._early = house.port.refuse(request)
        if self._early is None and house.buffered + size > house.limits.buffered:
            self._early = _too_much()
        if self._early is not None:
            self._proceed()
            return
        self.deadline = time.monotonic() + house.limits.body
        expects = self._headers.get(b"expect", b"").lower() == b"100-continue"
        if expects and not self._busy and self._parser.get_http_version() == "1.1":
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A part of the body, as long as that is not too long."""
        if self._early is not None:
            return
        self._parts.append(body)
        self._size += len(body)
        self._house.buffered += len(body)
        if self._size > self._house.port.most:
            self._early = _too_large(self._house.port.most)
        elif self._house.buffered > self._house.limits.buffered:  # others came since its head did
            self._early = _too_much()
        if self._early is not None:
            self._let_go()
            self._proceed()

    def on_message_complete(self) -> None:
        """A whole request: answer it once those before it are."""
        request, parser = self._reading, self._parser
        parts = self._let_go()
        if self._early is not None or request is None or self._done:
            return
        request.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._reading, self._began = None, 0.0
        self.deadline = time.monotonic() + self._house.limits.idle
        keep = parser.should_keep_alive() and not parser.should_upgrade()
        self._waiting.append((request, parser.get_http_version(), keep))
        if len(self._waiting) > self._house.limits.pipelined:
            self._transport.abort()
        self._proceed()

    # Replies.

    def sweep(self, now: float) -> None:
        """End what is late."""
        if now < self.deadline or (self._busy and not self._stuck):
            return
        if self._stuck or self._done:
            self._transport.abort()
        elif self._began:
            self._house.late += 1
            self._broken(408, "the request did not come in time")
        else:
            self._done = True
            self._transport.close()

    def leave(self) -> None:
        """The listener ends: so does a connection without a whole head, and any other after its reply."""
        if not self._busy and not self._waiting and self._reading is None:
            self._done = True
            self._transport.close()

    def abort(self) -> None:
        """End it now."""
        self._transport.abort()

    def _proceed(self) -> None:
        while self._waiting and not self._busy:
            self._busy = True
            request, version, keep = self._waiting.popleft()
            answer = self._replier(request, version, keep=keep)
            try:
                self._house.port.answer(request, answer)
            except Exception:  # a source's door
                self._house.port.refused(500)
                answer(said(500, {"error": "internal error"}))
                log.exception("request")
        if self._early is not None and not self._busy and not self._done:
            self._house.port.refused(self._early.status)
            self._finish(self._early)

    def _replier(self, request: Request, version: str, *, keep: bool) -> Callable[[Reply], None]:
        def reply(answer: Reply) -> None:
            if self._transport.is_closing():
                return
            stays = keep and not answer.close and not self._house.closing
            told = None if stays and version == "1.1" else b"keep-alive" if stays else b"close"
            self._transport.write(answer.encoded(told, head_only=request.method == b"HEAD"))
            self._busy = False
            if not stays or (self._done and not self._waiting):
                self._done = True
                self._transport.close()
                return
            self._proceed()

        return reply

    def _broken(self, status: int, what: str) -> None:
        """What came is no request, or late: say so after the replies that are due, and end."""
        self._early = said(status, {"error": what})
        self._proceed()

    def _finish(self, reply: Reply) -> None:
        """The last reply. What the sender still says is thrown away, or he would get a reset in its place."""
        self._done = True
        self._let_go()
        head_only = self._reading is not None and self._reading.method == b"HEAD"
        self._transport.write(reply.encoded(b"close", head_only=head_only))
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self.deadline = time.monotonic() + self._house.limits.rest
        else:
            self._transport.close()

    def _let_go(self) -> list[bytes]:
        """The parts of the body so far, which count no more."""
        self._house.buffered -= self._size
        parts, self._parts, self._size = self._parts, [], 0
        return parts


def _too_much() -> Reply:
    full = {"error": "too much is being sent at once"}
    return said(503, full, (b"retry-after", b"5"))


def _too_large(most: int) -> Reply:
    what = (
        f"a body has at most {most >> 20} MiB" if most >> 20 else f"a body has at most {most} bytes"
    )
    return said(413, {"error": what, "hint": "send less at once"})
