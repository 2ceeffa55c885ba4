"""tiercel undo."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import json_body, post, reason_option, run_path, server_options
from engine.cli.completion import run_ids
from engine.render.text import say

if TYPE_CHECKING:
    from pathlib import Path


@click.command("undo")
@click.argument("run", shell_complete=run_ids)
@reason_option
@server_options
def command(*, run: str, reason: str | None, server: str, token_file: Path | None) -> None:
    """Put back what a RUN has changed, now and not at the end of its ttl: isolation, labels, annotations.

    What another run still wants stays, and so does what somebody has changed since. A pod that was deleted
    stays so. `tiercel show RUN` says what can be undone, and then what became of it.
    """
    done = post(server, token_file, run_path(run, "undo"), json_body(reason=reason))
    say(f"undoing {', '.join(done['steps'])}: tiercel show {done['run'][:12]}")
