"""Values that are made of files, and made again when a file changes.

Secrets and certificates are rotated under a running engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
Stamp = tuple[tuple[int, ...] | None, ...]
log = structlog.get_logger()


class ReloadingFile(Generic[T]):
    """The value that ``read`` makes of the files; made again when one of them has changed.

    read: raises OSError or ValueError, without the content of the files. The first call of it passes these
    on. Later errors are logged once per change of the files.
    closed: the value after a later error. Without it the last value stays.
    """

    def __init__(
        self,
        name: str,
        files: tuple[Path, ...],
        read: Callable[[], T],
        closed: T | None = None,
    ) -> None:
        self._name, self._files, self._read, self._closed = name, files, read, closed
        # taken before the files are read: a change in between is seen the next time
        self._stamp = _stamp(files)
        self._value = read()

    def now(self) -> T:
        """The value of the files as they are now."""
        stamp = _stamp(self._files)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._value = self._read()
            except (OSError, ValueError) as error:
                self._fail(error)
            else:
                log.info("file read again", what=self._name)
        return self._value

    def _fail(self, error: Exception) -> None:
        effect = "the last valid content stays in force"
        if self._closed is not None:
            self._value, effect = self._closed, "access is denied"
        log.warning("file not readable", what=self._name, effect=effect, error=str(error))


def _stamp(files: tuple[Path, ...]) -> Stamp:
    """Metadata that differs after a change.

    The kubelet swaps a link, so the inode differs. The change time covers a new mode, and a modification time
    that was set back.
    """
    stamps: list[tuple[int, ...] | None] = []
    for file in files:
        try:
            stat = file.stat()
            stamps.append(
                (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev, stat.st_ino, stat.st_size)
            )
        except OSError:
            stamps.append(None)
    return tuple(stamps)
