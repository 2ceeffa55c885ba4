"""tiercel resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import json_body, post, reason_option, server_options
from engine.cli.completion import playbook_names
from engine.render.text import print_line

if TYPE_CHECKING:
    from pathlib import Path


@click.command("resume")
@click.option(
    "--playbook",
    metavar="NAME",
    shell_complete=playbook_names,
    help="End only the pause of this playbook. Default: end all pauses.",
)
@reason_option
@server_options
def command(
    *, playbook: str | None, reason: str | None, server: str, token_file: Path | None
) -> None:
    """End a pause. Waiting runs continue.

    Events that were suppressed during the pause stay suppressed.

    \b
    Examples:
      tiercel resume
      tiercel resume --playbook isolate-egress --reason "upgrade done"

    Next: tiercel history --since 1h
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    body = json_body(playbook=playbook, reason=reason)
    paused = post(server, token_file, "/resume", body)["paused"]
    left = ", ".join("all" if name == "*" else name for name in paused)
    print_line(f"still paused: {left}" if left else "nothing is paused")
