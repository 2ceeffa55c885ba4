"""What a file says, read again when it changes: Secrets and certificates are rotated under a running engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int] | None, ...]
log = structlog.get_logger()


class Reread(Generic[T]):
    """What ``read`` makes of the files; made again when one of them has changed since.

    Where that fails, what was made last stays good, and the log says so once a change, not once a look.
    ``read`` raises OSError or ValueError, without what the files hold; so does the first reading.
    """

    def __init__(self, name: str, files: tuple[Path, ...], read: Callable[[], T]) -> None:
        self._name, self._files, self._read = name, files, read
        # looked at before they are read: what changes in between is seen the next time
        self._stamp = _stamp(files)
        self._value = read()

    def now(self) -> T:
        """What the files say now."""
        stamp = _stamp(self._files)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._value = self._read()
            except (OSError, ValueError) as error:
                log.warning(
                    "not read again, the last good one stays", what=self._name, error=str(error)
                )
            else:
                log.info("read again", what=self._name)
        return self._value


def _stamp(files: tuple[Path, ...]) -> Stamp:
    """What tells that a file has changed; the kubelet swaps a link, so the inode is another, too."""
    stamps: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            stat = file.stat()
            stamps.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
        except OSError:
            stamps.append(None)
    return tuple(stamps)
