"""The event port: posts in, one answer each, in JSON.

Any path will do, for senders' defaults differ: Falcosidekick's webhook posts to ``/``, its Talon and
kubeless outputs too, CloudEvents wherever they are told. Falco ignores the status and Falcosidekick never
retries, so the answer is for people and proxies; what counts is that it comes after the write, and fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter, deque
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import structlog

from engine.intake.intake import TooManyError
from engine.intake.write_batch import Taken
from engine.model.errors import EventError, JournalError
from engine.model.playbook import ALL_PLAYBOOKS
from engine.server import content_encoding
from engine.server.content_encoding import EncodingError
from engine.server.messages import json_reply
from engine.telemetry.events import Received
from engine.telemetry.fault_log import FaultLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.intake.intake import Body, Intake
    from engine.server.messages import Headers, Reply, Request
    from engine.server.sender_auth import Access
    from engine.telemetry.events import Observers
    from engine.telemetry.tracing import Tracing

MAX_BODY = 4 << 20
"""Bytes of a body: Falco sets no limit, Falcosidekick none either; Kubernetes objects end at 1.5 MiB."""
RETRY_AFTER = 5
TOGETHER, TOGETHER_BYTES = 128, 1 << 20
"""Bodies, and bytes of them, that are parsed and not answered; some 6 ms, in which no other is."""
_NAMED = 20
"""Paused playbooks that an answer names at most; /status has them all."""
_NAME = re.compile(r"[a-z0-9-]{1,63}")
log = structlog.get_logger()


class _Asked(NamedTuple):
    """A request that waits to be taken, and its reply. trace: of its span."""

    request: Request
    reply: Callable[[Reply], None]
    trace: str


class _Open(NamedTuple):
    """A body that is parsed and not yet answered."""

    asked: _Asked
    body: Body


class EventPort:
    """Takes events. access: checks that a request must pass. tracing: makes spans.

    dry_run: whether every answer says that nothing is done. fault: the journal's, for the log.
    """

    max_body = MAX_BODY

    def __init__(
        self,
        intake: Intake,
        observers: Observers,
        wake: Callable[[], None],
        access: Sequence[Access] = (),
        tracing: Tracing | None = None,
        *,
        dry_run: bool = False,
        fault: FaultLog | None = None,
    ) -> None:
        self._dry_run, self._fault = dry_run, fault or FaultLog("journal", refusing="events")
        self._intake, self._observers = intake, observers
        self._access, self._tracing = access, tracing
        self._wake = wake
        self._came: deque[_Asked] = deque()
        self._open: list[_Open] = []
        self._taking = False

    def is_urgent(self, request: Request) -> bool:
        """All requests are alike here."""
        del request
        return False

    def reject(self, request: Request) -> Reply | None:
        """405, 401, 403 and 415, before the body is read."""
        if request.method not in (b"POST", b"PUT"):
            hint = {"error": "events are posted", "hint": "POST /events"}
            return json_reply(405, hint, (b"allow", b"POST, PUT"))
        for access in self._access:
            if (refusal := access.reject(request)) is not None:
                return refusal
        return content_encoding.reject(request)

    def count_rejected(self, status: int) -> None:
        """Count it; what was in such a body nobody knows."""
        self._observers.tell(Received(status, {}))

    def answer(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """Take the events of a body; what matched is on disk before the reply."""
        trace = ""
        if self._tracing:
            span = self._tracing.begin(request.headers.get(b"traceparent", b""))
            trace, reply = span.text, span.closing(reply)
        self._came.append(_Asked(request, reply, trace))
        if not self._taking:
            self._taking = True
            asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        """Plan the next events of the open bodies, and of those that came since the last write began.

        Not of each body as it comes: while the disk's thread is at work, planning would only hold it up.
        """
        self._parse()
        written = None
        try:
            written = self._intake.take([one.body for one in self._open])
        except Exception as error:  # noqa: BLE001 - the port's door: told with each answer
            for one in self._open:
                one.body.taken.failed = error
        if written is None:
            self._answer_decided()
            return
        ready, self._open = _split(self._open, lambda one: one.body.events or one.body.taken.waits)
        for one in ready:
            self._reply(200, one)
        loop = asyncio.get_running_loop()
        written.add_done_callback(lambda _: _call(loop, self._written))

    def _parse(self) -> None:
        """Open bodies that came, as far as there is room."""
        size = sum(one.body.size * len(one.body.events) for one in self._open)
        while self._came and len(self._open) < TOGETHER and size < TOGETHER_BYTES:
            asked = self._came.popleft()
            content = self._unpacked(asked)
            if content is None:
                continue
            (body,) = self._intake.read([content], traces=[asked.trace])
            size += len(content)
            asked.request.body = b""
            self._open.append(_Open(asked, body))

    def _unpacked(self, asked: _Asked) -> bytes | None:
        """The body without its coding; None if it was answered because it cannot be unpacked."""
        try:
            return content_encoding.unpacked(asked.request, self.max_body)
        except EncodingError as error:
            self._intake.bury(asked.request.body, str(error), "http")
            self._observers.tell(Received(error.status, Counter(error=1)))
            what = {"error": str(error), "hint": error.hint}
            asked.reply(json_reply(error.status, what, *self._marks()))
            return None

    def _written(self) -> None:
        """What was planned is on disk, or is not."""
        self._wake()
        self._answer_decided()

    def _answer_decided(self) -> None:
        """Answer the bodies that are planned to their end, and go on with the others, begun ones last."""
        left = lambda one: one.body.events and one.body.taken.failed is None  # noqa: E731
        ready, self._open = _split(self._open, left)
        for one in ready:
            self._reply(202 if one.body.taken.waits else 200, one)
        self._open.sort(key=lambda one: one.body.begun)
        self._taking = bool(self._came or self._open)
        if self._taking:
            asyncio.get_running_loop().call_soon(self._take)

    def _reply(self, status: int, one: _Open) -> None:
        """Say what a body came to. One that cannot be told costs nobody else his answer."""
        try:
            self._say(status, one.asked, one.body.taken)
        except Exception:  # a bug of the connection's
            log.exception("request")

    def _say(self, status: int, asked: _Asked, taken: Taken) -> None:
        error, reply = taken.failed, asked.reply
        if error is None:
            reply(self._accepted(status, taken, asked.request.received_at))
        elif isinstance(error, EventError):
            self._observers.tell(Received(400, Counter(error=1)))
            reply(json_reply(400, {"error": str(error), "hint": error.hint}, *self._marks()))
        elif isinstance(error, TooManyError):
            self._observers.tell(Received(413, {}))
            hint = "send fewer events at once"
            reply(json_reply(413, {"error": str(error), "hint": hint}, *self._marks()))
        elif isinstance(error, JournalError):
            self._unavailable(error, reply, kept=taken.kept)
        else:
            self._observers.tell(Received(500, Counter(refused=1)))
            reply(json_reply(500, {"error": "internal error"}))
            log.error("request", exc_info=error)

    def _accepted(self, status: int, taken: Taken, began: float) -> Reply:
        self._observers.tell(Received(status, taken.ended, time.monotonic() - began))
        if not taken.runs and not taken.errors:
            return _counted(status, taken.accepted, taken.duplicates, self._marks())
        return json_reply(status, taken.body(), *self._marks())

    def _marks(self) -> Headers:
        """What an answer says of why nothing may come of it; to those only who may send events."""
        return _marked(self._dry_run, self._intake.paused)

    def _unavailable(
        self, error: JournalError, reply: Callable[[Reply], None], *, kept: bool
    ) -> None:
        """The write failed. kept: whether a part of the body was written before that."""
        hint = f"send it again in {RETRY_AFTER} seconds"
        accepted = "only a part" if kept else "nothing"
        what = {"error": f"{accepted} was accepted: {error}", "hint": hint}
        reply(json_reply(503, what, (b"retry-after", str(RETRY_AFTER).encode()), *self._marks()))
        self._fault.seen(str(error))
        self._observers.tell(Received(503, Counter(refused=1)))


@lru_cache(256)
def _counted(status: int, accepted: int, duplicates: int, marks: Headers) -> Reply:
    """The reply to a body that came to nothing but numbers, which is what most bodies come to."""
    return json_reply(status, Taken(accepted, duplicates).body(), *marks)


@lru_cache(8)
def _marked(dry_run: bool, paused: frozenset[str]) -> Headers:  # noqa: FBT001 - the cache's key
    # a person may have paused a name that no playbook can have, and that would be more than one header
    names = (
        [ALL_PLAYBOOKS]
        if ALL_PLAYBOOKS in paused
        else sorted(filter(_NAME.fullmatch, paused))[:_NAMED]
    )
    mode: Headers = ((b"tiercel-mode", b"dry-run"),) if dry_run else ()
    return (*mode, (b"tiercel-paused", ", ".join(names).encode())) if names else mode


def _split(
    bodies: list[_Open], stays: Callable[[_Open], object]
) -> tuple[list[_Open], list[_Open]]:
    """Those that do not stay, and those that do."""
    return [one for one in bodies if not stays(one)], [one for one in bodies if stays(one)]


def _call(loop: asyncio.AbstractEventLoop, do: Callable[[], None]) -> None:
    """Have the loop do it; one that has ended has nobody to answer."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(do)
