"""A value that is made from files, and made again when a file changes.

Secrets and certificates are rotated while the engine runs.
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
    """The value that ``read`` makes from the files.

    read: raises OSError or ValueError, without content of the files in the message. The constructor passes
    these errors on. Later errors are logged once for each change of the files.
    fallback: the value after a later error. If it is None, the last value stays.
    """

    def __init__(
        self,
        name: str,
        files: tuple[Path, ...],
        read: Callable[[], T],
        fallback: T | None = None,
    ) -> None:
        self._name, self._files, self._read, self._fallback = name, files, read, fallback
        # before the files are read, so that a change in between is detected
        self._stamp = _stamp(files)
        self._value = read()

    def current(self) -> T:
        """Return the value of the current files."""
        stamp = _stamp(self._files)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._value = self._read()
            except (OSError, ValueError) as error:
                self._use_fallback(error)
            else:
                log.info("file_reloaded", file=self._name)
        return self._value

    def _use_fallback(self, error: Exception) -> None:
        effect = "the last valid content stays in force"
        if self._fallback is not None:
            self._value, effect = self._fallback, "access is denied"
        log.warning("file_unreadable", file=self._name, effect=effect, error=str(error))


def _stamp(files: tuple[Path, ...]) -> Stamp:
    """Return metadata that differs after a change.

    The kubelet swaps a link, so the inode differs. The change time also covers a new mode, and a modification
    time that was set back.
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
