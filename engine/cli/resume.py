"""tiercel resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import json_body, post, reason_option, server_options
from engine.cli.completion import playbook_names
from engine.render.text import say

if TYPE_CHECKING:
    from pathlib import Path


@click.command("resume")
@click.option(
    "--playbook",
    metavar="NAME",
    shell_complete=playbook_names,
    help="Only this one; else every pause ends.",
)
@reason_option
@server_options
def command(
    *, playbook: str | None, reason: str | None, server: str, token_file: Path | None
) -> None:
    """Act again. Runs that waited go on; events that came meanwhile were suppressed, and stay so."""
    given = json_body(playbook=playbook, reason=reason)
    paused = post(server, token_file, "/resume", given)["paused"]
    left = ", ".join("all" if name == "*" else name for name in paused)
    say(f"still paused: {left}" if left else "nothing is paused")
