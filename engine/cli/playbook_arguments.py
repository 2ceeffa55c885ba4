"""The argument PLAYBOOKS and the option --values, which several commands have."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.actions.registry import load_actions
from engine.cli.exit_codes import FINDINGS, fail
from engine.language.folder import VALUES, Files, FolderError, read_bounded, read_files
from engine.language.loader import Loader
from engine.language.yaml_source import MAX_BYTES
from engine.render.findings import finding_lines
from engine.render.text import count, print_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from engine.language.loader import Inspect, PlaybookSet

DEFAULT_FOLDER = "playbooks/"
_STDIN = "<stdin>"


def values_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --values to a command."""
    return click.option(
        "--values",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File with the values for ${…}. It replaces values.yaml of the folder.",
    )(function)


def read_playbook_files(paths: Sequence[str], values: Path | None) -> Files:
    """Read the files of the paths; the file of --values becomes values.yaml.

    paths: folders and files, or ``-`` for stdin; default: playbooks/.
    Exits with code 1 if a path cannot be read.
    """
    try:
        if list(paths) == ["-"]:
            files = Files("", {_STDIN: sys.stdin.buffer.read(MAX_BYTES + 1)})
        else:
            files = read_files(list(paths) or [DEFAULT_FOLDER])
        if values is None:
            return files
        return replace(files, files={**files.files, VALUES: read_bounded(values)})
    except FolderError as error:
        command = click.get_current_context().command_path
        hint = f"Pass the folder with your playbooks, for example: {command} {DEFAULT_FOLDER}"
        fail(str(error), FINDINGS, hint)


def load(files: Files, values: Path | None, inspect: Inspect | None = None) -> PlaybookSet:
    """Load the set from files of ``read_playbook_files``; the set can have errors."""
    named = None if values is None else (str(values), files.files[VALUES])
    return Loader(load_actions(), inspect).load(files, named)


def require_valid(found: PlaybookSet) -> PlaybookSet:
    """Return the set. If it has errors, print them to stderr and exit with code 1."""
    if found.errors:
        for line in finding_lines(found.errors):
            print_line(line, err=True)
        fail(f"{count(len(found.errors), 'error')}; nothing was loaded.", FINDINGS)
    return found


def load_valid(paths: Sequence[str], values: Path | None) -> PlaybookSet:
    """Load the set of the paths. If it has errors, print them to stderr and exit with code 1.

    A set without documents is valid, but more often the wrong folder, so a note on stderr names it.
    """
    files = read_playbook_files(paths, values)
    found = require_valid(load(files, values))
    if not found.documents:
        folder = files.root or ", ".join(paths) or DEFAULT_FOLDER
        print_line(f"{folder}: there are no playbooks here", err=True)
    return found
