"""tiercel undo."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import body_of, engine_options, reason_option, tell, to_run
from engine.cli.completion import run_ids
from engine.render.text import say

if TYPE_CHECKING:
    from pathlib import Path


@click.command("undo")
@click.argument("run", shell_complete=run_ids)
@reason_option
@engine_options
def command(*, run: str, reason: str | None, server: str, token_file: Path | None) -> None:
    """Put back what a RUN has changed, now and not at the end of its ttl: isolation, labels, annotations.

    What another run still wants stays, and so does what somebody has changed since. A pod that was deleted
    stays so. `tiercel show RUN` says what can be undone, and then what became of it.
    """
    done = tell(server, token_file, to_run(run, "undo"), body_of(reason=reason))
    say(f"undoing {', '.join(done['steps'])}: tiercel show {done['run'][:12]}")
