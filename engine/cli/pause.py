"""tiercel pause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.engine import engine_options, tell, tell_note
from engine.render.text import say

if TYPE_CHECKING:
    from pathlib import Path


@click.command("pause")
@click.option("--playbook", metavar="NAME", help="Only this one; else all.")
@engine_options
def command(*, playbook: str | None, server: str, token_file: Path | None) -> None:
    """Stop acting at once: events are taken and suppressed as `paused`, runs that wait go on waiting.

    It lasts until `tiercel resume`, over restarts too. A step that is under way ends first.
    """
    given = {} if playbook is None else {"playbook": playbook}
    said = tell(server, token_file, "/pause", given)
    say(f"paused: {', '.join('all' if name == '*' else name for name in said['paused'])}")
    tell_note(said)
