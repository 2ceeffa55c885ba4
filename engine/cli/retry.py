"""tiercel retry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import (
    json_body,
    post,
    print_note,
    reason_option,
    run_path,
    server_options,
)
from engine.cli.completion import run_ids
from engine.render.text import say

if TYPE_CHECKING:
    from pathlib import Path


@click.command("retry")
@click.argument("run", shell_complete=run_ids)
@click.option(
    "--from", "step", metavar="STEP", help="Begin at this step; else the first that failed."
)
@reason_option
@server_options
def command(
    *, run: str, step: str | None, reason: str | None, server: str, token_file: Path | None
) -> None:
    """Try a RUN that is over again, from the first step that failed or was refused.

    It goes on with the playbook that it was accepted with, whatever Git says by now; the pod must be the
    one that the run found first.
    """
    done = post(server, token_file, run_path(run, "retry"), json_body(from_=step, reason=reason))
    say(f"tried again: tiercel show {done['run'][:12]}")
    print_note(done)
