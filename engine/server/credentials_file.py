"""Files of credentials: one entry per line, comments, read again when they change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from engine.server.reloading_file import ReloadingFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
log = structlog.get_logger()
SHORTEST = 16
"""Characters of a token or secret. Shorter ones can be guessed."""
MAX_BYTES = 1 << 20
"""Bytes of a credentials file."""
_BOM = b"\xef\xbb\xbf"


class CredentialsFile(Generic[T]):
    """The entries of a file. ``#`` starts a comment.

    entry: makes an entry of a line; raises ValueError with a sentence that does not contain the line.
    Raises OSError or ValueError at the start if the file has no entry or an invalid line. Later an invalid
    line gives no access and is logged, and a file without entries, or none at all, gives no access.
    """

    def __init__(self, name: str, file: Path, entry: Callable[[bytes], T]) -> None:
        self._file, self._entry, self._started = file, entry, False
        self._entries: ReloadingFile[tuple[T, ...]] = ReloadingFile(
            name, (file,), self._read, closed=()
        )
        self._started = True

    def now(self) -> tuple[T, ...]:
        """The entries of the file as it is now."""
        return self._entries.now()

    def _read(self) -> tuple[T, ...]:
        entries: list[T] = []
        for number, line in lines(self._file):
            try:
                entries.append(self._entry(line))
            except ValueError as error:
                what = f"{self._file}:{number}: {error}"
                if not self._started:
                    raise ValueError(what) from None
                log.warning("invalid line in a credentials file", error=what)
        if not entries:
            raise ValueError(f"{self._file} contains no credentials")
        return tuple(entries)


def lines(file: Path) -> list[tuple[int, bytes]]:
    """The lines of a credentials file with their numbers from 1, without comments and blank lines.

    Raises OSError, and ValueError for a file over MAX_BYTES.
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
