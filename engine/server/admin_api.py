"""The admin API: the answers to authenticated GET and POST requests."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol, get_args

from engine.journal.protocol import History, Maintenance, Queue, State
from engine.journal.records import RunFilter
from engine.language import duration
from engine.language.findings import nearest
from engine.model.errors import JournalError
from engine.model.event import format_time, parse_time
from engine.model.playbook import ALL_PLAYBOOKS, Mode, Pool
from engine.render.in_force import in_force_json
from engine.render.run_json import (
    dead_letter_json,
    dropped_runs_json,
    pause_json,
    record_json,
    summary_json,
)
from engine.server.messages import Reply, json_reply
from engine.server.operator_commands import Author, OperatorCommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from engine.intake.recent_events import RecentEvents
    from engine.language.loader import PlaybookSet
    from engine.model.playbook import Playbook
    from engine.server.operator_commands import OperatorCommands
    from engine.telemetry.metrics import Series

MAX_ROWS = 1_000
"""Largest number of runs in an answer."""
STATES = ("waiting", "running", "held", "done", "planned", "skipped", "refused", "failed")
_METRICS = b"text/plain; version=0.0.4; charset=utf-8"
_FILTERS = {"playbook", "namespace", "since", "state", "limit"}
_NOT_IN_LABEL_NAME = re.compile(r"[^a-zA-Z0-9_]")
_LIMIT = re.compile(r"[0-9]{1,6}")
_NAME = re.compile(r"[a-z0-9-]{1,63}")
_COMMAND = re.compile(r"/runs/([^/]*)/(approve|deny|retry|undo)")


def command_of(path: str) -> str:
    """Return the command of a POST on a path, or "" without one. It is a verb of RBAC, too."""
    match = _COMMAND.fullmatch(path)
    return match[2] if match else path.removeprefix("/") if path in ("/pause", "/resume") else ""


class AdminJournal(Queue, History, State, Maintenance, Protocol):
    """The parts of the journal that the admin API uses."""


class ActivePlaybooks(Protocol):
    """The playbooks in force. loaded_at: epoch seconds. error: why the folder is not in force."""

    @property
    def set(self) -> PlaybookSet:  # noqa: D102 - described by the class
        ...

    @property
    def loaded_at(self) -> float:  # noqa: D102 - described by the class
        ...

    @property
    def error(self) -> str | None:  # noqa: D102 - described by the class
        ...


class AdminApi:
    """Answers the requests of operators.

    active: returns the playbooks in force.
    metrics: returns the metrics in the exposition format of Prometheus.
    about: returns version, mode, cluster, sources and spool of the engine.
    accept_error: returns why no event can be accepted, or None. Default: the error of the journal.
    """

    def __init__(
        self,
        journal: AdminJournal,
        commands: OperatorCommands,
        active: Callable[[], ActivePlaybooks],
        recent: RecentEvents,
        metrics: Callable[[], bytes],
        about: Callable[[], Mapping[str, Any]],
        *,
        accept_error: Callable[[], str | None] | None = None,
    ) -> None:
        self._accept_error = accept_error or journal.write_error
        self._journal, self._commands, self._active = journal, commands, active
        self._recent, self._metrics, self._about = recent, metrics, about
        self._pages: dict[str, Callable[[], Reply]] = {
            "/status": self._status,
            "/events/recent": self._events,
            "/metrics": lambda: Reply(200, self._metrics(), _METRICS),
        }

    def readiness(self) -> Reply:
        """Return 200 if events can be accepted, else 503."""
        error = self._accept_error()
        return json_reply(503, {"error": error}) if error else json_reply(200, {"status": "ok"})

    def get(self, path: str, query: Mapping[str, str]) -> Reply:
        """Answer a GET request. Raises OperatorCommandError, JournalError."""
        if path in self._pages:
            return self._pages[path]()
        if path == "/runs":
            filters = self._run_filter(query)
            runs = [summary_json(record) for record in self._journal.runs(filters)]
            # a dropped event has no run, so the filters by state and namespace exclude it
            with_drops = filters.state is None and filters.namespace is None
            drops = self._journal.dropped_runs(filters) if with_drops else []
            if filters.playbook is not None and not runs and not drops:
                self._commands.check_playbook(filters.playbook)
            return json_reply(
                200, {"runs": runs, "drops": [dropped_runs_json(drop) for drop in drops]}
            )
        if path == "/in-force":
            return json_reply(200, self._in_force(query))
        if path == "/dead":
            since = self._run_filter(query, {"since"}).since or 0.0
            letters = [one for one in self._journal.dead_letters(MAX_ROWS) if one.received >= since]
            return json_reply(200, {"dead": [dead_letter_json(one) for one in letters]})
        if path.startswith("/runs/"):
            record = self._commands.find(path.removeprefix("/runs/"))
            return json_reply(200, record_json(record))
        hint = "/status /metrics /runs /runs/ID /in-force /dead /events/recent"
        return json_reply(404, {"error": f"nothing at {path[:100]}", "hint": hint})

    def post(self, path: str, content: Mapping[str, Any], by: str) -> Reply:
        """Run an operator command. by: name of the operator. Raises OperatorCommandError, JournalError."""
        commands = self._commands
        if path in ("/pause", "/resume"):
            keys = ("for",) if path == "/pause" else ()
            texts = _read_texts(content, "playbook", "reason", *keys)
            playbook, author = texts["playbook"], Author(by, texts["reason"] or "")
            if path == "/resume":
                return json_reply(200, {"paused": commands.resume(playbook, author)})
            return json_reply(200, {"paused": commands.pause(playbook, author, texts["for"])})
        match = _COMMAND.fullmatch(path)
        if not match:
            hint = "/runs/ID/approve /runs/ID/deny /runs/ID/retry /runs/ID/undo /pause /resume"
            return json_reply(404, {"error": f"nothing to do at {path[:100]}", "hint": hint})
        run, command = match.groups()
        texts = _read_texts(content, "reason", *(("from",) if command == "retry" else ()))
        author = Author(by, texts["reason"] or "")
        if command == "retry":
            id_ = commands.retry(run, texts["from"], author)
            return json_reply(200, {"run": id_, **self._pause_note(id_)})
        if command == "undo":
            id_, steps = commands.undo(run, author)
            return json_reply(200, {"run": id_, "steps": steps})
        decided = commands.decide(run, command, author)
        return json_reply(200, {"run": decided.run, "missing": decided.missing})

    def _in_force(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return what is in force. Raises OperatorCommandError, JournalError."""
        wanted = self._run_filter(query, {"playbook", "namespace", "since", "limit"})
        found = in_force_json(self._journal.in_force(), wanted)
        if wanted.playbook is not None and not found:
            self._commands.check_playbook(wanted.playbook)
        return {"inForce": found[: wanted.limit], "total": len(found)}

    def _pause_note(self, run: str) -> dict[str, str]:
        """Return a note if a pause prevents the run from continuing."""
        paused = set(self._commands.paused()) & {
            ALL_PLAYBOOKS,
            self._commands.find(run).run.playbook.name,
        }
        which = "" if ALL_PLAYBOOKS in paused else f" --playbook {min(paused, default='')}"
        note = f"it waits for the pause to end: tiercel resume{which}"
        return {"note": note} if paused else {}

    def _run_filter(
        self, query: Mapping[str, str], allowed: Collection[str] = _FILTERS
    ) -> RunFilter:
        """Return the filters of a query. Raises OperatorCommandError (400)."""
        for name in sorted(query.keys() - set(allowed)):
            hint = nearest(name, allowed)
            raise OperatorCommandError(
                f"`{name[:40]}` is not a filter",
                400,
                f"is `{hint}` meant?" if hint else ", ".join(sorted(allowed)),
            )
        return RunFilter(
            _name(query, "playbook"),
            _name(query, "namespace"),
            self._since(query.get("since")),
            _state(query.get("state")),
            _limit(query.get("limit", "100")),
        )

    def _since(self, text: str | None) -> float | None:
        """Return the epoch seconds of a duration ago (``30m``), or of an RFC 3339 time."""
        if text is None:
            return None
        ago = duration.seconds(text)
        if ago is not None:
            return self._commands.now() - ago
        try:
            return parse_time(text) / 1e9
        except ValueError:
            what = f"`since` is not a duration or a time: `{text[:40]}`"
            raise OperatorCommandError(what, 400, "like 30m, 2d or 2026-03-01T10:00:00Z") from None

    def _status(self) -> Reply:
        active = self._active()
        files = [
            {"path": path, "blob": blob, "playbooks": names}
            for path, (blob, names) in sorted(active.set.sources.items())
        ]
        playbooks = {
            "digest": active.set.digest,
            "revision": active.set.revision or None,
            "loadedAt": format_time(int(active.loaded_at) * 1_000_000_000),
            "files": files,
            "error": active.error,
        }
        status = {
            **self._about(),
            "modes": {one.name: one.mode for one in active.set.playbooks if one.mode != "enforce"},
            "playbooks": playbooks,
            **self._journal_status(),
        }
        return json_reply(200, status)

    def _journal_status(self) -> dict[str, Any]:
        """Return the state of the journal, the queue and the pauses; null if the journal cannot be read."""
        try:
            counts, pauses = self._journal.counts(), self._journal.paused()
            oldest = self._oldest_due()
        except JournalError as error:
            return {"paused": None, "pauses": None, "queue": None, "journal": {"error": str(error)}}
        return {
            "paused": sorted(pauses),
            "pauses": [pause_json(name, one) for name, one in sorted(pauses.items())],
            "queue": {
                "waiting": counts["waiting"],
                "running": counts["running"],
                "held": counts["held"],
                "oldestDueSeconds": oldest,
            },
            "journal": {"error": self._journal.write_error()},
        }

    def series(self) -> Iterator[Series]:
        """Yield the metrics of the playbooks in force, the sources and the journal."""
        playbooks, about = self._active().set.playbooks, self._about()
        modes = Counter(playbook.mode for playbook in playbooks)
        for mode in get_args(Mode):
            yield "playbooks", {"mode": mode}, modes[mode]
        for playbook in playbooks:
            yield "playbook_info", _labels(playbook), 1.0
        yield "dry_run", {}, float(about["mode"] == "dry-run")
        for source in about.get("sources", ()):
            yield "source_connected", {"kind": source["kind"]}, float(source["error"] is None)
        spool = about.get("spool") or {"runs": 0, "fillRatio": 0.0}
        yield "spool_runs", {}, spool["runs"]
        yield "spool_fill_ratio", {}, spool["fillRatio"]
        try:
            counts, oldest = self._journal.counts(), self._oldest_due()
            paused, fill = len(self._commands.paused()), self._journal.fill_ratio()
        except JournalError:
            yield "journal_writable", {}, 0.0
            return
        for state in ("waiting", "running", "held"):
            yield "queue_runs", {"state": state}, counts[state]
        yield "queue_oldest_due_seconds", {}, oldest
        yield "paused", {}, paused
        yield "journal_writable", {}, float(self._journal.write_error() is None)
        yield "journal_fill_ratio", {}, fill

    def _events(self) -> Reply:
        events = [
            {
                "received": format_time(int(one.received * 1e9)),
                "ended": one.result,
                "suppressed": dict(one.suppressed),
                "alert": one.alert,
            }
            for one in self._recent.all()
        ]
        return json_reply(200, {"digest": self._active().set.digest, "events": events})

    def _oldest_due(self) -> float:
        """Return how many seconds the run due first has waited for a worker, 0 if no run waits."""
        now = self._commands.now()
        dues = [self._journal.next_due(pool) for pool in get_args(Pool)]
        return max([0.0, *(round(now - due, 3) for due in dues if due is not None)])


def _limit(text: str) -> int:
    """Return the number of rows. Raises OperatorCommandError (400)."""
    if _LIMIT.fullmatch(text) and 1 <= int(text) <= MAX_ROWS:
        return int(text)
    raise OperatorCommandError(
        f"`limit` is not a number from 1 to {MAX_ROWS}: `{text[:40]}`", 400, "limit=100"
    )


def _state(text: str | None) -> str | None:
    """Return the state of a run. Raises OperatorCommandError (400)."""
    if text is None or text in STATES:
        return text
    raise OperatorCommandError(
        f"`state` is not a state of a run: `{text[:40]}`", 400, ", ".join(STATES)
    )


def _name(query: Mapping[str, str], key: str) -> str | None:
    """Return the name of a playbook or namespace. Raises OperatorCommandError (400)."""
    name = query.get(key)
    if name is None or _NAME.fullmatch(name):
        return name
    what = f"`{key}` is not a name: `{name[:40]}`"
    raise OperatorCommandError(what, 400, "a name has 1 to 63 of a-z, 0-9 and -")


def _labels(playbook: Playbook) -> dict[str, str]:
    """Return name and mode of a playbook, and its own labels.

    Own labels are called ``label_…``. Characters that Prometheus does not allow become ``_``.
    """
    own = {
        f"label_{_NOT_IN_LABEL_NAME.sub('_', name)}": value
        for name, value in playbook.labels.items()
    }
    return {"playbook": playbook.name, "mode": playbook.mode, **own}


def _read_texts(content: Mapping[str, Any], *keys: str) -> dict[str, str | None]:
    """Return the strings of a body by key, None for an absent key. Raises OperatorCommandError (400)."""
    unknown = content.keys() - set(keys)
    if unknown or not all(isinstance(value, str | None) for value in content.values()):
        allowed = " and ".join(f"`{key}`" for key in keys)
        raise OperatorCommandError(f"the body may have {allowed}, each a text", 400)
    return {key: content.get(key) for key in keys}
