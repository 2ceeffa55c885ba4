"""tiercel digest."""

from __future__ import annotations

import click

from engine.cli.playbooks import DEFAULT, fail
from engine.language.folder import FolderError, read_files
from engine.render.text import echo


@click.command("digest")
@click.argument("playbooks", nargs=-1)
def command(playbooks: tuple[str, ...]) -> None:
    """Print the digest of PLAYBOOKS, a folder or files (default: playbooks/).

    It is the SHA-256 over the sorted lines `path NUL blob-id`, values.yaml included; /status shows that of
    the set that is in force, so that one can tell whether a commit has arrived.
    """
    try:
        echo(read_files(list(playbooks) or [DEFAULT]).digest)
    except FolderError as error:
        fail(str(error), 1)
