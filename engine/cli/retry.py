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
from engine.render.text import print_line

if TYPE_CHECKING:
    from pathlib import Path


@click.command("retry")
@click.argument("run", shell_complete=run_ids)
@click.option(
    "--from", "step", metavar="STEP", help="First step to retry. Default: the first failed step."
)
@reason_option
@server_options
def command(
    *, run: str, step: str | None, reason: str | None, server: str, token_file: Path | None
) -> None:
    """Retry a finished RUN from the first step that failed or was refused.

    The run uses the playbook version that it was accepted with, even if the playbook has changed since.
    The pod must be the one that the run found first. A pod that replaced it is not used.

    \b
    Examples:
      tiercel history --state failed         find failed runs
      tiercel retry 4f1c2a9b
      tiercel retry 4f1c2a9b --from notify

    Next: tiercel show RUN
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    done = post(server, token_file, run_path(run, "retry"), json_body(from_=step, reason=reason))
    print_line(f"retrying: tiercel show {done['run'][:12]}")
    print_note(done)
