"""tiercel deny."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import json_body, post, reason_option, run_path, server_options
from engine.cli.completion import run_ids
from engine.render.text import print_line

if TYPE_CHECKING:
    from pathlib import Path


@click.command("deny")
@click.argument("run", shell_complete=run_ids)
@reason_option
@server_options
def command(*, run: str, reason: str | None, server: str, token_file: Path | None) -> None:
    """Deny a held RUN: the held step ends as refused, and its onFailure decides how the run continues.

    The audit records the operator and the reason.

    \b
    Examples:
      tiercel history --state held                       find held runs
      tiercel deny 4f1c2a9b --reason "planned maintenance"

    Next: tiercel show RUN
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    done = post(server, token_file, run_path(run, "deny"), json_body(reason=reason))
    print_line(f"denied: tiercel show {done['run'][:12]}")
