"""The event port: a raw ASGI callable, because a framework costs half of what it takes in.

Any path will do, for senders' defaults differ: Falcosidekick's webhook posts to ``/``, its Talon and
kubeless outputs too, CloudEvents wherever they are told. Falco ignores the status and Falcosidekick never
retries, so the answer is for people and proxies; what counts is that it comes after the write, and fast.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from engine.errors import EventError
from engine.intake import MAX_EVENTS, Taken, TooManyError
from engine.journal.journal import JournalError
from engine.observe import Received

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.intake import Intake
    from engine.observe import Observers
    from engine.sources.credentials import Credentials

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

MAX_BODY = 4 << 20
"""Bytes of a body: Falco sets no limit, Falcosidekick none either; Kubernetes objects end at 1.5 MiB."""
RETRY_AFTER = 5
_JSON = (b"content-type", b"application/json")

log = structlog.get_logger()
Answer = tuple[int, dict[str, Any], list[tuple[bytes, bytes]]]


class EventPort:
    """The ASGI application of the event port."""

    def __init__(
        self,
        intake: Intake,
        observers: Observers,
        wake: Callable[[], None],
        credentials: Credentials | None = None,
    ) -> None:
        self._intake, self._observers, self._wake = intake, observers, wake
        self._credentials = credentials

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            status, body, headers = await self._answer(scope, receive)
        except Exception:
            log.exception("request")
            status, body, headers = 500, {"error": "internal error"}, []
        await reply(send, status, msgspec.json.encode(body), [_JSON, *headers])

    async def _answer(self, scope: dict[str, Any], receive: Receive) -> Answer:
        began = time.monotonic()
        headers = dict(scope["headers"])
        if scope["method"] not in ("POST", "PUT"):
            allow = (b"allow", b"POST, PUT")
            return 405, {"error": "events are posted", "hint": "POST /events"}, [allow]
        known = self._credentials
        if known and not known.allow(headers.get(b"authorization", b""), scope["path"]):
            challenge = (b"www-authenticate", b"Bearer")
            return 401, {"error": "no valid token", "hint": known.hint}, [challenge]
        body = await _read(receive, headers)
        if body is None:
            return _too_large(f"a body has at most {MAX_BODY >> 20} MiB")
        return await self._take(body, began)

    async def _take(self, body: bytes, began: float) -> Answer:
        try:
            taken = self._intake.take(body)
        except EventError as error:
            self._observers.tell(Received(400, Counter(error=1)))
            return 400, {"error": str(error), "hint": error.hint}, []
        except TooManyError:
            return _too_large(f"a body has at most {MAX_EVENTS:,} events")
        except JournalError as error:
            return self._unavailable(error)
        if taken.written is None:
            return self._accepted(200, taken, began)
        try:
            await asyncio.wrap_future(taken.written)
        except JournalError as error:
            return self._unavailable(error)
        self._wake()
        return self._accepted(202, taken, began)

    def _accepted(self, status: int, taken: Taken, began: float) -> Answer:
        self._observers.tell(Received(status, taken.ended, time.monotonic() - began))
        return status, taken.body(), []

    def _unavailable(self, error: JournalError) -> Answer:
        """Nothing is on disk, so nothing was accepted."""
        log.error("journal", refusing="events", error=str(error))
        self._observers.tell(Received(503, Counter(refused=1)))
        hint = f"send it again in {RETRY_AFTER} seconds"
        after = (b"retry-after", str(RETRY_AFTER).encode())
        return 503, {"error": f"nothing was written: {error}", "hint": hint}, [after]


async def reply(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Send one whole response."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


def _too_large(what: str) -> Answer:
    return 413, {"error": what, "hint": "send fewer events at once"}, [(b"connection", b"close")]


async def _read(receive: Receive, headers: dict[bytes, bytes]) -> bytes | None:
    """The body, or None for one that is too large; what is announced too large is not read at all."""
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > MAX_BODY:
        return None
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            return None
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)
