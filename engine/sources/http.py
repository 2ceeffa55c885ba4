"""The event port: accepts posted events and answers each request once, in JSON.

Every path is accepted, because the defaults of senders differ: Falcosidekick's webhook, Talon and kubeless
outputs post to ``/``, and CloudEvents go to any configured path.
Falco ignores the status and Falcosidekick never retries. The response is for people and proxies. It must come
after the write, and soon.
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

from engine.intake.body import BodyResult, TooManyEventsError
from engine.model.errors import EventError, JournalError
from engine.model.playbook import ALL_PLAYBOOKS
from engine.server import content_encoding
from engine.server.content_encoding import EncodingError
from engine.server.messages import json_reply
from engine.telemetry.events import Received
from engine.telemetry.fault_log import FaultLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.intake.body import Body
    from engine.intake.intake import Intake
    from engine.server.messages import Headers, Reply, Request
    from engine.server.sender_auth import SenderCheck
    from engine.telemetry.events import Observers
    from engine.telemetry.tracing import Tracing

MAX_BODY = 4 << 20
"""Bytes of a body. Falco and Falcosidekick set no limit; Kubernetes objects have at most 1.5 MiB."""
RETRY_AFTER = 5
"""Seconds after which a sender should retry after a 503."""
MAX_OPEN_BODIES, MAX_OPEN_BYTES = 128, 1 << 20
"""Bodies, and their bytes, that are parsed and not answered. To parse them takes about 6 ms."""
_MAX_PAUSED_NAMES = 20
"""Paused playbooks that a response header names. ``/status`` names all."""
_PLAYBOOK_NAME = re.compile(r"[a-z0-9-]{1,63}")
log = structlog.get_logger()


class _Waiting(NamedTuple):
    """A request whose body is not parsed yet. trace: the ``traceparent`` of its span, or empty."""

    request: Request
    reply: Callable[[Reply], None]
    trace: str


class _Open(NamedTuple):
    """A request whose body is parsed and not answered yet."""

    waiting: _Waiting
    body: Body


class EventPort:
    """Accepts events.

    access: checks that a request must pass. tracing: creates spans. dry_run: whether responses say that
    nothing is changed. fault: the log of the journal's fault.
    """

    max_body = MAX_BODY

    def __init__(
        self,
        intake: Intake,
        observers: Observers,
        wake: Callable[[], None],
        access: Sequence[SenderCheck] = (),
        tracing: Tracing | None = None,
        *,
        dry_run: bool = False,
        fault: FaultLog | None = None,
    ) -> None:
        self._dry_run, self._fault = dry_run, fault or FaultLog("journal", refusing="events")
        self._intake, self._observers = intake, observers
        self._access, self._tracing = access, tracing
        self._wake = wake
        self._waiting: deque[_Waiting] = deque()
        self._open: list[_Open] = []
        self._is_active = False

    def is_urgent(self, request: Request) -> bool:
        """Return False: all requests to this port have the same priority."""
        del request
        return False

    def reject(self, request: Request) -> Reply | None:
        """Return a 405, 401, 403 or 415 before the body is read, or None."""
        if request.method not in (b"POST", b"PUT"):
            hint = {"error": "events are posted", "hint": "POST /events"}
            return json_reply(405, hint, (b"allow", b"POST, PUT"))
        for access in self._access:
            if (refusal := access.reject(request)) is not None:
                return refusal
        return content_encoding.reject(request)

    def count_rejected(self, status: int) -> None:
        """Count a request that was refused before its body was parsed."""
        self._observers.notify(Received(status, {}))

    def answer(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """Accept the events of a body. Calls ``reply`` when their runs are on disk."""
        trace = ""
        if self._tracing:
            span = self._tracing.start_body_span(request.headers.get(b"traceparent", b""))
            trace, reply = span.traceparent, span.ending(reply)
        self._waiting.append(_Waiting(request, reply, trace))
        if not self._is_active:
            self._is_active = True
            asyncio.get_running_loop().call_soon(self._submit)

    def _submit(self) -> None:
        """Plan the next events of the open bodies, and of those that arrived during the last write.

        Bodies are not planned when they arrive: while the journal's thread writes, planning would only slow
        it down.
        """
        self._parse()
        written = None
        try:
            bodies = [one.body for one in self._open]
            written = self._intake.submit(bodies, may_wait=True)
        except Exception as error:  # noqa: BLE001 - a bug must not stop the port; the responses report it
            for one in self._open:
                one.body.result.error = error
        if written is None:
            self._answer_finished()
            return
        ready, self._open = _split(
            self._open, lambda one: one.body.events or one.body.result.awaits_write
        )
        for one in ready:
            self._reply(200, one)
        loop = asyncio.get_running_loop()
        written.add_done_callback(lambda _: _call_soon(loop, self._on_written))

    def _parse(self) -> None:
        """Parse waiting bodies, up to the bounds of open bodies."""
        size = sum(one.body.event_bytes * len(one.body.events) for one in self._open)
        while self._waiting and len(self._open) < MAX_OPEN_BODIES and size < MAX_OPEN_BYTES:
            waiting = self._waiting.popleft()
            try:
                content = content_encoding.decode(waiting.request, self.max_body)
            except EncodingError as error:
                size += error.decoded  # decoding takes time, even if it fails
                self._reply_undecodable(waiting, error)
                continue
            (body,) = self._intake.parse([content], traces=[waiting.trace])
            size += len(content)
            waiting.request.body = b""
            self._open.append(_Open(waiting, body))

    def _reply_undecodable(self, waiting: _Waiting, error: EncodingError) -> None:
        """Keep and answer a body that cannot be decoded."""
        self._intake.dead_letter(waiting.request.body, str(error), "http")
        self._observers.notify(Received(error.status, Counter(error=1)))
        content = {"error": str(error), "hint": error.hint}
        waiting.reply(json_reply(error.status, content, *self._mode_headers()))

    def _on_written(self) -> None:
        """Continue after a write, whether it succeeded or not."""
        self._wake()
        self._answer_finished()

    def _answer_finished(self) -> None:
        """Answer the bodies that are planned completely. Continue with the others, new ones first."""
        ready, self._open = _split(
            self._open, lambda one: one.body.events and one.body.result.error is None
        )
        for one in ready:
            self._reply(202 if one.body.result.awaits_write else 200, one)
        self._open.sort(key=lambda one: one.body.started)
        self._is_active = bool(self._waiting or self._open)
        if self._is_active:
            asyncio.get_running_loop().call_soon(self._submit)

    def _reply(self, status: int, one: _Open) -> None:
        """Send the response to a body. A failure here affects only this response."""
        try:
            self._respond(status, one.waiting, one.body.result)
        except Exception:  # a bug of the connection must not stop the port
            log.exception("response_failed")

    def _respond(self, status: int, waiting: _Waiting, result: BodyResult) -> None:
        error, reply = result.error, waiting.reply
        if error is None:
            reply(self._accepted(status, result, waiting.request.received_at))
        elif isinstance(error, EventError):
            self._observers.notify(Received(400, Counter(error=1)))
            reply(json_reply(400, {"error": str(error), "hint": error.hint}, *self._mode_headers()))
        elif isinstance(error, TooManyEventsError):
            self._observers.notify(Received(413, {}))
            hint = "send fewer events at once"
            reply(json_reply(413, {"error": str(error), "hint": hint}, *self._mode_headers()))
        elif isinstance(error, JournalError):
            self._unavailable(error, reply, partly_written=result.partly_written)
        else:
            self._observers.notify(Received(500, Counter(refused=1)))
            reply(json_reply(500, {"error": "internal error"}))
            log.error("request_failed", exc_info=error)

    def _accepted(self, status: int, result: BodyResult, received_at: float) -> Reply:
        self._observers.notify(Received(status, result.results, time.monotonic() - received_at))
        if not result.runs and not result.errors:
            return _counts_only(status, result.accepted, result.duplicates, self._mode_headers())
        return json_reply(status, result.response(), *self._mode_headers())

    def _mode_headers(self) -> Headers:
        """Headers that say why events may have no effect. Only authenticated senders get them."""
        return _mode_headers(self._dry_run, self._intake.paused)

    def _unavailable(
        self, error: JournalError, reply: Callable[[Reply], None], *, partly_written: bool
    ) -> None:
        """Answer 503, because the write failed."""
        hint = f"send it again in {RETRY_AFTER} seconds"
        accepted = "only a part" if partly_written else "nothing"
        content = {"error": f"{accepted} was accepted: {error}", "hint": hint}
        retry_after = (b"retry-after", str(RETRY_AFTER).encode())
        reply(json_reply(503, content, retry_after, *self._mode_headers()))
        self._fault.report(str(error))
        self._observers.notify(Received(503, Counter(refused=1)))


@lru_cache(256)
def _counts_only(status: int, accepted: int, duplicates: int, mode: Headers) -> Reply:
    """The response without runs and errors, which most bodies get. Cached, because few of them differ."""
    return json_reply(status, BodyResult(accepted, duplicates).response(), *mode)


@lru_cache(8)
def _mode_headers(dry_run: bool, paused: frozenset[str]) -> Headers:  # noqa: FBT001 - the cache's key
    # An operator can pause any text. A text that is not a playbook name could add a header.
    names = (
        [ALL_PLAYBOOKS]
        if ALL_PLAYBOOKS in paused
        else sorted(filter(_PLAYBOOK_NAME.fullmatch, paused))[:_MAX_PAUSED_NAMES]
    )
    mode: Headers = ((b"tiercel-mode", b"dry-run"),) if dry_run else ()
    return (*mode, (b"tiercel-paused", ", ".join(names).encode())) if names else mode


def _split(
    bodies: list[_Open], stays: Callable[[_Open], object]
) -> tuple[list[_Open], list[_Open]]:
    """Return the bodies that do not stay, and those that do."""
    return [one for one in bodies if not stays(one)], [one for one in bodies if stays(one)]


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Call back in the loop. A closed loop has no connections to answer."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
