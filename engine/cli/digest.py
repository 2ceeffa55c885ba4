"""tiercel digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.playbook_arguments import load_valid, values_option
from engine.render.text import print_document

if TYPE_CHECKING:
    from pathlib import Path


@click.command("digest")
@click.argument("playbooks", nargs=-1)
@values_option
def command(*, playbooks: tuple[str, ...], values: Path | None) -> None:
    """Print the digest of PLAYBOOKS, a folder or files (default: playbooks/).

    The digest is the SHA-256 over the sorted lines `path NUL blob-id`, including values.yaml. `tiercel
    status` shows the digest of the set that the engine uses. Compare the two to see whether the
    engine has loaded a commit.

    \b
    Example:
      tiercel digest playbooks/

    Next: tiercel status --wait-for playbooks/
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    print_document(load_valid(playbooks, values).digest)
