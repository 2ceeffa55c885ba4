"""Files of credentials: one entry per line, with comments. They are read again when they change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from engine.server.reloading_file import ReloadingFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
log = structlog.get_logger()
MIN_LENGTH = 16
"""Smallest number of characters of a token or secret. Shorter ones can be guessed."""
MAX_BYTES = 1 << 20
"""Largest size of a credentials file in bytes."""
_BOM = b"\xef\xbb\xbf"


class CredentialsFile(Generic[T]):
    """The entries of a file. ``#`` starts a comment.

    parse: makes an entry from a line. Raises ValueError with a message that does not contain the line.

    The constructor raises OSError or ValueError if the file has no entry or an invalid line. Later, an
    invalid line is logged and ignored, and a file without entries gives no access.
    """

    def __init__(self, name: str, file: Path, parse: Callable[[bytes], T]) -> None:
        self._file, self._parse, self._started = file, parse, False
        self._entries: ReloadingFile[tuple[T, ...]] = ReloadingFile(
            name, (file,), self._read, fallback=()
        )
        self._started = True

    def current(self) -> tuple[T, ...]:
        """Return the current entries of the file."""
        return self._entries.current()

    def _read(self) -> tuple[T, ...]:
        entries: list[T] = []
        for number, line in read_lines(self._file):
            try:
                entries.append(self._parse(line))
            except ValueError as error:
                what = f"{self._file}:{number}: {error}"
                if not self._started:
                    raise ValueError(what) from None
                log.warning("credentials_line_invalid", error=what)
        if not entries:
            raise ValueError(f"{self._file} contains no credentials")
        return tuple(entries)


def read_lines(file: Path) -> list[tuple[int, bytes]]:
    """Return the lines of a credentials file with their numbers, without comments and blank lines.

    Numbers start at 1. Raises OSError, and ValueError if the file is larger than MAX_BYTES.
    """
    with file.open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{file} is larger than {MAX_BYTES >> 20} MiB")
    stripped = (
        (number, line.partition(b"#")[0].strip())
        for number, line in enumerate(content.removeprefix(_BOM).splitlines(), 1)
    )
    return [(number, line) for number, line in stripped if line]
