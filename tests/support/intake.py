"""Events, playbooks, journals that the test controls, and requests to a port in memory."""

from __future__ import annotations

import asyncio
import functools
import json
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from engine.intake.intake import Intake
from engine.language.folder import Files
from engine.model.errors import JournalError
from engine.planning.matcher import PlaybookIndex
from engine.server.connection import Connection
from engine.server.connection_limits import Limits, OpenConnections
from engine.sources.http import EventPort
from engine.telemetry.events import Observers
from tests.support.playbooks import new_loader

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from engine.journal.records import AcceptBatch

NOW = 1_772_359_200.0
"""2026-03-01T10:00:00Z."""

SHELL = "Terminal shell in container"

FALCO = {
    "hostname": "worker-1",
    "output": "2026-03-01T10:00:00.000000000+0000: Notice A shell was spawned",
    "output_fields": {
        "container.id": "0a1b2c3d4e5f",
        "evt.time.iso8601": 1772359200000000000,
        "k8s.ns.name": "demo",
        "k8s.pod.name": "nginx",
        "proc.aname[2]": None,
        "proc.exe_ino.ctime_duration_proc_start": 18446744073670260079,
    },
    "priority": "Notice",
    "rule": SHELL,
    "source": "syscall",
    "tags": ["container", "shell"],
    "time": "2026-03-01T10:00:00.000000000Z",
}
"""An event as Falco's http_output sends it."""

SIDEKICK = {
    "uuid": "7b8f6f0e-8d0a-4d54-a6de-0c6e2f0b1c11",
    **FALCO,
    "time": "2026-03-01T10:00:00Z",
}
"""The same event as Falcosidekick forwards it: with a new uuid, and the time without trailing zeros."""

PLAYBOOK = """
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: mark-shell}
spec:
  match: {rules: [Terminal shell in container]}
  actions:
    - {action: pod.label, with: {labels: {seen: "true"}}}
"""

ONCE = PLAYBOOK.replace("  match:", "  throttle: {once: 10m}\n  match:")
THIRD = PLAYBOOK.replace("  match:", "  throttle: {key: [rule], count: 3, within: 1m}\n  match:")


def alert(number: int = 0, **other: Any) -> dict[str, Any]:
    """Return an alert with a unique time."""
    return FALCO | {"time": f"2026-03-01T10:00:00.{number:09d}Z"} | other


@functools.cache
def playbooks_of(*texts: str) -> PlaybookIndex:
    files = {f"{number}.yaml": text.encode() for number, text in enumerate(texts)}
    return PlaybookIndex(new_loader().load(Files("", files)).usable().playbooks)


class ManualJournal:
    """A journal that writes when the test calls ``write``.

    waiting: accepted batches that are not written. runs, windows: written. broken: reads and
    ``save_throttle_windows`` fail. closed: ``accept`` fails.
    """

    shared = False

    def __init__(self) -> None:
        self.waiting: list[tuple[AcceptBatch, Future[dict[str, str]]]] = []
        self.runs: list[str] = []
        self.windows: dict[str, Any] = {}
        self.broken = self.closed = False

    def accept(self, accepted: AcceptBatch, now: float) -> Future[dict[str, str]]:
        del now
        future: Future[dict[str, str]] = Future()
        future.set_running_or_notify_cancel()
        if self.closed:
            future.set_exception(JournalError("the journal is closed"))
        else:
            self.waiting.append((accepted, future))
        return future

    def write(self) -> None:
        """Write the waiting batches."""
        for accepted, future in self._taken():
            self.runs += [run.id for run in accepted.runs]
            self.save_throttle_windows(accepted.throttle_windows)
            future.set_result({})

    def fail(self) -> None:
        """Fail the waiting batches."""
        for _, future in self._taken():
            future.set_exception(JournalError("disk full"))

    def known(self, ids: Collection[str]) -> set[str]:
        if self.broken:
            raise JournalError("the journal cannot be read")
        return set(ids) & set(self.runs)

    def paused(self) -> dict[str, Any]:
        return {}

    def throttle_windows(self) -> dict[str, Any]:
        return dict(self.windows)

    def save_throttle_windows(self, changes: Mapping[str, Any]) -> None:
        if self.broken:
            raise JournalError("the journal cannot be written")
        for key, window in changes.items():
            self.windows[key] = window
            if window is None:
                del self.windows[key]

    def _taken(self) -> list[tuple[AcceptBatch, Future[dict[str, str]]]]:
        taken, self.waiting = self.waiting, []
        return taken


class InstantJournal(ManualJournal):
    """A journal that writes at once."""

    def accept(self, accepted: AcceptBatch, now: float) -> Future[dict[str, str]]:
        future = super().accept(accepted, now)
        self.write()
        return future


def intake_of(journal: Any, *texts: str, now: float = NOW, **of: Any) -> Intake:
    playbooks = playbooks_of(*texts or (PLAYBOOK,))
    return Intake(journal, lambda: playbooks, lambda: now, **of)


def take_together(
    intake: Intake, bodies: list[bytes]
) -> tuple[list[Any], Future[dict[str, str]] | None]:
    """Submit bodies together. Returns their results, and the future of the write (None: no write)."""
    parsed = intake.parse(bodies)
    written = intake.submit(parsed)
    return [body.result for body in parsed], written


class Took:
    """The result of one body. written: resolves or fails with the write; None if there is no write."""

    def __init__(self, intake: Intake, body: bytes) -> None:
        (self._result,), group = take_together(intake, [body])
        self.written: Future[dict[str, str]] | None = None
        if group is not None:
            self.written = Future()
            group.add_done_callback(self._end)
        elif self._result.error is not None:
            raise self._result.error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)

    def _end(self, _: Future[dict[str, str]]) -> None:
        if self._result.error is None:
            self.written.set_result(None)
        else:
            self.written.set_exception(self._result.error)


def take(intake: Intake, body: bytes) -> Took:
    return Took(intake, body)


def port_of(journal: Any, *texts: str, access: Any = ()) -> EventPort:
    return EventPort(intake_of(journal, *texts), Observers(), lambda: None, access)


class Pipe(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self, client: tuple[str, int] | None = None) -> None:
        super().__init__({"peername": client})
        self.sent = b""
        self.closed = False
        self.reading = True
        self.wrote = asyncio.Event()

    def write(self, data: Any) -> None:
        self.sent += data
        self.wrote.set()

    def close(self) -> None:
        self.closed = True
        self.wrote.set()

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    async def reply(self, *, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Wait for the first complete response. Returns status, headers and body."""
        while True:
            head, whole, body = self.sent.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            given = [line.split(": ", 1) for line in lines[1:]]
            headers = {name.lower(): value for name, value in given} if whole else {}
            if whole and (head_only or len(body) >= int(headers["content-length"])):
                return int(lines[0].split()[1]), headers, body
            assert not self.closed, self.sent
            self.wrote.clear()
            await self.wrote.wait()


async def call(  # noqa: PLR0917 - a request has as many parts
    app: Any,
    body: Any = b"",
    path: str = "/events",
    headers: Mapping[str, str] | None = None,
    method: str = "POST",
    client: tuple[str, int] | None = None,
    query: str = "",
) -> tuple[int, dict[str, str], Any]:
    """Send one request on a new connection. Returns status, headers, and JSON or text.

    A list of bytes is sent in chunks.
    """
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    given = {"host": "localhost"}
    given |= {name.lower(): value for name, value in (headers or {}).items()}
    if isinstance(body, list):
        given["transfer-encoding"] = "chunked"
        parts = [b"%x\r\n%b\r\n" % (len(part), part) for part in [*body, b""]]
    else:
        given.setdefault("content-length", str(len(body)))
        parts = [body]
    target = quote(path, safe="/?=&%:") + (f"?{query}" if query else "")
    lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in given.items()), "", ""]
    pipe, connection = Pipe(client), Connection(OpenConnections(app, Limits()))
    connection.connection_made(pipe)
    for part in ("\r\n".join(lines).encode("latin-1"), *parts):
        if part:
            connection.data_received(part)
    status, received, content = await pipe.reply(head_only=method == "HEAD")
    connection.connection_lost(None)
    is_json = received["content-type"] == "application/json"
    return status, received, json.loads(content) if is_json and content else content.decode()


def ask(app: Any, body: Any = b"", **request: Any) -> tuple[int, dict[str, str], Any]:
    """Run ``call`` in a new event loop."""
    return asyncio.run(call(app, body, **request))
