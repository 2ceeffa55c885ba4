"""tiercel explain."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import recent_events, server_options
from engine.cli.completion import playbook_names
from engine.cli.input_files import read_events_input
from engine.cli.playbook_arguments import fail, load_valid, values_option
from engine.language.findings import nearest
from engine.model.event_formats import read_events
from engine.model.safe_text import printable
from engine.planning.explain import explain
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory, plan
from engine.render.explain_text import explained
from engine.render.text import count, say

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from engine.language.loader import PlaybookSet
    from engine.model.event import Event


@click.command("explain")
@click.argument("arguments", nargs=-1, metavar="[PLAYBOOKS]... EVENTS")
@values_option
@click.option(
    "--playbook", metavar="NAME", shell_complete=playbook_names, help="Only this one, in full."
)
@click.option(
    "--recent", is_flag=True,
    help="The last 1,000 events that a running engine got, instead of EVENTS.",
)  # fmt: skip
@click.option(
    "--last", type=click.IntRange(1, 1000), default=20, show_default=True,
    help="With --recent: how many, the newest last.",
)  # fmt: skip
@server_options
def command(
    *,
    arguments: tuple[str, ...],
    values: Path | None,
    playbook: str | None,
    recent: bool,
    last: int,
    server: str,
    token_file: Path | None,
) -> None:
    """Say why each of PLAYBOOKS (default: playbooks/) does or does not want EVENTS.

    A table a playbook: what it asks for, what the event has there, and whether that holds; a value that is
    absent or of another type makes a condition `unknown`, and only `yes` counts.

    \b
      tiercel explain playbooks/ event.json
      tiercel explain playbooks/ event.json --playbook isolate-egress
      tiercel explain playbooks/ --recent        why did nothing happen just now?
    """  # noqa: D301 - \b is click's mark for text to be left alone
    if not recent and not arguments:
        fail("Name a file of EVENTS, or ask a running engine with --recent.", 2)
    paths, file = (arguments, "") if recent else (arguments[:-1], arguments[-1])
    found = load_valid(paths, values)
    names = [one.name for one in found.playbooks]
    if playbook is not None and playbook not in names:
        near = nearest(playbook, names)
        hint = f" Did you mean `{near}`?" if near else ""
        fail(f"No playbook is called `{printable(playbook)}`.{hint}", 2)
    if recent:
        wrong = 0
        events = recent_events(server, token_file, found.digest)[-last:]
        _tell(events, found, playbook)
    else:
        wrong, given = _events(file)
        _tell([(event, None) for event in given], found, playbook)
    if wrong:
        sys.exit(1)


def _events(file: str) -> tuple[int, list[Event]]:
    """How many lines are no event (each told on stderr), and the events."""
    alerts = list(read_events(read_events_input(file, "explain")))
    wrong = [alert for alert in alerts if alert.event is None]
    for alert in wrong:
        say(f"{file}:{alert.line}: {alert.error}", err=True)
    return len(wrong), [alert.event for alert in alerts if alert.event is not None]


def _tell(
    events: Iterable[tuple[Event, dict[str, str] | None]], found: PlaybookSet, playbook: str | None
) -> None:
    """Explain events, each with the playbooks that a running engine suppressed (None: not asked)."""
    index, memory = PlaybookIndex(found.playbooks, found.silences), PlanningMemory()
    shown = [one for one in index.all if playbook in (None, one.name)]
    told = ran = 0
    for event, suppressed in events:
        if suppressed is None:
            planned = {one.run.playbook.name: one.suppressed for one in plan(event, index, memory)}
        else:
            planned = {one.name: suppressed.get(one.name) for one in index.matching(event)}
        told += 1
        ran += any(why is None for why in planned.values())
        explanations = [explain(event, one) for one in shown]
        for line in explained(event, explanations, planned, whole=playbook is not None):
            say(line)
    say(f"{count(told, 'event')}, {count(len(shown), 'playbook')}: {ran} made something run.")
