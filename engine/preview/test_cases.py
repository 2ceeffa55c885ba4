"""PlaybookTests: events, and what the playbooks must plan for them. They run in the preview."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.actions.registry import load_actions
from engine.cluster.objects import InvalidObjectError, iter_objects
from engine.language.compile import check_document, kind_of
from engine.language.findings import TooManyFindingsError, nearest
from engine.language.folder import VALUES, FolderError
from engine.language.loader import Loader
from engine.language.value_checks import STEPS
from engine.language.yaml_source import read
from engine.model.calls import call_json
from engine.model.errors import EventError, Finding
from engine.model.event import parse_event
from engine.model.event_formats import read_events

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.language.findings import Findings
    from engine.language.folder import Files
    from engine.language.loader import PlaybookSet
    from engine.language.yaml_source import Document
    from engine.model.errors import Location
    from engine.model.event import Event
    from engine.model.own_identity import OwnIdentity
    from engine.model.run import StepResult
    from engine.preview.preview import PreviewedRun

_ACTS = ("planned", "done")
"""States of a step that acts: planned by the preview, or done because the case assumes it."""


class Case(msgspec.Struct, frozen=True):
    """A case of a PlaybookTest.

    Attributes:
        found: the playbook set with the test's values.
        playbooks: names of the tested playbooks, None for all.
        cluster: the objects that exist, None to assume the pods that the events name.
        outcomes: step -> assumed state, or ``{answer: …}``.

    """

    test: str
    name: str
    where: Location
    events: tuple[Event, ...]
    expect: Mapping[str, Any]
    found: PlaybookSet
    playbooks: frozenset[str] | None = None
    cluster: tuple[dict[str, Any], ...] | None = None
    outcomes: Mapping[str, Any] = msgspec.field(default_factory=dict)


class StepReport(msgspec.Struct, frozen=True):
    """The outcome of a step in a case, or a suppressed run, whose ``step`` is empty.

    expected: the states that the case accepts for the step; empty if the case does not name it.
    """

    playbook: str
    step: str
    state: str
    message: str
    expected: str = ""


class CaseResult(msgspec.Struct, frozen=True):
    """The result of a case. differences: between expected and actual values; empty if it passed."""

    case: Case
    differences: tuple[str, ...]
    seen: tuple[StepReport, ...] = ()

    @property
    def planned(self) -> tuple[tuple[str, str], ...]:
        """Playbook and step of all steps that were planned."""
        return tuple((one.playbook, one.step) for one in self.seen if one.state in _ACTS)


def read_cases(files: Files, found: PlaybookSet) -> tuple[list[Case], list[Finding]]:
    """Return the cases of a folder's PlaybookTests, and the findings in them. found: the playbook set."""
    cases: list[Case] = []
    findings: list[Finding] = []
    if not found.tests:
        return cases, findings
    # The loader knows the names of all playbooks except those with errors.
    with_errors = {finding.where.file for finding in found.errors}
    parsed = {
        path: found.tests.get(path) or read(files.files[path], files.shown(path))
        for path in sorted(files.files.keys() - {VALUES})
        if path in found.tests or files.shown(path) in with_errors
    }
    # If a playbook has errors, they are reported, and not that its tests do not find it.
    written = {
        _name(document)
        for documents, _ in parsed.values()
        for document in documents
        if kind_of(document) in (None, "Playbook")
    }
    names = sorted({playbook.name for playbook in found.playbooks} | written - {""})
    sets = _Sets(files, found)
    first: dict[str, Location] = {}
    for path, (documents, yaml_findings) in parsed.items():
        tests = [document for document in documents if kind_of(document) == "PlaybookTest"]
        if tests and len(tests) == len(documents):
            findings += yaml_findings  # otherwise the loader reports them
        for document in tests:
            try:
                checked, reported = check_document(document, {}, yaml_findings)
                _check_name(checked, reported, first)
                if not reported.has_errors:
                    cases += _Reader(checked, reported, sets, path, names).cases()
            except TooManyFindingsError as error:
                findings += error.entries
            else:
                findings += reported.entries
    return cases, findings


def _name(document: Document) -> str:
    """Return ``metadata.name`` of a document, or ""."""
    metadata = document.data.get("metadata") if isinstance(document.data, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def _check_name(document: Document, findings: Findings, first: dict[str, Location]) -> None:
    name = _name(document)
    where = document.at(("metadata", "name"))
    if name and first.setdefault(name, where) is not where:
        what = f"another PlaybookTest is called `{name[:80]}`"
        findings.add(("metadata", "name"), "duplicate-name", what, f"see {first[name]}")


def run_case(case: Case, own: OwnIdentity) -> CaseResult:
    """Plan the events of a case and compare the result with what it expects. Budgets start empty."""
    # `check` reads the cases without running them, and these imports take a third of its time
    from engine.cluster.simulated import StaticCluster  # noqa: PLC0415
    from engine.execution.guardrails import GuardrailChecker  # noqa: PLC0415
    from engine.planning.matcher import PlaybookIndex  # noqa: PLC0415
    from engine.planning.planner import PlanningMemory  # noqa: PLC0415
    from engine.preview.preview import PreviewContext, preview  # noqa: PLC0415

    found = case.found
    tested = [p for p in found.playbooks if case.playbooks is None or p.name in case.playbooks]
    index, memory, checker = (
        PlaybookIndex(tested, found.silences),
        PlanningMemory(),
        GuardrailChecker(found.guardrails, own),
    )
    cluster = None if case.cluster is None else StaticCluster(case.cluster)
    world = PreviewContext(cluster, outcomes=case.outcomes)
    runs = [run for event in case.events for run in preview(event, index, memory, checker, world)]
    return CaseResult(case, tuple(_differences(case.expect, runs)), tuple(_seen(case.expect, runs)))


class _Sets(msgspec.Struct):
    """The files of a folder, their playbook set, and the sets with other values."""

    files: Files
    found: PlaybookSet
    loaded: dict[str, PlaybookSet] = msgspec.field(default_factory=dict)

    def of(self, values: Mapping[str, Any]) -> PlaybookSet:
        """Return the set with these values merged over ``values.yaml``."""
        key = repr(values)
        if key not in self.loaded:
            self.loaded[key] = (
                Loader(load_actions()).load(self.files, overlay=values) if values else self.found
            )
        return self.loaded[key]


class _Reader:
    """Reads the cases of a PlaybookTest whose structure is valid."""

    def __init__(
        self, document: Document, findings: Findings, sets: _Sets, path: str, names: list[str]
    ) -> None:
        self._document, self._findings = document, findings
        self._files, self._sets, self._path, self._names = sets.files, sets, path, names

    def cases(self) -> Iterator[Case]:
        """Yield the cases. Add findings for events, names and objects that are not valid."""
        spec = self._document.data["spec"]
        test = _name(self._document)
        for n, name in enumerate(spec.get("playbooks", [])):
            if name not in self._names:
                what, hint = f"no playbook is called `{name[:80]}`", nearest(name, self._names)
                self._findings.add(("spec", "playbooks", n), "bad-value", what, hint)
        cluster, found = self._cluster(spec), self._found(spec)
        named = frozenset(spec["playbooks"]) if "playbooks" in spec else None
        steps = [
            s.name for p in found.playbooks if named is None or p.name in named for s in p.steps
        ]
        for n, item in enumerate(spec["cases"]):
            events, outcomes = tuple(self._events(item, n)), item.get("outcomes", {})
            for step in outcomes.keys() - set(steps):
                at = ("spec", "cases", n, "outcomes", step)
                what = f"no step of the tested playbooks is called `{str(step)[:80]}`"
                self._findings.add(at, "bad-value", what, nearest(str(step), steps), key=True)
            yield Case(
                test=test,
                name=item["name"],
                where=self._document.at(("spec", "cases", n)),
                events=events,
                expect=item["expect"],
                found=found,
                playbooks=named,
                cluster=cluster,
                outcomes=outcomes,
            )

    def _found(self, spec: dict[str, Any]) -> PlaybookSet:
        """Return the set with the values of the test."""
        found = self._sets.of(spec.get("values", {}))
        if "values" in spec and found.errors and not self._sets.found.errors:
            what = f"with these values the playbooks are not valid: {found.errors[0]}"
            self._findings.add(("spec", "values"), "bad-value", what)
        return found

    def _cluster(self, spec: dict[str, Any]) -> tuple[dict[str, Any], ...] | None:
        if "cluster" not in spec:
            return None
        try:
            return tuple(iter_objects(spec["cluster"]))
        except InvalidObjectError as error:
            self._findings.add(("spec", "cluster", *error.path), "bad-value", str(error))
            return ()

    def _events(self, item: dict[str, Any], number: int) -> Iterator[Event]:
        path = ("spec", "cases", number)
        if "eventFile" in item:
            name, where = str(item["eventFile"]), (*path, "eventFile")
            before, events = len(self._findings.entries), list(self._from_file(name, where))
            if not events and len(self._findings.entries) == before:
                self._findings.add(
                    where, "bad-value", f"{name} contains no event, so the case cannot fail"
                )
            yield from events
            return
        given = [item["event"]] if "event" in item else item["events"]
        for n, value in enumerate(given):
            at = (*path, "event") if "event" in item else (*path, "events", n)
            try:
                yield parse_event(value, salt=f"event {n}")
            except EventError as error:
                self._findings.add(at, "bad-value", f"not an event: {error}", error.hint)

    def _from_file(self, name: str, where: tuple[str | int, ...]) -> Iterator[Event]:
        """Yield the events of an ``eventFile``. name: relative to the file of the test."""
        try:
            content = self._files.beside(self._path, name)
        except FolderError as error:
            self._findings.add(where, "bad-value", f"{name}: {error}")
            return
        for read_one in read_events(content):
            if read_one.event is None:
                self._findings.add(where, "bad-value", f"{name}:{read_one.line}: {read_one.error}")
            else:
                yield read_one.event


def _differences(expect: Mapping[str, Any], runs: Sequence[PreviewedRun]) -> Iterator[str]:
    steps = [(run, result) for run in runs for result in run.results]
    for key in STEPS:
        if key in expect:
            got = [result.step for run, result in steps if _belongs(key, run, result)]
            if got != expect[key]:
                yield f"{key}: expected {_names(expect[key])}, planned {_names(got)}"
    planned = [result for _, result in steps if result.state in _ACTS]
    if expect.get("nothing") and planned:
        yield f"nothing was expected, planned {_names([result.step for result in planned])}"
    yield from _call_differences(expect, [call_json(c) for r in planned for c in r.calls])


def _call_differences(expect: Mapping[str, Any], calls: list[dict[str, Any]]) -> Iterator[str]:
    wanted = expect.get("calls", [])
    for want in wanted:
        if not any(covers(call, want) for call in calls):
            near = min(calls, key=lambda call: len(list(call_gaps(call, want))), default=None)
            yield f"no call is {want}"
            if near is not None:
                yield from (
                    f"  nearest {near['verb']} {near['resource']}: {gap}"
                    for gap in call_gaps(near, want)
                )
    if expect.get("onlyCalls"):
        extra = [call for call in calls if not any(covers(call, want) for want in wanted)]
        for call in extra:
            yield f"unexpected call {call['verb']} {call['resource']}/{call['name']}"


def covers(call: Any, want: Any) -> bool:
    """Return whether the call has all values of ``want``."""
    return next(call_gaps(call, want), None) is None


def call_gaps(call: Any, want: Any) -> Iterator[str]:
    """Yield a line for each value of ``want`` that the call does not have. Other keys are ignored."""
    return gaps(call, want) if want else iter(())


def gaps(got: Any, want: Any, path: str = "") -> Iterator[str]:
    """Yield a line for each value of ``want`` that ``got`` does not have.

    Each item of a list in ``want`` must be in the list of ``got``. An empty list or mapping must be empty.
    """
    if isinstance(want, (dict, list)) and not want:
        if got != want:
            yield f"{path} is {got!r}, expected {want!r}"
    elif isinstance(want, dict) and isinstance(got, dict):
        for key, inner in want.items():
            if key not in got:
                yield f"{path}.{key} is absent, expected {inner!r}"
            else:
                yield from gaps(got[key], inner, f"{path}.{key}")
    elif isinstance(want, list) and isinstance(got, list):
        for inner in want:
            if not any(next(gaps(item, inner), None) is None for item in got):
                yield f"{path} has no {inner!r}"
    elif type(got) is not type(want) or got != want:
        yield f"{path} is {got!r}, expected {want!r}"


def _belongs(key: str, run: PreviewedRun, result: StepResult) -> bool:
    if key in ("actions", "finally"):
        phase = next(step.phase for step in run.run.steps if step.name == result.step)
        return result.state in _ACTS and phase == key
    return result.state == key


def _seen(expect: Mapping[str, Any], runs: Sequence[PreviewedRun]) -> Iterator[StepReport]:
    """Yield the steps with what the case expects of them, and the suppressed runs."""
    for run in runs:
        playbook = run.run.playbook.name
        if run.suppressed is not None:
            yield StepReport(playbook, "", "suppressed", run.suppressed)
        phases = {step.name: step.phase for step in run.run.steps}
        for result in run.results:
            keys = ("refused", "held", "skipped", phases[result.step])
            named = [key for key in keys if result.step in expect.get(key, ())]
            wanted = " or ".join("planned" if key in phases.values() else key for key in named)
            unwanted = expect.get("nothing") or phases[result.step] in expect
            expected = wanted or ("not planned" if unwanted else "")
            yield StepReport(playbook, result.step, result.state, result.message, expected)


def _names(names: Sequence[str]) -> str:
    return f"[{', '.join(names)}]"
