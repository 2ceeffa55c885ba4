"""What the admin port shows and does, once it is known who asks."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol, get_args

from engine.journal.protocol import History, Maintenance, Queue, RunFilter, State
from engine.language import duration
from engine.language.findings import nearest
from engine.model.errors import JournalError
from engine.model.event import format_time, parse_time
from engine.model.playbook import ALL_PLAYBOOKS, Mode, Pool
from engine.render.run_json import (
    dead_letter_json,
    dropped_runs_json,
    pause_json,
    record_json,
    summary_json,
)
from engine.server.operator_commands import OperatorCommandError, Who

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from engine.intake.recent_events import RecentEvents
    from engine.model.playbook import Playbook
    from engine.runtime.reload import Reloader
    from engine.server.operator_commands import OperatorCommands
    from engine.telemetry.metrics import Series

Answer = tuple[int, Any]
MOST = 1_000
"""Runs that one answer lists."""
STATES = ("waiting", "running", "held", "done", "planned", "skipped", "refused", "failed")
_FILTERS = {"playbook", "namespace", "since", "state", "limit"}
_UNFIT = re.compile(r"[^a-zA-Z0-9_]")
_LIMIT = re.compile(r"[0-9]{1,6}")
_NAME = re.compile(r"[a-z0-9-]{1,63}")
_ACT = re.compile(r"/runs/([^/]*)/(approve|deny|retry|undo)")


class AdminJournal(Queue, History, State, Maintenance, Protocol):
    """The parts of the journal that the admin API uses."""


class AdminApi:
    """The answers. metrics: in the exposition format. about: version, mode, cluster and sources."""

    def __init__(
        self,
        journal: AdminJournal,
        operations: OperatorCommands,
        reloader: Reloader,
        recent: RecentEvents,
        metrics: Callable[[], bytes],
        about: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._journal, self._operations, self._reloader = journal, operations, reloader
        self._recent, self._metrics, self._about = recent, metrics, about
        self._pages: dict[str, Callable[[], Answer]] = {
            "/status": self._status,
            "/events/recent": self._events,
            "/metrics": lambda: (200, self._metrics()),
        }

    def ready(self) -> Answer:
        """Whether events can be taken."""
        fault = self._journal.write_error()
        return (503, {"error": fault}) if fault else (200, {"status": "ok"})

    def read(self, path: str, query: Mapping[str, str]) -> Answer:
        """What a GET is answered. Raises OperateError, JournalError."""
        if path in self._pages:
            return self._pages[path]()
        if path == "/runs":
            wanted = self._wanted(query)
            runs = [summary_json(record) for record in self._journal.runs(wanted)]
            # what was dropped is nobody's run, so that a filter of runs leaves it out
            every = wanted.state is None and wanted.namespace is None
            drops = self._journal.dropped_runs(wanted) if every else []
            if wanted.playbook is not None and not runs and not drops:
                self._operations.check_playbook(wanted.playbook)
            return 200, {"runs": runs, "drops": [dropped_runs_json(drop) for drop in drops]}
        if path == "/dead":
            since = self._wanted(query, {"since"}).since or 0.0
            letters = [one for one in self._journal.dead_letters(MOST) if one.received >= since]
            return 200, {"dead": [dead_letter_json(one) for one in letters]}
        if path.startswith("/runs/"):
            return 200, record_json(self._operations.find(path.removeprefix("/runs/")))
        hint = "/status /metrics /runs /runs/ID /dead /events/recent"
        return 404, {"error": f"nothing at {path[:100]}", "hint": hint}

    def act(self, path: str, given: Mapping[str, Any], by: str) -> Answer:
        """What a POST does. by: who sent it. Raises OperateError, JournalError."""
        operations = self._operations
        if path in ("/pause", "/resume"):
            lasts = ("for",) if path == "/pause" else ()
            texts = _texts(given, "playbook", "reason", *lasts)
            playbook, who = texts["playbook"], Who(by, texts["reason"] or "")
            if path == "/resume":
                return 200, {"paused": operations.resume(playbook, who)}
            return 200, {"paused": operations.pause(playbook, who, texts["for"])}
        found = _ACT.fullmatch(path)
        if not found:
            hint = "/runs/ID/approve /runs/ID/deny /runs/ID/retry /runs/ID/undo /pause /resume"
            return 404, {"error": f"nothing to do at {path[:100]}", "hint": hint}
        run, act = found.groups()
        texts = _texts(given, "reason", *(("from",) if act == "retry" else ()))
        who = Who(by, texts["reason"] or "")
        if act == "retry":
            again = operations.retry(run, texts["from"], who)
            return 200, {"run": again, **self._waits(again)}
        if act == "undo":
            id_, steps = operations.undo(run, who)
            return 200, {"run": id_, "steps": steps}
        return 200, {"run": operations.decide(run, act, who)}

    def _waits(self, run: str) -> dict[str, str]:
        """A note where a run that goes on will not before a pause ends."""
        paused = set(self._operations.paused()) & {
            ALL_PLAYBOOKS,
            self._operations.find(run).run.playbook.name,
        }
        which = "" if ALL_PLAYBOOKS in paused else f" --playbook {min(paused, default='')}"
        said = f"it waits for the pause to end: tiercel resume{which}"
        return {"note": said} if paused else {}

    def _wanted(self, query: Mapping[str, str], filters: Collection[str] = _FILTERS) -> RunFilter:
        """The filters of a query. Raises OperateError with status 400."""
        for name in sorted(query.keys() - set(filters)):
            hint = nearest(name, filters)
            raise OperatorCommandError(
                f"`{name[:40]}` is not a filter",
                400,
                f"is `{hint}` meant?" if hint else ", ".join(sorted(filters)),
            )
        return RunFilter(
            _name(query, "playbook"),
            _name(query, "namespace"),
            self._since(query.get("since")),
            _state(query.get("state")),
            _limit(query.get("limit", "100")),
        )

    def _since(self, text: str | None) -> float | None:
        """Epoch seconds of ``30m`` ago, or of an RFC 3339 time."""
        if text is None:
            return None
        ago = duration.seconds(text)
        if ago is not None:
            return self._operations.now() - ago
        try:
            return parse_time(text) / 1e9
        except ValueError:
            what = f"`since` is not a duration or a time: `{text[:40]}`"
            raise OperatorCommandError(what, 400, "like 30m, 2d or 2026-03-01T10:00:00Z") from None

    def _status(self) -> Answer:
        active = self._reloader.active
        counts, pauses = self._journal.counts(), self._journal.paused()
        files = [
            {"path": path, "blob": blob, "playbooks": names}
            for path, (blob, names) in sorted(active.set.sources.items())
        ]
        playbooks = {
            "digest": active.set.digest,
            "loadedAt": format_time(int(active.loaded_at) * 1_000_000_000),
            "files": files,
            "error": active.error,
        }
        queue = {
            "waiting": counts["waiting"],
            "running": counts["running"],
            "held": counts["held"],
            "oldestDueSeconds": self._oldest_due(),
        }
        return 200, {
            **self._about(),
            "paused": sorted(pauses),
            "pauses": [pause_json(name, one) for name, one in sorted(pauses.items())],
            "modes": {one.name: one.mode for one in active.set.playbooks if one.mode != "enforce"},
            "playbooks": playbooks,
            "queue": queue,
            "journal": {"error": self._journal.write_error()},
        }

    def series(self) -> Iterator[Series]:
        """What a scrape asks of the set in force, the sources and the journal."""
        playbooks, about = self._reloader.active.set.playbooks, self._about()
        modes = Counter(playbook.mode for playbook in playbooks)
        for mode in get_args(Mode):
            yield "playbooks", {"mode": mode}, modes[mode]
        for playbook in playbooks:
            yield "playbook_info", _labels(playbook), 1.0
        yield "dry_run", {}, float(about["mode"] == "dry-run")
        for source in about.get("sources", ()):
            yield "source_connected", {"kind": source["kind"]}, float(source["error"] is None)
        try:
            counts, oldest = self._journal.counts(), self._oldest_due()
            paused, fill = len(self._operations.paused()), self._journal.fill_ratio()
        except JournalError:
            yield "journal_writable", {}, 0.0
            return
        for state in ("waiting", "running", "held"):
            yield "queue_runs", {"state": state}, counts[state]
        yield "queue_oldest_due_seconds", {}, oldest
        yield "paused", {}, paused
        yield "journal_writable", {}, float(self._journal.write_error() is None)
        yield "journal_fill_ratio", {}, fill

    def _events(self) -> Answer:
        events = [
            {
                "received": format_time(int(got.received * 1e9)),
                "ended": got.result,
                "suppressed": dict(got.suppressed),
                "alert": got.alert,
            }
            for got in self._recent.all()
        ]
        return 200, {"digest": self._reloader.active.set.digest, "events": events}

    def _oldest_due(self) -> float:
        """Seconds for which the earliest due run has waited for a worker; 0 where none waits."""
        now = self._operations.now()
        dues = [self._journal.next_due(pool) for pool in get_args(Pool)]
        return max([0.0, *(round(now - due, 3) for due in dues if due is not None)])


def _limit(text: str) -> int:
    """A number of rows. Raises OperateError with status 400."""
    if _LIMIT.fullmatch(text) and 1 <= int(text) <= MOST:
        return int(text)
    raise OperatorCommandError(
        f"`limit` is not a number from 1 to {MOST}: `{text[:40]}`", 400, "limit=100"
    )


def _state(text: str | None) -> str | None:
    """The state of a run. Raises OperateError with status 400."""
    if text is None or text in STATES:
        return text
    raise OperatorCommandError(
        f"`state` is not a state of a run: `{text[:40]}`", 400, ", ".join(STATES)
    )


def _name(query: Mapping[str, str], key: str) -> str | None:
    """The name of a playbook or namespace. Raises OperateError with status 400."""
    name = query.get(key)
    if name is None or _NAME.fullmatch(name):
        return name
    what = f"`{key}` is not a name: `{name[:40]}`"
    raise OperatorCommandError(what, 400, "a name has 1 to 63 of a-z, 0-9 and -")


def _labels(playbook: Playbook) -> dict[str, str]:
    """A playbook's name, mode and own labels, these called ``label_…`` in the letters that Prometheus takes."""
    own = {f"label_{_UNFIT.sub('_', name)}": value for name, value in playbook.labels.items()}
    return {"playbook": playbook.name, "mode": playbook.mode, **own}


def _texts(given: Mapping[str, Any], *keys: str) -> dict[str, str | None]:
    """The texts of the body by key, None where a key is absent. Raises OperateError."""
    unknown = given.keys() - set(keys)
    if unknown or not all(isinstance(value, str | None) for value in given.values()):
        may = " and ".join(f"`{key}`" for key in keys)
        raise OperatorCommandError(f"the body may have {may}, each a text", 400)
    return {key: given.get(key) for key in keys}
