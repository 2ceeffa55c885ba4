"""tiercel pause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import json_body, post, reason_option, server_options
from engine.cli.completion import playbook_names
from engine.render.text import print_line

if TYPE_CHECKING:
    from pathlib import Path


@click.command("pause")
@click.option(
    "--playbook",
    metavar="NAME",
    shell_complete=playbook_names,
    help="Pause only this playbook. Default: all.",
)
@click.option("--for", "lasts", metavar="DURATION", help="End the pause after 30m or 2h.")
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
    """Stop acting immediately, for all playbooks or for one.

    The engine accepts events during a pause and suppresses them with the reason `paused`. Waiting runs
    keep waiting. A step that is already running ends first. The pause lasts until `tiercel resume`, or
    for the time in --for, even if the engine restarts.

    \b
    Examples:
      tiercel pause --reason "node upgrade" --for 2h
      tiercel pause --playbook isolate-egress

    Next: tiercel resume
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    body = json_body(playbook=playbook, for_=lasts, reason=reason)
    response = post(server, token_file, "/pause", body)
    print_line(
        f"paused: {', '.join('all' if name == '*' else name for name in response['paused'])}"
    )
