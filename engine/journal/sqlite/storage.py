"""The file system under the journal: its type, its size, and whether the files are still in place."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
_NETWORK_FILE_SYSTEMS = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "9p", "glusterfs", "lustre", "afs",
)  # fmt: skip
"""File systems of other machines. Their locks and fsync can be without effect."""
_FUSE = ("fuse", "fuseblk")
"""File systems in user space. The name of the program follows after a dot."""
_MOUNT_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
"""An escaped byte in a mount point: space, tab, newline or backslash."""

MAX_BYTES = 4 << 30
"""Maximum size of a journal: about a million runs with events of 1.5 KB."""
_DISK_SHARE = 0.8
"""Maximum share of the disk. The rest is for the write-ahead log and for other files."""


def max_journal_bytes(folder: Path, disk_bytes: int | None = None) -> int:
    """Return the maximum size of a journal in this folder, in bytes.

    disk_bytes: size of the disk; None to measure it, 0 if it is unknown.
    """
    if disk_bytes is None:
        try:
            measured = os.statvfs(folder)
        except OSError:  # the next write reports the error of a broken disk
            return MAX_BYTES
        disk_bytes = measured.f_blocks * measured.f_frsize
    return min(MAX_BYTES, int(disk_bytes * _DISK_SHARE)) if disk_bytes else MAX_BYTES


def unsafe_file_system(folder: Path, mounts: bytes | None = None) -> str | None:
    """Return the type of the folder's file system if SQLite cannot rely on it, otherwise None.

    mounts: in the format of /proc/self/mountinfo (proc(5)); None to read that file. If the file does not
    exist, every file system counts as safe.
    """
    if mounts is None:
        try:
            mounts = MOUNTS.read_bytes()
        except OSError:
            return None
    kind = _file_system(os.fsencode(os.path.realpath(folder)), mounts)
    return kind if kind in _NETWORK_FILE_SYSTEMS or kind.partition(".")[0] in _FUSE else None


def _file_system(folder: bytes, mounts: bytes) -> str:
    """Return the type of the innermost mount above the folder. A later mount covers an earlier one."""
    innermost, kind = b"", b""
    for line in mounts.split(b"\n"):
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        if len(fields) < 5 or not after:  # noqa: PLR2004 - the fifth field is the mount point
            continue
        point = _MOUNT_ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), fields[4])
        within = folder == point or folder.startswith(point.rstrip(b"/") + b"/")
        if within and len(point) >= len(innermost):
            innermost, kind = point, after.split(b" ")[0]
    return kind.decode("ascii", "replace")


class JournalFiles:
    """The journal file and its lock file, as they were when the engine opened them.

    A deleted file stays open and writable, but its data is lost when the process ends. lock: descriptor of
    the lock file.
    """

    def __init__(self, path: Path, lock: int) -> None:
        lock_path = path.with_name(f"{path.name}.lock")
        self._opened = {path: _identity(path.stat()), lock_path: _identity(os.fstat(lock))}

    def error(self) -> str | None:
        """Return a sentence that names a file that was deleted or replaced and the fix, or None."""
        for path, opened in self._opened.items():
            try:
                found = _identity(path.stat())
            except OSError:
                found = None
            if found != opened:
                return (
                    f"{path} was deleted or replaced while the engine was running: restore the file, or"
                    " restart the engine (if the file is lost, with an empty journal)"
                )
        return None


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
