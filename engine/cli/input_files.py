"""Read the files that a command line names: EVENTS and cluster objects. Limits sizes and refuses devices."""

from __future__ import annotations

import stat
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from engine.cli.exit_codes import USAGE, fail

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_EVENTS_BYTES = 64 * 2**20
"""Bytes of EVENTS for commands that read the file as a whole. ``tiercel replay`` reads a stream."""
_KINDS = (stat.S_ISREG, stat.S_ISFIFO, stat.S_ISSOCK)


@contextmanager
def open_input(name: str, usage: str) -> Iterator[IO[bytes]]:
    """Open a regular file or a pipe for reading; ``-`` is stdin, which stays open.

    If it cannot be opened, print the reason and ``usage``, and exit with code 2.
    """
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        mode = Path(name).stat().st_mode
        if stat.S_ISDIR(mode):
            fail(f"{name}: is a folder, and a file is needed", USAGE, usage)
        if not any(is_kind(mode) for is_kind in _KINDS):
            fail(f"{name}: not a regular file or a pipe", USAGE, usage)
        file = Path(name).open("rb")  # noqa: SIM115 - closed below; only its opening may fail here
    except OSError as error:
        fail(f"{name}: {error.strerror}", USAGE, usage)
    with file:
        yield file


def read_events_input(name: str, command: str) -> bytes:
    """Return the content of EVENTS, at most 64 MiB. On an error, print it and exit with code 2.

    command: ``plan`` or ``explain``.
    """
    usage = f"tiercel {command} [PLAYBOOKS] EVENTS"
    with open_input(name, usage) as file:
        try:
            content = file.read(MAX_EVENTS_BYTES + 1)
        except OSError as error:
            fail(f"{name}: {error.strerror}", USAGE, usage)
    if len(content) > MAX_EVENTS_BYTES:
        hint = "To read recorded events of any size: tiercel replay [PLAYBOOKS] EVENTS"
        fail(f"{name}: larger than {MAX_EVENTS_BYTES >> 20} MiB", USAGE, hint)
    return content
