"""tiercel digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.playbook_arguments import load_valid, values_option
from engine.render.text import echo

if TYPE_CHECKING:
    from pathlib import Path


@click.command("digest")
@click.argument("playbooks", nargs=-1)
@values_option
def command(*, playbooks: tuple[str, ...], values: Path | None) -> None:
    """Print the digest of PLAYBOOKS, a folder or files (default: playbooks/).

    It is the SHA-256 over the sorted lines `path NUL blob-id`, values.yaml included; /status shows that of
    the set that is in force, so that one can tell whether a commit has arrived.
    """
    echo(load_valid(playbooks, values).digest)
