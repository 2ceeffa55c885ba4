"""Compiles one document and reports every mistake with its place.

The compiler receives the actions as an argument, so this package does not depend on them.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from engine.language import duration
from engine.language.conditions import (
    compile_condition,
    compile_conditions,
    compile_step_condition,
)
from engine.language.findings import Findings, nearest
from engine.language.lint import lint_answers
from engine.language.schema import API_VERSION, KINDS
from engine.language.structure import check_structure
from engine.language.substitution import substitute
from engine.language.value_checks import MAX_STEPS
from engine.language.yaml_source import Document
from engine.model.errors import PlaybookError
from engine.model.event import normalize_source, parse_priority, parse_time
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

    from engine.language.yaml_source import Path
    from engine.model.errors import Finding
    from engine.model.playbook import Phase

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_STEP_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class Action(Protocol):
    """What the language needs to know about an action (engine.actions.registry.Action).

    name: as in the playbook, like ``pod.delete``. effect: notify, observe, mark or disrupt. slow:
    whether it runs in the pool of slow steps. answers: whether a step can have an answer. doc: one
    sentence for editors. parameters: by name.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class

    @property
    def effect(self) -> str: ...  # noqa: D102 - see the class

    @property
    def slow(self) -> bool: ...  # noqa: D102 - see the class

    @property
    def answers(self) -> bool: ...  # noqa: D102 - see the class

    @property
    def doc(self) -> str: ...  # noqa: D102 - see the class

    @property
    def parameters(self) -> Mapping[str, Any]: ...  # noqa: D102 - see the class

    def compile(
        self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]
    ) -> dict[str, Any]:
        """Compile the value of ``with``. steps: the names of the earlier steps, for templates."""
        ...

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of ``with``."""
        ...


def kind_of(document: Document) -> str | None:
    """Return the kind of the document, or None if the kind is not one of KINDS."""
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    return kind if isinstance(kind, str) and kind in KINDS else None


def check_document(
    document: Document, values: Mapping[str, Any], yaml_findings: list[Finding]
) -> tuple[Document, Findings]:
    """Substitute values, then check the structure of the document.

    values: for ``${name}``. yaml_findings: the findings about the file as YAML; they are not reported again.
    In a PlaybookTest nothing is substituted, because its cases contain events.
    """
    findings = Findings(document, yaml_findings)
    data, kind = document.data, kind_of(document)
    if not isinstance(data, dict):
        findings.add((), "wrong-type", "a document is a mapping", f"apiVersion: {API_VERSION}")
        return document, findings
    if kind is None:
        _report_kind(data, findings)
        return document, findings
    if kind != "PlaybookTest":
        data = substitute(data, values, (), findings)
        if data is None:
            return Document(document.file, {}), findings
        findings.suppress_reported_places()
    checked = Document(document.file, data, document.values, document.keys)
    check_structure(data, kind, findings)
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if isinstance(name, str) and not _NAME.fullmatch(name):
        what = f"`{name[:80]}` is not a valid name: use at most 63 lower-case letters, digits and -"
        findings.add(("metadata", "name"), "bad-value", what, "a DNS-1123 label")
    return checked, findings


def _report_kind(data: dict[str, Any], findings: Findings) -> None:
    kind = data.get("kind")
    if kind is None:
        findings.add((), "missing-key", "`kind` is missing", ", ".join(KINDS))
    else:
        hint = nearest(str(kind), KINDS) or ", ".join(KINDS)
        what = f"`{str(kind)[:80]}` is not a kind of document"
        findings.add(("kind",), "unknown-kind", what, hint)


def compile_playbook(
    document: Document, findings: Findings, actions: Mapping[str, Action], blob: str = ""
) -> Playbook | None:
    """Compile a Playbook that ``check_document`` has checked; None if it has an error.

    blob: the Git blob id of its file.
    """
    spec = document.data.get("spec")
    if not isinstance(spec, dict):
        return None
    conditions = _conditions(spec, ("spec",), findings)
    steps = compile_steps(spec, ("actions", "finally"), findings, actions)
    if findings.has_errors:
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
        run_as=spec.get("runAs", ""),
        where=document.at(("metadata", "name")),
    )


def compile_silence(document: Document, findings: Findings) -> Silence | None:
    """Compile a Silence that ``check_document`` has checked; None if it has an error."""
    data = document.data
    spec = data.get("spec")
    conditions = _conditions(spec, ("spec",), findings) if isinstance(spec, dict) else ()
    if findings.has_errors:
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


def playbook_from_snapshot(snapshot: bytes, actions: Mapping[str, Action]) -> Playbook:
    """Compile a playbook from its snapshot, so that a run does not depend on the current files.

    Raises PlaybookError if this version of the engine does not accept the snapshot.
    """
    document = Document("journal", msgspec.json.decode(snapshot))
    findings = Findings(document)
    playbook = compile_playbook(document, findings, actions)
    if playbook is None:
        raise PlaybookError(findings.entries)
    return playbook


def _conditions(spec: dict[str, Any], path: Path, findings: Findings) -> tuple[Condition, ...]:
    data = spec.get("conditions")
    if not isinstance(data, list):
        return ()
    return compile_conditions(data, (*path, "conditions"), findings)


def _match(data: dict[str, Any]) -> Match:
    tags = data.get("tags")
    if isinstance(tags, list):
        tags = {"any": tags}
    by_key: dict[str, frozenset[str] | None] = {
        key: frozenset(tags[key]) if tags and key in tags else None
        for key in ("any", "all", "none")
    }
    return Match(
        rules=tuple(data["rules"]) if "rules" in data else None,
        priority=parse_priority(data["priority"]) if "priority" in data else None,
        sources=frozenset(map(normalize_source, data["sources"])) if "sources" in data else None,
        tags_any=by_key["any"],
        tags_all=by_key["all"],
        tags_none=by_key["none"],
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


def compile_steps(
    spec: dict[str, Any], keys: tuple[str, ...], findings: Findings, actions: Mapping[str, Action]
) -> tuple[Step, ...]:
    """Compile the steps under these keys of the spec, in order. Steps with an unknown action are left out."""
    steps: list[Step] = []
    names: list[str] = []
    silent: dict[str, str] = {}  # name of a step without an answer -> its action
    for key in keys:
        data = spec.get(key)
        phase: Phase = "finally" if key == "finally" else "actions"
        for n, item in enumerate(data[:MAX_STEPS] if isinstance(data, list) else []):
            if not isinstance(item, dict) or not isinstance(item.get("action"), str):
                continue
            path = ("spec", key, n)
            name = _step_name(item, path, names, findings)
            when = _when(item.get("when"), (*path, "when"), tuple(names), findings)
            action = _action(item["action"], path, findings, actions)
            if action is not None:
                where = (*path, "with") if "with" in item else path
                parameters = action.compile(item.get("with"), where, findings, tuple(names))
                steps.append(_step(item, name, phase, action, parameters, when))
                lint_answers(item, path, silent, findings)
                if not action.answers:
                    silent[name] = action.name
            names.append(name)
    return tuple(steps)


def _step_name(item: dict[str, Any], path: Path, names: list[str], findings: Findings) -> str:
    name = item.get("name", item["action"])
    if not isinstance(name, str):
        return str(item["action"])  # check_structure has reported the type
    where = (*path, "name") if "name" in item else (*path, "action")
    if name in names:
        findings.add(where, "duplicate-name", f"two steps have the name `{name}`", "name one step")
    elif not _STEP_NAME.fullmatch(name):
        what = f"`{name[:80]}` is not a valid name of a step"
        findings.add(where, "bad-value", what, "letters, digits, . _ -")
    return name


def _action(
    name: str, path: Path, findings: Findings, actions: Mapping[str, Action]
) -> Action | None:
    action = actions.get(name)
    if action is None:
        hint = nearest(name, actions) or "tiercel actions"
        what = f"there is no action `{name[:80]}`"
        findings.add((*path, "action"), "unknown-action", what, hint)
    return action


def _step(
    item: dict[str, Any],
    name: str,
    phase: Phase,
    action: Action,
    parameters: Mapping[str, Any],
    when: tuple[Condition | StepCondition, ...],
) -> Step:
    effect = action.effect
    if "effect" in action.parameters:  # the author of an http.request knows what the request does
        effect = parameters.get("effect") or effect
    return Step(
        name=name,
        action=action.name,
        parameters=parameters,
        phase=phase,
        pool="slow" if action.slow else "cluster",
        effect=effect,
        timeout=duration.seconds(item.get("timeout")) or _default_timeout(parameters),
        retry=_retry(item.get("retry")),
        on_failure="continue" if item.get("onFailure") == "continue" else "stop",
        when=when,
    )


def _default_timeout(parameters: Mapping[str, Any]) -> float:
    """Return the seconds of an attempt: 30, and the ``duration`` of an action that collects for a while."""
    collects = parameters.get("duration")
    return 30.0 + (collects if isinstance(collects, float) else 0.0)


def _retry(data: Any) -> Retry:
    default = Retry()
    if not isinstance(data, dict):
        return default
    return Retry(
        attempts=data.get("attempts", default.attempts),
        delay=duration.seconds(data.get("delay")) or default.delay,
        max_delay=duration.seconds(data.get("maxDelay")) or default.max_delay,
        give_up=duration.seconds(data.get("giveUp")) or default.give_up,
        unknown=data.get("unknown", default.unknown),
    )


def _when(
    data: Any, path: Path, earlier: tuple[str, ...], findings: Findings
) -> tuple[Condition | StepCondition, ...]:
    """Compile the conditions of a step. earlier: the names of the steps before it."""
    if not isinstance(data, list):
        return ()
    compiled: list[Condition | StepCondition | None] = []
    for n, item in enumerate(data):
        where = (*path, n)
        if not isinstance(item, dict) or not item.keys() & {"step", "is"}:
            compiled.append(compile_condition(item, where, findings))
            continue
        condition = compile_step_condition(item, where, findings)
        if condition and condition.step not in earlier:
            hint = nearest(condition.step, earlier) or ", ".join(earlier) or "this is the first"
            what = f"no earlier step has the name `{condition.step[:80]}`"
            findings.add((*where, "step"), "bad-value", what, hint)
        compiled.append(condition)
    return tuple(condition for condition in compiled if condition)
