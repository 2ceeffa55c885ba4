"""tiercel undo."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.admin_client import json_body, post, reason_option, run_path, server_options
from engine.cli.completion import run_ids
from engine.render.text import print_line

if TYPE_CHECKING:
    from pathlib import Path


@click.command("undo")
@click.argument("run", shell_complete=run_ids)
@reason_option
@server_options
def command(*, run: str, reason: str | None, server: str, token_file: Path | None) -> None:
    """Undo the changes of a RUN now, before their ttl ends.

    Actions with the parameter `ttl` can be undone, with or without a `ttl`. A change stays if another run
    still needs it, or if the value has changed since. Deleted objects are not restored. `tiercel show RUN
    --copies` prints those that the run kept.

    \b
    Examples:
      tiercel history --in-force             see what is changed, and by which runs
      tiercel show 4f1c2a9b                  see what can be undone
      tiercel undo 4f1c2a9b --reason "false positive"

    Next: tiercel show RUN
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    done = post(server, token_file, run_path(run, "undo"), json_body(reason=reason))
    print_line(f"undoing {', '.join(done['steps'])}: tiercel show {done['run'][:12]}")
