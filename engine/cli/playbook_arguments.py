"""What commands that take PLAYBOOKS share."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from engine.actions.registry import load_actions
from engine.language.folder import VALUES, Files, FolderError, read_bounded, read_files
from engine.language.loader import Loader
from engine.language.yaml_source import MAX_BYTES
from engine.render.findings import finding_lines
from engine.render.text import count, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from engine.language.loader import Inspect, PlaybookSet

DEFAULT = "playbooks/"
_STDIN = "<stdin>"


def values_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option --values."""
    return click.option(
        "--values",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Values for ${…} in place of the folder's values.yaml.",
    )(function)


def load(paths: Sequence[str], values: Path | None, inspect: Inspect | None = None) -> PlaybookSet:
    """The set of the paths (default: playbooks/), whatever is wrong with it; exit 1 without a folder."""
    return load_files(files_of(paths, values), values, inspect)


def load_files(files: Files, values: Path | None, inspect: Inspect | None = None) -> PlaybookSet:
    """The set of files that ``files_of`` has read, whatever is wrong with it."""
    named = None if values is None else (str(values), files.files[VALUES])
    return Loader(load_actions(), inspect).load(files, named)


def files_of(paths: Sequence[str], values: Path | None) -> Files:
    """The files of the paths (default: playbooks/; - is stdin), with that of --values as values.yaml.

    Exit 1 without a folder.
    """
    try:
        if list(paths) == ["-"]:
            files = Files("", {_STDIN: sys.stdin.buffer.read(MAX_BYTES + 1)})
        else:
            files = read_files(list(paths) or [DEFAULT])
        if values is None:
            return files
        return replace(files, files={**files.files, VALUES: read_bounded(values)})
    except FolderError as error:
        fail(str(error), 1, "Name a folder of playbooks: tiercel check DIR")


def load_valid(paths: Sequence[str], values: Path | None) -> PlaybookSet:
    """The set, where it has no error; else its errors on stderr and exit 1."""
    return require_valid(load(paths, values))


def require_valid(found: PlaybookSet) -> PlaybookSet:
    """The set, where it has no error; else its errors on stderr and exit 1."""
    if found.errors:
        for line in finding_lines(found.errors):
            say(line, err=True)
        fail(f"{count(len(found.errors), 'error')}; nothing was loaded.", 1)
    return found


def fail(message: str, code: int, hint: str | None = None) -> NoReturn:
    """Print what failed to stderr, and the hint on a line of its own; exit."""
    say(message, err=True)
    if hint:
        say(hint, err=True)
    sys.exit(code)
