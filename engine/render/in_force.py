"""What is in force: the changes that are not undone, as JSON of the admin port and as text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from engine.model.event import format_time
from engine.model.safe_text import printable
from engine.render.text import count, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.journal.records import ChangeInForce, RunFilter
    from engine.model.calls import ObjectChange

_ID = 12
"""Digits of a run id in the output. They are enough to identify a run."""
_MAX_VALUE = 60


def in_force_json(changes: Sequence[ChangeInForce], wanted: RunFilter) -> list[dict[str, Any]]:
    """Return one element for each changed value, with all the runs that need it; the first to end is first.

    wanted: only values of objects in its namespace that a run of its playbook, or since its time, needs.
    ``until`` is the latest end of the runs: then the value from before the first of them is restored. It is null
    if one of them ends only on request.
    """
    groups: dict[str, list[ChangeInForce]] = {}
    for one in changes:
        groups.setdefault(one.change.key, []).append(one)
    found = [
        _element(group) for group in groups.values() if any(_matches(it, wanted) for it in group)
    ]
    return sorted(found, key=lambda it: (it["until"] is None, it["until"] or ""))


def _matches(one: ChangeInForce, wanted: RunFilter) -> bool:
    return (
        wanted.playbook in (None, one.playbook)
        and wanted.namespace in (None, one.change.namespace)
        and (wanted.since is None or one.received >= wanted.since)
    )


def _element(group: Sequence[ChangeInForce]) -> dict[str, Any]:
    change = group[-1].change
    kind = change.kind
    ends = [one.until for one in group]
    return {
        "object": {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "namespace": change.namespace,
            "name": change.name,
            "uid": change.uid,
        },
        "change": describe(change),
        "path": list(change.path),
        "value": change.put,
        "before": change.before,
        "until": None if None in ends else _at(max(end for end in ends if end is not None)),
        "runs": [
            {
                "run": one.run,
                "playbook": one.playbook,
                "step": one.step,
                "state": one.state,
                "until": _at(one.until),
                "nextAttempt": _at(one.next_attempt),
                "attempts": one.attempts,
                "message": one.message,
            }
            for one in group
        ],
    }


def describe(change: ObjectChange) -> str:
    """Return what a change does to its object, for example ``created``, ``label a=b`` or ``replicas=0``."""
    if not change.path:
        return "created"
    if change.item:
        item = change.put or change.item
        value = f"={item['value']}" if item.get("value") else ""
        return f"{change.path[-1].removesuffix('s')} {item.get('key', '')}{value}:{item.get('effect', '')}"
    part = {"labels": "label ", "annotations": "annotation "}.get(change.path[-2], "")
    if change.put is None and part:
        return f"removed {part}{change.path[-1]}"
    put = change.put if isinstance(change.put, str) else json.dumps(change.put or 0)
    return f"{part}{change.path[-1]}={put}"


def in_force_lines(found: Sequence[Mapping[str, Any]], total: int) -> Iterator[str]:
    """Yield the lines of ``history --in-force``: one for each changed value, and one for each of its runs."""
    if not found:
        yield "Nothing is in force."
        return
    for one in found:
        item = one["object"]
        name = f"{item['namespace']}/{item['name']}" if item["namespace"] else item["name"]
        end = _when(one["until"]) if one["until"] else "on request"
        about = f"{item['kind'].lower()} {short(name, 80)}"
        yield f"{end:<19}  {about}  {short(one['change'], _MAX_VALUE)}"
        for run in one["runs"]:
            until = f"until {_when(run['until'])}" if run["until"] else "until `tiercel undo`"
            step = f"{printable(run['playbook'])}  {printable(run['step'])}"
            unsure = (
                "" if run["state"] == "done" else f"  (the step is {run['state'] or 'too old'})"
            )
            yield f"    {run['run'][:_ID]}  {step}  {until}{unsure}"
            if run["message"]:
                again = f", next attempt {_when(run['nextAttempt'])}" if run["nextAttempt"] else ""
                what = f"not undone after {count(run['attempts'], 'attempt')}{again}"
                yield click.style(f"        {what}: {short(run['message'], 200)}", fg="red")
    more = f" of {total:,}; --limit shows more" if total > len(found) else ""
    yield f"{count(len(found), 'change')} in force{more}."


def _when(text: str) -> str:
    return text[:19].replace("T", " ")


def _at(seconds: float | None) -> str | None:
    return None if seconds is None else format_time(int(seconds * 1000) * 1_000_000)
