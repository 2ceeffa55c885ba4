"""tiercel history."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from engine.cli.admin_client import get, server_options
from engine.cli.completion import playbook_names
from engine.render.history_text import dead_letter_lines, history_lines
from engine.render.in_force import in_force_lines
from engine.render.text import print_document, print_line

if TYPE_CHECKING:
    from pathlib import Path


@click.command("history")
@click.option(
    "--playbook", metavar="NAME", shell_complete=playbook_names, help="Only runs of this playbook."
)
@click.option("--namespace", metavar="NAME", help="Only runs for pods in this namespace.")
@click.option("--since", metavar="WHEN", help="Only since 30m or 2d ago, or an RFC 3339 time.")
@click.option(
    "--state",
    metavar="STATE",
    help="Only runs in this state: waiting, running, held, done, planned, skipped, refused or failed.",
)
@click.option("--dead", is_flag=True, help="Rejected input that is not an event, instead of runs.")
@click.option(
    "--in-force",
    is_flag=True,
    help="What the engine has changed and not undone yet, instead of runs.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@server_options
def command(
    *,
    dead: bool,
    in_force: bool,
    limit: int,
    output: str,
    server: str,
    token_file: Path | None,
    **filters: str | None,
) -> None:
    """List the runs of a running engine, newest first, and the dropped events with the reasons.

    \b
    Examples:
      tiercel history --since 1h
      tiercel history --state held           runs that wait for a person
      tiercel history --in-force             which objects are changed, until when, by which runs
      tiercel history --dead                 input that is not an event

    Next: tiercel show RUN (the first digits of the ID are enough)
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    query = {key: value for key, value in filters.items() if value is not None}
    if dead:
        others = sorted(query.keys() - {"since"}) + ["in-force"] * in_force
        if others:
            names = " and ".join(f"--{name}" for name in others)
            raise click.UsageError(
                f"{names} cannot be used with --dead, which accepts only --since."
            )
        letters = get(server, token_file, f"/dead?{urlencode(query)}")["dead"][:limit]
        if output == "json":
            print_document(json.dumps(letters, indent=1))
        else:
            for line in dead_letter_lines(letters):
                print_line(line)
        return
    if in_force:
        _print_in_force({**query, "limit": str(limit)}, output, server, token_file)
        return
    found = get(server, token_file, f"/runs?{urlencode({**query, 'limit': limit})}")
    if output == "json":
        print_document(json.dumps(found, indent=1))
        return
    for line in history_lines(found["runs"], found["drops"], more=len(found["runs"]) == limit):
        print_line(line)


def _print_in_force(
    query: dict[str, str], output: str, server: str, token_file: Path | None
) -> None:
    """Print the changes that are not undone."""
    if "state" in query:
        raise click.UsageError("--state cannot be used with --in-force.")
    found = get(server, token_file, f"/in-force?{urlencode(query)}")
    if output == "json":
        print_document(json.dumps(found["inForce"], indent=1))
        return
    for line in in_force_lines(found["inForce"], found["total"]):
        print_line(line)
