"""The runs of an engine as text: ``history`` (one line for each run) and ``show`` (the story of one run)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from engine.model.calls import Call, OutboundRequest
from engine.model.errors import EventError
from engine.model.event import parse_event
from engine.model.run import StepResult
from engine.model.safe_text import printable
from engine.render.plan_text import COLORS, headline, step_lines
from engine.render.text import count, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_ID = 12
"""Digits of a run id in the output. They are enough to identify a run."""


def history_lines(
    runs: Sequence[Mapping[str, Any]], drops: Sequence[Mapping[str, Any]], *, more: bool
) -> Iterator[str]:
    """Yield one line for each run: time, id, state, playbook, target, last message. Then the suppressed runs."""
    yield from _runs(runs, more=more)
    if drops:
        yield "Suppressed runs by hour:"
    for drop in drops:
        first, last = (drop[key][:19].replace("T", " ") for key in ("first", "last"))
        key = f"  {short(drop['key'], 80)}" if drop["key"] else ""
        playbook, reason = printable(drop["playbook"]), printable(drop["reason"])
        yield f"{last}  {drop['count']:>7,} times  {playbook}  {reason}  since {first}{key}"


def dead_letter_lines(letters: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the dead letters: time, source, error and the first characters of the body."""
    if not letters:
        yield "No dead letters."
    for letter in letters:
        when = letter["received"][:19].replace("T", " ")
        yield f"{when}  {printable(letter['source'])}  {short(letter['error'], 80)}"
        yield click.style(f"    {short(letter['body'], 160)}", dim=True)


def _runs(runs: Sequence[Mapping[str, Any]], *, more: bool) -> Iterator[str]:
    if not runs:
        yield "No runs. (`tiercel explain --recent` shows why events started none)"
        return
    widths = {key: max(len(short(run[key], 40)) for run in runs) for key in ("playbook", "target")}
    for run in runs:
        when = run["received"][:19].replace("T", " ")
        cells = [short(run[key], 40).ljust(widths[key]) for key in ("playbook", "target")]
        dry = "  (dry)" if run["mode"] != "enforce" else ""
        yield (
            f"{when}  {run['run'][:_ID]}  {_state(run['state'])}  {'  '.join(cells)}"
            f"  {short(run['message'], 100)}{dry}"
        )
    yield f"{count(len(runs), 'run')}{'; there may be more: --limit, --since' if more else ''}."


def story_lines(run: Mapping[str, Any], provenance: Iterable[str] = ()) -> Iterator[str]:
    """Yield the story of a run: the event, the playbook, the steps with all calls, and what is next.

    provenance: lines about the commit of the playbook.
    """
    try:
        yield headline(parse_event(run["alert"]))
    except EventError:  # another version of the engine accepted it
        yield printable(json.dumps(run["event"]))
    mode = "" if run["mode"] == "enforce" else f", {run['mode']}"
    yield f"  {printable(run['playbook'])}{mode}  {_state(run['outcome'] or 'not ended')}"
    yield f"    run       {run['run']}"
    yield f"    received  {run['received']}"
    yield f"    target    {printable(run['target'])}"
    yield (
        f"    playbook  git show {run['blob']}" if run["blob"] else "    playbook  not from a file"
    )
    if run.get("revision"):
        yield f"    revision  {printable(run['revision'])}"
    if run.get("runAs"):
        yield f"    runs as   ServiceAccount {printable(run['runAs'])}"
    yield from provenance
    yield from step_lines([_result(step) for step in run["steps"]], bodies=True)
    for one in run["decisions"]:
        why = f": {printable(one['reason'])}" if one["reason"] else ""
        what = f"{one['decision']} {printable(one['step'])}".rstrip()
        yield f"    {one['time'][:19].replace('T', ' ')}  {what} by {printable(one['by'])}{why}"
    if run["left"] and run["outcome"] is None:
        yield f"    then      {printable(', '.join(run['left']))}"
    if run["due"]:
        yield f"  Next at {run['due']}."
    for undo in run["undo"]:
        when = f"at {undo['due']}" if undo["due"] else "on request"
        yield f"  {printable(undo['step'])} will be undone {when}."
    copies = run.get("copies") or []
    if copies:
        restore = f"tiercel show {run['run'][:_ID]} --copies | kubectl apply -f -"
        yield f"  To restore {count(len(copies), 'deleted object')}: {restore}"
    yield from _next(run)


def _next(run: Mapping[str, Any]) -> Iterator[str]:
    """Yield the commands that can be useful next."""
    id_ = run["run"][:_ID]
    if any(step["state"] == "held" for step in run["steps"]) and run["outcome"] is None:
        yield f"  Waiting for approval: tiercel approve {id_}, or tiercel deny {id_}"
    elif run["outcome"] in ("failed", "refused"):
        yield f"  To try again: tiercel retry {id_}"
    if run["undo"] and run["outcome"] is not None:
        yield f"  To undo it now: tiercel undo {id_}"


def _state(state: str) -> str:
    return click.style(f"{state:<8}", fg=COLORS.get(state))


def _result(step: Mapping[str, Any]) -> StepResult:
    calls = tuple(
        Call(c["verb"], c["apiVersion"], c["resource"], c["namespace"], c["name"], c["body"])
        for c in step["calls"]
    )
    requests = tuple(OutboundRequest(**request) for request in step["requests"])
    attempt = f" (attempt {step['attempts']})" if step["attempts"] > 1 else ""
    message = step["message"] + attempt
    answer = step.get("answer")
    return StepResult(
        step["name"], step["state"], message, step["attempts"], calls, requests, answer
    )
