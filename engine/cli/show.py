"""tiercel show."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from engine.cli.admin_client import get, server_options
from engine.cli.completion import run_ids
from engine.render.history_text import story_lines
from engine.render.text import echo, say

if TYPE_CHECKING:
    from pathlib import Path


@click.command("show")
@click.argument("run", shell_complete=run_ids)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@server_options
def command(*, run: str, output: str, server: str, token_file: Path | None) -> None:
    """Show one RUN as a story: the event, each step, the calls that it sent, and their results.

    RUN is the ID of the run, or its first 6 or more digits, as `tiercel history` prints them.

    \b
    Examples:
      tiercel history --since 1h             find the run
      tiercel show 4f1c2a9b
      tiercel show 4f1c2a9b -o json

    Next: tiercel retry RUN, tiercel undo RUN
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    found = get(server, token_file, f"/runs/{quote(run, safe='')}")
    if output == "json":
        echo(json.dumps(found, indent=1))
        return
    for line in story_lines(found):
        say(line)
