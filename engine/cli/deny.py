"""tiercel deny."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.engine import engine_options, tell, to_run
from engine.render.text import say

if TYPE_CHECKING:
    from pathlib import Path


@click.command("deny")
@click.argument("run")
@engine_options
def command(*, run: str, server: str, token_file: Path | None) -> None:
    """Deny a held RUN leave: the step that waits ends refused, and its onFailure decides about the rest.

    `tiercel history --state held` lists what waits. Who denied it stands in the audit.
    """
    done = tell(server, token_file, to_run(run, "deny"), {})
    say(f"denied: tiercel show {done['run'][:12]}")
