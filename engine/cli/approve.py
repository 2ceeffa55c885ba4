"""tiercel approve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import json_body, post, reason_option, run_path, server_options
from engine.cli.completion import run_ids
from engine.render.text import print_line

if TYPE_CHECKING:
    from pathlib import Path


@click.command("approve")
@click.argument("run", shell_complete=run_ids)
@reason_option
@server_options
def command(*, run: str, reason: str | None, server: str, token_file: Path | None) -> None:
    """Approve a held RUN: execute the held step and continue the run.

    A step with `approvals: 2` needs two different operators. The audit records the operator and the reason.

    \b
    Examples:
      tiercel history --state held                       find held runs
      tiercel approve 4f1c2a9b --reason "ticket 4711"

    Next: tiercel show RUN
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    done = post(server, token_file, run_path(run, "approve"), json_body(reason=reason))
    missing = done.get("missing", 0)
    then = (
        f"the step needs {missing} more, from another operator" if missing else "the run continues"
    )
    print_line(f"approved; {then}: tiercel show {done['run'][:12]}")
