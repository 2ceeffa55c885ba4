"""The provenance of an object in the cluster: what its marks say, and whether the journal agrees.

Everyone who may change the object can change its marks. They are therefore untrusted, and their values are
checked here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from engine.actions.managed_objects import BLOB, PLAYBOOK, REVISION, RULE, RUN
from engine.cluster.undo import EXPIRES_AT, MANAGED_BY
from engine.model.event import parse_time
from engine.model.revision import parse_blob, parse_revision
from engine.render.text import short

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.model.calls import Kind, Object

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_WRITES = ("apply", "create", "patch")
_SHOWN = ("run", "playbook", "rule", "blob", "revision")
_FROM_RUN = ("run", "playbook", "blob", "revision")
_COMPARED = ("playbook", "rule", "blob", "revision")


def is_managed(item: Object) -> bool:
    """Return whether an object has the label of the objects that Tiercel creates."""
    labels = (item.get("metadata") or {}).get("labels") or {}
    return bool(labels.items() >= MANAGED_BY.items())


def marks_json(kind: Kind, item: Object) -> dict[str, Any]:
    """Return the name of an object and the values of its marks. A value that is not valid is null."""
    metadata = item["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    run, name = annotations.get(RUN) or "", labels.get(PLAYBOOK) or ""
    return {
        "kind": kind.kind,
        "namespace": metadata.get("namespace"),
        "name": metadata["name"],
        "created": _time(metadata.get("creationTimestamp")),
        "expires": _time(annotations.get(EXPIRES_AT)),
        "run": run if _RUN_ID.fullmatch(run) else None,
        "playbook": name if _NAME.fullmatch(name) else None,
        "rule": annotations.get(RULE) or None,
        "blob": parse_blob(annotations.get(BLOB)) or None,
        "revision": parse_revision(annotations.get(REVISION)) or None,
    }


def judge(
    run: Mapping[str, Any], kind: Kind, marks: Mapping[str, Any]
) -> tuple[bool, list[str], bool]:
    """Compare the marks of an object with the run that they name.

    Returns whether the run can be shown as the run of the object, notes for the reader, and whether the marks
    contradict the journal.
    """
    writes = _writes_object(run, kind, marks)
    if writes is False:
        note = f"Run {run['run']} did not write this object. Someone else wrote its annotations."
        return False, [note], True
    notes = []
    if writes is None:
        notes.append("The journal has no calls of this run, so it cannot confirm the object.")
    known = {**run, "rule": run["alert"].get("rule")}
    differing = [name for name in _COMPARED if marks[name] and marks[name] != known.get(name)]
    if differing:
        names = ", ".join(differing)
        notes.append(f"The object contradicts the journal: {names}. The journal is shown.")
    return True, notes, bool(differing)


def _writes_object(run: Mapping[str, Any], kind: Kind, marks: Mapping[str, Any]) -> bool | None:
    """Return whether a call of the run wrote the object; None if the journal contains no calls of the run."""
    calls = [call for step in run["steps"] for call in step["calls"]]
    group = kind.api_version.rpartition("/")[0]
    wanted = (group, kind.resource, marks["namespace"], marks["name"])
    for call in calls:
        found = call["apiVersion"].rpartition("/")[0], call["resource"]
        if (*found, call["namespace"], call["name"]) == wanted and call["verb"] in _WRITES:
            return True
    return False if calls else None


def object_lines(shown: Mapping[str, Any]) -> Iterator[str]:
    """Yield the text about an object. shown: as in ``show KIND/NAME -o json``."""
    marks, run = shown["object"], shown["run"]
    until = f", expires {marks['expires']}" if marks["expires"] else ""
    yield (
        f"{marks['kind']} {f'{place}/' if (place := marks['namespace']) else ''}{marks['name']}"
        f"  created {marks['created'] or 'at an unknown time'}{until}"
    )
    known = {
        **marks,
        **({key: run[key] for key in ("run", "playbook", "blob", "revision")} if run else {}),
    }
    for name in _SHOWN:
        yield f"    {name:<9} {short(str(known[name])) if known[name] else 'not known'}"
    yield from commit_lines(shown["commit"])
    yield from note_lines(shown["notes"])


def commit_lines(commit: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the commit that wrote the file of the playbook, with its author."""
    if commit:
        yield f"    commit    {commit['id']}  {short(commit['subject'], 100)}"
        yield f"    author    {short(commit['author'], 80)} <{short(commit['email'], 80)}>  {commit['date']}"
        yield f"    file      {short(commit['path'])}"


def note_lines(notes: Sequence[str]) -> Iterator[str]:
    """Yield what is not known, and what does not agree."""
    for note in notes:
        yield f"  {note}"


def _time(text: Any) -> str | None:
    """Return a time as the object has it, or None if it is not a time."""
    try:
        parse_time(text)
    except (TypeError, ValueError):
        return None
    return str(text)
