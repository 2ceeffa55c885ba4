"""tiercel history."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from engine.cli.admin_client import get, server_options
from engine.cli.completion import playbook_names
from engine.render.history_text import dead_lines, history_lines
from engine.render.text import echo, say

if TYPE_CHECKING:
    from pathlib import Path


@click.command("history")
@click.option(
    "--playbook", metavar="NAME", shell_complete=playbook_names, help="Only this playbook's runs."
)
@click.option("--namespace", metavar="NAME", help="Only runs about pods of this namespace.")
@click.option("--since", metavar="WHEN", help="Only what came since: 30m, 2d or an RFC 3339 time.")
@click.option("--state", metavar="STATE", help="waiting, running, held, or how it ended.")
@click.option("--dead", is_flag=True, help="What came and was no event, instead of runs.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@server_options
def command(
    *,
    dead: bool,
    limit: int,
    output: str,
    server: str,
    token_file: Path | None,
    **wanted: str | None,
) -> None:
    """List the runs of a running engine, the newest first, and how many events it dropped and why.

    \b
      tiercel history --since 1h
      tiercel history --state held        what waits for a person
      tiercel show RUN                    one of them as a story; the first digits of its id will do
    """  # noqa: D301 - \b is click's mark for text to be left alone
    query = {key: value for key, value in wanted.items() if value is not None}
    if dead:
        others = sorted(query.keys() - {"since"})
        if others:
            told = " and ".join(f"--{name}" for name in others)
            raise click.UsageError(f"{told}: what was no event is nobody's run; --dead has --since")
        letters = get(server, token_file, f"/dead?{urlencode(query)}")["dead"][:limit]
        if output == "json":
            echo(json.dumps(letters, indent=1))
        else:
            for line in dead_lines(letters):
                say(line)
        return
    found = get(server, token_file, f"/runs?{urlencode({**query, 'limit': limit})}")
    if output == "json":
        echo(json.dumps(found, indent=1))
        return
    for line in history_lines(found["runs"], found["drops"], more=len(found["runs"]) == limit):
        say(line)
