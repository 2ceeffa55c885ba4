"""One document -> what it says, compiled; every mistake reported at its place."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import msgspec

from engine.actions.registry import load_actions
from engine.language import duration
from engine.language.conditions import (
    compile_condition,
    compile_conditions,
    compile_step_condition,
)
from engine.language.findings import Findings, nearest
from engine.language.schema import API_VERSION, KINDS
from engine.language.structure import check_shape
from engine.language.substitution import put_in
from engine.language.value_checks import MAX_STEPS
from engine.language.yaml_source import Document
from engine.model.errors import PlaybookError
from engine.model.event import parse_priority, parse_time
from engine.model.playbook import (
    Condition,
    Match,
    Playbook,
    Retry,
    Silence,
    Step,
    StepCondition,
    Throttle,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.registry import Action
    from engine.language.findings import Report
    from engine.language.yaml_source import Path
    from engine.model.errors import Finding
    from engine.model.playbook import Phase

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_STEP_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_SLOW_EFFECTS = ("notify", "observe")


def kind_of(document: Document) -> str | None:
    """The document's kind, where it is one of ours."""
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    return kind if isinstance(kind, str) and kind in KINDS else None


def check_document(
    document: Document, values: Mapping[str, Any], told: list[Finding]
) -> tuple[Document, Findings]:
    """The document with values put in, and what is wrong with its frame.

    told: what is wrong with the file as YAML; it is not told again. Cases of a PlaybookTest hold events,
    so values are not put into them.
    """
    report = Findings(document, told)
    data, kind = document.data, kind_of(document)
    if not isinstance(data, dict):
        report((), "wrong-type", "a document is a mapping", f"apiVersion: {API_VERSION}")
        return document, report
    if kind is None:
        _check_envelope(data, report)
        return document, report
    if kind != "PlaybookTest":
        data = put_in(data, values, (), report)
        if data is None:
            return Document(document.file, {}), report
        # what stands at the place of a missing value is not wrong once more
        report = _after(report, document, told)
    checked = Document(document.file, data, document.values, document.keys)
    check_shape(data, kind, report)
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if isinstance(name, str) and not _NAME.fullmatch(name):
        what = f"`{name[:80]}` is no name: lower-case letters, digits and -, at most 63"
        report(("metadata", "name"), "bad-value", what, "a DNS-1123 label")
    return checked, report


def _after(report: Findings, document: Document, told: list[Finding]) -> Findings:
    again = Findings(document, [*told, *report.found])
    again.found += report.found
    again.muted = report.muted
    return again


def _check_envelope(data: dict[str, Any], report: Report) -> None:
    kind = data.get("kind")
    if kind is None:
        report((), "missing-key", "`kind` is missing", ", ".join(KINDS))
    else:
        hint = nearest(str(kind), KINDS) or ", ".join(KINDS)
        report(("kind",), "unknown-kind", f"`{str(kind)[:80]}` is no kind of document", hint)


def compile_playbook(document: Document, report: Findings, blob: str = "") -> Playbook | None:
    """The playbook; None where an error was reported. The document has been through check_document."""
    spec = document.data.get("spec")
    if not isinstance(spec, dict):
        return None
    conditions = _conditions(spec, ("spec",), report)
    steps = compile_steps(spec, report, ("actions", "finally"))
    if report.failed:
        return None
    data = document.data
    snapshot = msgspec.json.encode(data, order="deterministic")
    return Playbook(
        name=data["metadata"]["name"],
        match=_match(spec["match"]),
        steps=steps,
        conditions=conditions,
        mode=spec.get("mode", "enforce"),
        description=spec.get("description", ""),
        labels=data["metadata"].get("labels", {}),
        throttle=_throttle(spec.get("throttle")),
        snapshot=snapshot,
        digest=hashlib.sha256(snapshot).hexdigest(),
        blob=blob,
        where=document.at(("metadata", "name")),
    )


def compile_silence(document: Document, report: Findings) -> Silence | None:
    """The silence; None where an error was reported. The document has been through check_document."""
    data = document.data
    spec = data.get("spec")
    conditions = _conditions(spec, ("spec",), report) if isinstance(spec, dict) else ()
    if report.failed:
        return None
    return Silence(
        name=data["metadata"]["name"],
        match=_match(spec["match"]),
        until_ns=parse_time(spec["until"]),
        owner=spec["owner"],
        comment=spec["comment"],
        conditions=conditions,
        where=document.at(("spec", "until")),
    )


def playbook_from_snapshot(snapshot: bytes) -> Playbook:
    """A playbook made again from its snapshot, for a run that outlived the file.

    Raises PlaybookError where this version of the engine no longer understands it.
    """
    document = Document("journal", msgspec.json.decode(snapshot))
    report = Findings(document)
    playbook = compile_playbook(document, report)
    if playbook is None:
        raise PlaybookError(report.found)
    return playbook


def _conditions(spec: dict[str, Any], path: Path, report: Report) -> tuple[Condition, ...]:
    data = spec.get("conditions")
    if not isinstance(data, list):
        return ()
    return compile_conditions(data, (*path, "conditions"), report)


def _match(data: dict[str, Any]) -> Match:
    tags = data.get("tags")
    if isinstance(tags, list):
        tags = {"any": tags}
    named: dict[str, frozenset[str] | None] = {
        which: frozenset(tags[which]) if tags and which in tags else None
        for which in ("any", "all", "none")
    }
    return Match(
        rules=tuple(data["rules"]) if "rules" in data else None,
        priority=parse_priority(data["priority"]) if "priority" in data else None,
        sources=frozenset(data["sources"]) if "sources" in data else None,
        tags_any=named["any"],
        tags_all=named["all"],
        tags_none=named["none"],
        hostnames=tuple(data["hostnames"]) if "hostnames" in data else None,
    )


def _throttle(data: dict[str, Any] | None) -> Throttle | None:
    if data is None:
        return None
    return Throttle(
        text=msgspec.json.encode(data, order="deterministic").decode(),
        within=duration.seconds(data.get("once") or data.get("within")) or 0.0,
        first=1 if "once" in data else data.get("first"),
        count=data.get("count", 0),
        key=tuple(data["key"]) if "key" in data else None,
    )


def compile_steps(spec: dict[str, Any], report: Report, keys: tuple[str, ...]) -> tuple[Step, ...]:
    """The steps under the keys of the spec, in order."""
    found: list[tuple[Path, dict[str, Any], Phase]] = []
    for key in keys:
        data = spec.get(key)
        for n, item in enumerate(data[:MAX_STEPS] if isinstance(data, list) else []):
            if isinstance(item, dict) and isinstance(item.get("action"), str):
                found.append((("spec", key, n), item, "finally" if key == "finally" else "actions"))
    names: list[str] = []
    steps = []
    for path, item, phase in found:
        name = _name(item, path, names, report)
        steps.append(_step(item, name, phase, path, (tuple(names), report)))
        names.append(name)
    return tuple(step for step in steps if step)


def _name(item: dict[str, Any], path: Path, names: list[str], report: Report) -> str:
    name = item.get("name", item["action"])
    if not isinstance(name, str):
        return str(item["action"])  # told already
    where = (*path, "name") if "name" in item else (*path, "action")
    if name in names:
        report(where, "duplicate-name", f"two steps are called `{name}`", "give one a name")
    elif not _STEP_NAME.fullmatch(name):
        report(where, "bad-value", f"`{name[:80]}` is no name of a step", "letters, digits, . _ -")
    return name


def _step(
    item: dict[str, Any],
    name: str,
    phase: Phase,
    path: Path,
    so_far: tuple[tuple[str, ...], Report],
) -> Step | None:
    earlier, report = so_far
    action = load_actions().get(item["action"])
    when = _when(item.get("when"), (*path, "when"), earlier, report)
    if action is None:
        hint = nearest(item["action"], load_actions()) or "tiercel actions"
        report((*path, "action"), "unknown-action", f"`{item['action'][:80]}` is no action", hint)
        return None
    where = (*path, "with") if "with" in item else path
    parameters = action.compile(item.get("with"), where, report, earlier)
    effect = _effect(action, parameters)
    return Step(
        name=name,
        action=action.name,
        parameters=parameters,
        phase=phase,
        pool="slow" if action.effect in _SLOW_EFFECTS else "cluster",
        effect=effect,
        timeout=duration.seconds(item.get("timeout")) or 30.0,
        retry=_retry(item.get("retry")),
        on_failure="continue" if item.get("onFailure") == "continue" else "stop",
        when=when,
    )


def _effect(action: Action, parameters: Mapping[str, Any]) -> str:
    """The step's effect; http.request may say that it disrupts."""
    return (
        parameters.get("effect") or action.effect
        if "effect" in action.parameters
        else action.effect
    )


def _retry(data: Any) -> Retry:
    if not isinstance(data, dict):
        return Retry()
    default = Retry()
    return Retry(
        attempts=data.get("attempts", default.attempts),
        delay=duration.seconds(data.get("delay")) or default.delay,
        max_delay=duration.seconds(data.get("maxDelay")) or default.max_delay,
        give_up=duration.seconds(data.get("giveUp")) or default.give_up,
        unknown=data.get("unknown", default.unknown),
    )


def _when(
    data: Any, path: Path, earlier: tuple[str, ...], report: Report
) -> tuple[Condition | StepCondition, ...]:
    if not isinstance(data, list):
        return ()
    found: list[Condition | StepCondition | None] = []
    for n, item in enumerate(data):
        where = (*path, n)
        if not isinstance(item, dict) or not item.keys() & {"step", "is"}:
            found.append(compile_condition(item, where, report))
            continue
        condition = compile_step_condition(item, where, report)
        if condition and condition.step not in earlier:
            hint = nearest(condition.step, earlier) or ", ".join(earlier) or "none is earlier"
            what = f"no earlier step is called `{condition.step[:80]}`"
            report((*where, "step"), "bad-value", what, hint)
        found.append(condition)
    return tuple(condition for condition in found if condition)
