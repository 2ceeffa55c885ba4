"""Whether a file stands on a disk that SQLite's locks and fsync can trust, and whether it still stands there."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
_SHARED = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "9p", "glusterfs", "lustre", "afs")
"""File systems of other machines, where locks may be nobody's and an fsync may promise nothing."""

MAX_BYTES = 4 << 30
"""Bytes of a journal at most: about a million runs with their events of 1.5 KB."""
_SHARE = 0.8
"""Of its disk, what a journal may have at most: the rest is for its log and for whatever stands beside it."""


def room(folder: Path, size: int | None = None) -> int:
    """Bytes that a journal in the folder may have. size: of the disk, where it is not asked; 0 is unknown."""
    if size is None:
        try:
            told = os.statvfs(folder)
        except OSError:  # a disk that is broken is told of by what is written to it
            return MAX_BYTES
        size = told.f_blocks * told.f_frsize
    return min(MAX_BYTES, int(size * _SHARE)) if size else MAX_BYTES


_FUSE = ("fuse", "fuseblk")
"""And those of some program, which may be anything behind; its name stands behind a dot."""
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
"""A byte that would end a field: a blank, a tab, a line's end, or the backslash itself."""


def untrusted(folder: Path, mounts: bytes | None = None) -> str | None:
    """The kind of file system that the folder stands on, where a journal must not; None where it may.

    mounts: in the format of /proc/self/mountinfo (proc(5)), whose names are bytes of any kind; where there is
    none, every disk is trusted.
    """
    if mounts is None:
        try:
            mounts = MOUNTS.read_bytes()
        except OSError:
            return None
    kind = _kind(os.fsencode(os.path.realpath(folder)), mounts)
    return kind if kind in _SHARED or kind.partition(".")[0] in _FUSE else None


def _kind(folder: bytes, mounts: bytes) -> str:
    """The type of the innermost mount that has the folder; of two on one place the later is on top."""
    inner, kind = b"", b""
    for line in mounts.split(b"\n"):
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        if len(fields) < 5 or not after:  # noqa: PLR2004 - the fifth is the mount point
            continue
        point = _ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), fields[4])
        within = folder == point or folder.startswith(point.rstrip(b"/") + b"/")
        if within and len(point) >= len(inner):
            inner, kind = point, after.split(b" ")[0]
    return kind.decode("ascii", "replace")


class Place:
    """Where the file of a journal and its lock stand, from when both were opened.

    An open file outlives its name: what is written to it then is gone with the process. lock: its descriptor.
    """

    def __init__(self, path: Path, lock: int) -> None:
        beside = path.with_name(f"{path.name}.lock")
        self._opened = {path: _identity(path.stat()), beside: _identity(os.fstat(lock))}

    def lost(self) -> str | None:
        """What is not there any more, and what to do about it; None where all is."""
        for path, opened in self._opened.items():
            try:
                found = _identity(path.stat())
            except OSError:
                found = None
            if found != opened:
                return (
                    f"{path} was deleted or replaced under the engine: put it back as it was, or start the"
                    " engine again, with an empty journal where this one is gone"
                )
        return None


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
