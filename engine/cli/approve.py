"""tiercel approve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.engine import engine_options, tell, to_run
from engine.render.text import say

if TYPE_CHECKING:
    from pathlib import Path


@click.command("approve")
@click.argument("run")
@engine_options
def command(*, run: str, server: str, token_file: Path | None) -> None:
    """Give a held RUN leave: the step that waits is done now, and the run goes on.

    `tiercel history --state held` lists what waits. Who gave leave stands in the audit.
    """
    done = tell(server, token_file, to_run(run, "approve"), {})
    say(f"approved; it goes on: tiercel show {done['run'][:12]}")
