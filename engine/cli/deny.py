"""tiercel deny."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import json_body, post, reason_option, run_path, server_options
from engine.cli.completion import run_ids
from engine.render.text import say

if TYPE_CHECKING:
    from pathlib import Path


@click.command("deny")
@click.argument("run", shell_complete=run_ids)
@reason_option
@server_options
def command(*, run: str, reason: str | None, server: str, token_file: Path | None) -> None:
    """Deny a held RUN: the step that waits ends refused, and its onFailure decides about the rest.

    `tiercel history --state held` lists what waits. The audit keeps who denied it, and why.
    """
    done = post(server, token_file, run_path(run, "deny"), json_body(reason=reason))
    say(f"denied: tiercel show {done['run'][:12]}")
