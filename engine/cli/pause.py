"""tiercel pause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import json_body, post, reason_option, server_options
from engine.cli.completion import playbook_names
from engine.render.text import say

if TYPE_CHECKING:
    from pathlib import Path


@click.command("pause")
@click.option(
    "--playbook", metavar="NAME", shell_complete=playbook_names, help="Only this one; else all."
)
@click.option(
    "--for", "lasts", metavar="DURATION", help="End the pause by itself, after 30m or 2h."
)
@reason_option
@server_options
def command(
    *,
    playbook: str | None,
    lasts: str | None,
    reason: str | None,
    server: str,
    token_file: Path | None,
) -> None:
    """Stop acting at once: events are taken and suppressed as `paused`, runs that wait go on waiting.

    It lasts until `tiercel resume`, or as long as --for says, over restarts too. A step that is under way
    ends first.
    """
    given = json_body(playbook=playbook, for_=lasts, reason=reason)
    said = post(server, token_file, "/pause", given)
    say(f"paused: {', '.join('all' if name == '*' else name for name in said['paused'])}")
