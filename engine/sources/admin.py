"""The admin port: probes for all, the rest for people on this machine."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from engine.event import time_text
from engine.journal.journal import JournalError
from engine.playbook import Pool
from engine.render.plan_json import event_json, step_json
from engine.sources.http import reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.journal.journal import Journal, Record
    from engine.observe import Metrics
    from engine.recent import Recent
    from engine.reload import Reloader
    from engine.sources.http import Receive, Send

Answer = tuple[int, Any]


class AdminPort:
    """The ASGI application of the admin port.

    about: what does not change: version, mode, cluster. ended: the name of a thread that should run and does
    not, so that the kubelet starts the engine anew.
    """

    def __init__(
        self,
        journal: Journal,
        reloader: Reloader,
        recent: Recent,
        metrics: Metrics,
        about: dict[str, Any],
        *,
        now: Callable[[], float],
        ended: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._journal, self._reloader, self._now = journal, reloader, now
        self._recent, self._ended = recent, ended
        self._metrics, self._about = metrics, about
        self._pages: dict[str, Callable[[], Answer]] = {
            "/status": self._status,
            "/events/recent": self._events,
            "/metrics": lambda: (200, self._metrics.text()),
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        del receive
        try:
            status, body = self._answer(scope)
        except JournalError as error:
            status, body = 503, {"error": str(error)}
        text = isinstance(body, bytes)
        kind = b"text/plain; version=0.0.4; charset=utf-8" if text else b"application/json"
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        await reply(send, status, content, [(b"content-type", kind)])

    def _answer(self, scope: dict[str, Any]) -> Answer:
        path = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            return 405, {"error": "only GET is answered here"}
        if path == "/livez":
            thread = self._ended()
            return (503, {"error": f"{thread} has ended"}) if thread else (200, {"status": "ok"})
        if path == "/readyz":
            return self._ready()
        if not _is_local(scope.get("client")):
            return 403, {"error": "only callers on this machine see more than the probes"}
        if path in self._pages:
            return self._pages[path]()
        if path.startswith("/runs/"):
            return self._run(path.removeprefix("/runs/"))
        return 404, {
            "error": f"nothing at {path[:100]}",
            "hint": "/status /metrics /runs/ID /events/recent",
        }

    def _ready(self) -> Answer:
        fault = self._journal.writable()
        return (503, {"error": fault}) if fault else (200, {"status": "ok"})

    def _status(self) -> Answer:
        active = self._reloader.active
        counts = self._journal.counts()
        files = [
            {"path": path, "blob": blob, "playbooks": names}
            for path, (blob, names) in sorted(active.set.sources.items())
        ]
        playbooks = {
            "digest": active.set.digest,
            "loadedAt": time_text(int(active.loaded_at) * 1_000_000_000),
            "files": files,
            "error": active.error,
        }
        queue = {
            "waiting": counts.get("waiting", 0),
            "running": counts.get("running", 0),
            "held": 0,
            "oldestDueSeconds": self._oldest_due(),
        }
        journal = {"error": self._journal.writable()}
        return 200, {**self._about, "playbooks": playbooks, "queue": queue, "journal": journal}

    def _events(self) -> Answer:
        events = [
            {
                "received": time_text(int(got.received * 1e9)),
                "ended": got.ended,
                "alert": got.event.sent,
            }
            for got in self._recent.all()
        ]
        return 200, {"digest": self._reloader.active.set.digest, "events": events}

    def _oldest_due(self) -> float:
        """Seconds for which the earliest due run has waited for a worker; 0 where none waits."""
        dues = [self._journal.next_due(pool) for pool in get_args(Pool)]
        return max([0.0, *(round(self._now() - due, 3) for due in dues if due is not None)])

    def _run(self, run: str) -> Answer:
        record = self._journal.find(run)
        if record is None:
            return 404, {"error": "no run has this id"}
        return 200, record_json(record)


def record_json(record: Record) -> dict[str, Any]:
    """A run as it stands, steps in the shape of ``plan -o json``."""
    run = record.run
    steps = {step.name: step for step in run.steps}
    return {
        "run": run.id,
        "playbook": run.playbook.name,
        "blob": run.playbook.blob,
        "event": event_json(run.event),
        "target": run.target,
        "received": time_text(int(run.received * 1000) * 1_000_000),
        "outcome": record.outcome,
        "due": None if record.due_at is None else time_text(int(record.due_at * 1000) * 1_000_000),
        "steps": [
            step_json(result, steps[result.step].action, steps[result.step].phase)
            for result in record.results
        ],
    }


def _is_local(client: Any) -> bool:
    """Whether the caller is on this machine."""
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False
