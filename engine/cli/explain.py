"""tiercel explain."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import recent_events, server_options
from engine.cli.completion import playbook_names
from engine.cli.exit_codes import FINDINGS, USAGE, did_you_mean, fail
from engine.cli.input_files import read_events_input
from engine.cli.playbook_arguments import load_valid, values_option
from engine.model.event_formats import read_events
from engine.model.safe_text import printable
from engine.planning.explain import explain
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory, plan
from engine.render.explain_text import explanation_lines
from engine.render.text import count, print_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.language.loader import PlaybookSet
    from engine.model.event import Event


@click.command("explain")
@click.argument("arguments", nargs=-1, metavar="[PLAYBOOKS]... EVENTS")
@values_option
@click.option(
    "--playbook",
    metavar="NAME",
    shell_complete=playbook_names,
    help="Explain only this playbook, in full.",
)
@click.option(
    "--recent", is_flag=True,
    help="Use the last 1,000 events of a running engine instead of EVENTS.",
)  # fmt: skip
@click.option(
    "--last", type=click.IntRange(1, 1000), default=20, show_default=True,
    help="With --recent: number of events; the newest is last.",
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
    """Explain why each of PLAYBOOKS (default: playbooks/) matches or does not match EVENTS.

    For each playbook, a table shows every test, the value in the event, and the result. If the value is
    absent or has another type, the result is `unknown`. A playbook matches only if all results are `yes`.

    \b
    Examples:
      tiercel explain playbooks/ event.json
      tiercel explain playbooks/ event.json --playbook isolate-egress
      tiercel explain playbooks/ --recent    why did nothing happen just now?

    Next: tiercel plan playbooks/ EVENTS
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    if not recent and not arguments:
        fail(
            "Pass a file with EVENTS, or use --recent for the events of a running engine.",
            USAGE,
            "tiercel explain [PLAYBOOKS] EVENTS",
        )
    if recent and len(arguments) > 1 and Path(arguments[0]).is_dir():
        fail(
            "With --recent, the only argument is PLAYBOOKS, because the engine has the events.",
            USAGE,
            f"tiercel explain {arguments[0]} --recent",
        )
    paths, file = (arguments, "") if recent else (arguments[:-1], arguments[-1])
    found = load_valid(paths, values)
    names = [one.name for one in found.playbooks]
    if playbook is not None and playbook not in names:
        what = f"There is no playbook `{printable(playbook)}`."
        fail(what + did_you_mean(playbook, names), USAGE)
    if recent:
        invalid = 0
        events = recent_events(server, token_file, found.digest)[-last:]
        _print(events, found, playbook)
    else:
        invalid, given = _read(file)
        _print([(event, None) for event in given], found, playbook)
    if invalid:
        sys.exit(FINDINGS)


def _read(file: str) -> tuple[int, list[Event]]:
    """Return the number of lines that are not events, and the events. Report the former to stderr."""
    results = list(read_events(read_events_input(file, "explain")))
    invalid = [result for result in results if result.event is None]
    for result in invalid:
        print_line(f"{file}:{result.line}: {result.error}", err=True)
    return len(invalid), [result.event for result in results if result.event is not None]


def _print(
    events: Iterable[tuple[Event, dict[str, str] | None]], found: PlaybookSet, playbook: str | None
) -> None:
    """Print the explanation of each event.

    events: each with the playbooks that a running engine suppressed -> reason, or None without an engine.
    """
    index, memory = PlaybookIndex(found.playbooks, found.silences), PlanningMemory()
    shown = [one for one in index.all if playbook in (None, one.name)]
    number = ran = 0
    for event, suppressed in events:
        if suppressed is None:
            planned = {one.run.playbook.name: one.suppressed for one in plan(event, index, memory)}
        else:
            planned = {one.name: suppressed.get(one.name) for one in index.matching(event)}
        number += 1
        ran += any(why is None for why in planned.values())
        explanations = [explain(event, one) for one in shown]
        for line in explanation_lines(event, explanations, planned, whole=playbook is not None):
            print_line(line)
    runs = f"{count(ran, 'event')} started a run"
    print_line(f"{count(number, 'event')}, {count(len(shown), 'playbook')}; {runs}.")
