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
    """Tell one RUN as a story: the event, each step, what was sent and what came of it.

    RUN is its id, or the first digits of it (6 and more), as `tiercel history` shows them.
    """
    told = get(server, token_file, f"/runs/{quote(run, safe='')}")
    if output == "json":
        echo(json.dumps(told, indent=1))
        return
    for line in story_lines(told):
        say(line)
