"""PlaybookTests: events, and what the playbooks must plan about them; run through the one preview."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.alerts import read_alerts
from engine.errors import EventError, Finding
from engine.event import parse
from engine.language.compile import check_document, kind_of
from engine.language.folder import VALUES, FolderError
from engine.language.report import TooManyMistakesError, nearest
from engine.language.source import read
from engine.match import Playbooks
from engine.plan import Memory
from engine.ports.given import GivenCluster
from engine.ports.objects import GivenError, objects_of
from engine.render.plan_json import call_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.errors import Location
    from engine.event import Event
    from engine.guard import Guard
    from engine.language.folder import Files
    from engine.language.load import PlaybookSet
    from engine.language.report import Findings
    from engine.language.source import Document
    from engine.playbook import Playbook
    from engine.preview import PreviewedRun
    from engine.run import Result

LISTS = ("actions", "finally", "refused", "held", "skipped")
"""Keys of ``expect`` that name steps: exactly these, in this order."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a PlaybookTest. playbooks: the names tested, None for all. cluster: None assumes."""

    test: str
    name: str
    where: Location
    events: tuple[Event, ...]
    expect: Mapping[str, Any]
    playbooks: frozenset[str] | None = None
    cluster: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a case went: what differs from what was expected (nothing: it holds), and what was planned."""

    case: Case
    differences: tuple[str, ...]
    planned: tuple[tuple[str, str], ...] = field(default=())


def read_cases(files: Files, playbooks: Sequence[Playbook]) -> tuple[list[Case], list[Finding]]:
    """The cases of a folder's PlaybookTests, and what is wrong with them."""
    cases: list[Case] = []
    findings: list[Finding] = []
    paths = sorted(files.files.keys() - {VALUES})
    if not any(b"PlaybookTest" in files.files[path] for path in paths):
        return cases, findings  # and nothing is read a second time
    texts = {path: read(files.files[path], files.shown(path)) for path in paths}
    # of a playbook that is wrong its own mistakes are told, and not that its tests lack it
    written = {
        _name(document)
        for documents, _ in texts.values()
        for document in documents
        if kind_of(document) in (None, "Playbook")
    }
    names = sorted({playbook.name for playbook in playbooks} | written - {""})
    first: dict[str, Location] = {}
    for path, (documents, told) in texts.items():
        tests = [document for document in documents if kind_of(document) == "PlaybookTest"]
        if tests and len(tests) == len(documents):
            findings += told  # of a file that also holds playbooks, the loader tells
        for document in tests:
            try:
                checked, report = check_document(document, {}, told)
                _check_name(checked, report, first)
                if not report.failed:
                    cases += _Reader(checked, report, files, path, names).cases()
            except TooManyMistakesError as error:
                findings += error.found
            else:
                findings += report.found
    return cases, findings


def _name(document: Document) -> str:
    """The name as it is written, or nothing."""
    metadata = document.data.get("metadata") if isinstance(document.data, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def _check_name(document: Document, report: Findings, first: dict[str, Location]) -> None:
    name = _name(document)
    where = document.at(("metadata", "name"))
    if name and first.setdefault(name, where) is not where:
        what = f"another PlaybookTest is called `{name[:80]}`"
        report(("metadata", "name"), "duplicate-name", what, f"see {first[name]}")


def run_case(case: Case, found: PlaybookSet, guard: Guard) -> Verdict:
    """What the set plans about the case's events, with nothing spent yet, held against what it expects."""
    from engine.preview import World, preview  # noqa: PLC0415 - 90 ms that `check` does not need

    tested = [p for p in found.playbooks if case.playbooks is None or p.name in case.playbooks]
    index, memory, guard = Playbooks(tested, found.silences), Memory(), guard.fresh()
    world = World(None if case.cluster is None else GivenCluster(case.cluster))
    runs = [run for event in case.events for run in preview(event, index, memory, guard, world)]
    return Verdict(case, tuple(_differences(case.expect, runs)), tuple(_planned(runs)))


class _Reader:
    """Makes cases of one document whose frame is right."""

    def __init__(
        self, document: Document, report: Findings, files: Files, path: str, names: list[str]
    ) -> None:
        self._document, self._report = document, report
        self._files, self._path, self._names = files, path, names

    def cases(self) -> Iterator[Case]:
        """The cases; one with a broken event is reported and left out."""
        spec = self._document.data["spec"]
        test = _name(self._document)
        for n, name in enumerate(spec.get("playbooks", [])):
            if name not in self._names:
                what, hint = f"no playbook is called `{name[:80]}`", nearest(name, self._names)
                self._report(("spec", "playbooks", n), "bad-value", what, hint)
        cluster = self._cluster(spec)
        for n, item in enumerate(spec["cases"]):
            events = tuple(self._events(item, n))
            named = frozenset(spec["playbooks"]) if "playbooks" in spec else None
            where = self._document.at(("spec", "cases", n))
            yield Case(test, item["name"], where, events, item["expect"], named, cluster)

    def _cluster(self, spec: dict[str, Any]) -> tuple[dict[str, Any], ...] | None:
        if "cluster" not in spec:
            return None
        try:
            return tuple(objects_of(spec["cluster"]))
        except GivenError as error:
            self._report(("spec", "cluster", *error.path), "bad-value", str(error))
            return ()

    def _events(self, item: dict[str, Any], number: int) -> Iterator[Event]:
        path = ("spec", "cases", number)
        if "eventFile" in item:
            yield from self._from_file(str(item["eventFile"]), (*path, "eventFile"))
            return
        given = [item["event"]] if "event" in item else item["events"]
        for n, value in enumerate(given):
            where = (*path, "event") if "event" in item else (*path, "events", n)
            try:
                yield parse(value, salt=f"event {n}")
            except EventError as error:
                self._report(where, "bad-value", f"no event: {error}", error.hint)

    def _from_file(self, name: str, where: tuple[str | int, ...]) -> Iterator[Event]:
        """Relative to the test's file; read from disk, for events are not playbook files."""
        try:
            content = self._files.beside(self._path, name)
        except FolderError as error:
            self._report(where, "bad-value", f"{name}: {error}")
            return
        for alert in read_alerts(content):
            if alert.event is None:
                self._report(where, "bad-value", f"{name}:{alert.line}: {alert.error}")
            else:
                yield alert.event


def _differences(expect: Mapping[str, Any], runs: Sequence[PreviewedRun]) -> Iterator[str]:
    steps = [(run, result) for run in runs for result in run.results]
    for key in LISTS:
        if key in expect:
            got = [result.step for run, result in steps if _belongs(key, run, result)]
            if got != expect[key]:
                yield f"{key}: expected {_names(expect[key])}, planned {_names(got)}"
    planned = [result for _, result in steps if result.state == "planned"]
    if expect.get("nothing") and planned:
        yield f"nothing was expected, planned {_names([result.step for result in planned])}"
    yield from _call_differences(expect, [call_json(c) for r in planned for c in r.calls])


def _call_differences(expect: Mapping[str, Any], calls: list[dict[str, Any]]) -> Iterator[str]:
    wanted = expect.get("calls", [])
    for want in wanted:
        if not any(covers(call, want) for call in calls):
            near = min(calls, key=lambda call: len(list(gaps(call, want))), default=None)
            yield f"no call is {want}"
            if near is not None:
                yield from (
                    f"  nearest {near['verb']} {near['resource']}: {gap}"
                    for gap in gaps(near, want)
                )
    if expect.get("onlyCalls"):
        extra = [call for call in calls if not any(covers(call, want) for want in wanted)]
        for call in extra:
            yield f"unexpected call {call['verb']} {call['resource']}/{call['name']}"


def covers(got: Any, want: Any) -> bool:
    """Whether ``got`` has all that ``want`` gives; of a list, each wanted item must be found."""
    return next(gaps(got, want), None) is None


def gaps(got: Any, want: Any, path: str = "") -> Iterator[str]:
    """Where ``got`` lacks what ``want`` gives, a line each."""
    if isinstance(want, dict) and isinstance(got, dict):
        for key, inner in want.items():
            if key not in got:
                yield f"{path}.{key} is absent, expected {inner!r}"
            else:
                yield from gaps(got[key], inner, f"{path}.{key}")
    elif isinstance(want, list) and isinstance(got, list):
        for inner in want:
            if not any(covers(item, inner) for item in got):
                yield f"{path} has no {inner!r}"
    elif type(got) is not type(want) or got != want:
        yield f"{path} is {got!r}, expected {want!r}"


def _belongs(key: str, run: PreviewedRun, result: Result) -> bool:
    if key in ("actions", "finally"):
        phase = next(step.phase for step in run.run.steps if step.name == result.step)
        return result.state == "planned" and phase == key
    return result.state == key


def _planned(runs: Sequence[PreviewedRun]) -> Iterator[tuple[str, str]]:
    """Playbook and step of all that was planned."""
    for run in runs:
        for result in run.results:
            if result.state == "planned":
                yield run.run.playbook.name, result.step


def _names(names: Sequence[str]) -> str:
    return f"[{', '.join(names)}]"
