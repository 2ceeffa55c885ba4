"""Reads the files of a playbook folder.

A mounted ConfigMap is read through its ``..data`` link. If the kubelet swaps the link during the read, the read
starts again, because the files could otherwise come from two versions.

A folder can come from a pull request. Only regular files below its root are read: a link that leads out of the
folder, a device and a hidden file are findings. The number of files and their total size are limited.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from engine.language.yaml_source import MAX_BYTES
from engine.model.errors import Finding, Location
from engine.model.revision import MAX_REVISION, parse_revision

if TYPE_CHECKING:
    from collections.abc import Sequence

VALUES = "values.yaml"
REVISION = "REVISION"
"""Name of the file with the revision. It is not a playbook file and not part of the digest."""
_SUFFIXES = (".yaml", ".yml")
_KUSTOMIZATION = ("kustomization.yaml", "kustomization.yml")
_TRIES = 10
MAX_FILES = 20_000
"""Playbook files of a folder."""
MAX_TOTAL = 10 * 2**20
"""Bytes of all playbook files of a folder. Compiled files take 18 times as much, and a reload holds two sets."""
MAX_ENTRIES = 200_000
"""Entries of a folder and its subfolders, including files that are not playbooks."""
MAX_EVENT_FILE = 4 * 2**20
"""Bytes of a file next to the playbooks, such as the ``eventFile`` of a test. As for a request body."""


class FolderError(Exception):
    """A folder that does not exist or cannot be read. The message names the folder and the reason."""


@dataclass(frozen=True, slots=True)
class Files:
    """A snapshot of a folder.

    root: path of the folder, relative to the current folder; empty for files named one by one. files: path
    below the root -> content. kustomization: path and content. findings: the files that were not read.
    revision: the commit that was deployed, from the file REVISION; "" if it is not known.
    """

    root: str
    files: dict[str, bytes]
    kustomization: tuple[str, bytes] | None = field(default=None, repr=False)
    findings: tuple[Finding, ...] = ()
    revision: str = ""

    def shown(self, path: str) -> str:
        """Return the path relative to the current folder, for messages. Bytes that are not UTF-8 are escaped."""
        return shown_path(str(Path(self.root) / path) if self.root else path)

    def beside(self, path: str, name: str) -> bytes:
        """Return the content of a file. Its ``name`` is relative to the file at ``path``.

        The file must be below the root, or below the folder of ``path`` if there is no root. Raises FolderError.
        """
        file = Path(self.root) / path
        root = Path(self.root) if self.root else file.parent
        real = _inside(file.parent / name, root.resolve())
        content = read_bounded(real, MAX_EVENT_FILE)
        if len(content) > MAX_EVENT_FILE:
            raise FolderError(f"the file is larger than {MAX_EVENT_FILE >> 20} MiB")
        return content

    @property
    def digest(self) -> str:
        """SHA-256 of the sorted lines ``path NUL blob-id``, hex. Includes values.yaml."""
        lines = sorted(f"{path}\0{blob_id(content)}\n" for path, content in self.files.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def blob_id(content: bytes) -> str:
    """Return the Git blob id of a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def read_files(paths: Sequence[str | Path]) -> Files:
    """Read one folder, or single files and the values.yaml next to the first. Raises FolderError."""
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return _read_folder(Path(paths[0]))
    files: dict[str, bytes] = {}
    for path in map(Path, paths):
        if path.is_dir():
            raise FolderError(f"{path} is a folder; name one folder, or only files")
        files[shown_path(str(path))] = read_bounded(path)
        _check_total(sum(map(len, files.values())), path)
    values = Path(paths[0]).parent / VALUES
    if os.path.lexists(values):
        try:
            files.setdefault(VALUES, read_bounded(_inside(values, values.parent.resolve())))
        except FolderError as error:
            return Files("", files, findings=(_not_read(str(values), str(error)),))
    return Files("", files)


def _check_total(size: int, path: Path) -> None:
    if size > MAX_TOTAL:
        raise FolderError(f"{path}: the total size of the files is more than {MAX_TOTAL >> 20} MiB")


def _read_folder(root: Path) -> Files:
    link = root / "..data"
    for _ in range(_TRIES):
        target = _link(link)
        try:
            found = _read_once(root, link if target else root)
        except FolderError:
            if _link(link) == target:
                raise
            continue
        if _link(link) == target:
            return found
    raise FolderError(f"{root}: its ..data link changed during each of {_TRIES} reads")


def _read_once(root: Path, base: Path) -> Files:
    """Read the files once. base: the root, or its ..data link. Raises FolderError."""
    try:
        real = Path(os.path.realpath(base, strict=True))
    except OSError as error:
        raise FolderError(f"{base}: {error.strerror}") from None
    if not real.is_relative_to(root.resolve()):
        raise FolderError(f"{base} is a link that leads out of the folder")
    files: dict[str, bytes] = {}
    kustomization, size = None, 0
    names, findings = _names(real, root)
    for path, linked in names:
        if len(files) >= MAX_FILES or size > MAX_TOTAL:
            what = (
                f"the folder has more than {MAX_FILES:,} playbook files, or more than"
                f" {MAX_TOTAL >> 20} MiB of them; this file and the following ones are not read"
            )
            findings.append(Finding(_at(root, path), "folder-limit", what))
            break
        try:
            content = read_bounded(_inside(real / path, real) if linked else base / path)
        except _NotReadError as error:
            findings.append(_not_read(str(root / path), str(error)))
            continue
        if path in _KUSTOMIZATION:
            kustomization = kustomization or (path, content)
        else:
            files[path] = content
            size += len(content)
    return Files(str(root), files, kustomization, tuple(findings), _read_revision(base, real))


def _read_revision(base: Path, real: Path) -> str:
    """Return the revision of the folder, "" if it is not known. A file that is not usable has no effect."""
    try:
        content = read_bounded(_inside(base / REVISION, real), 2 * MAX_REVISION)
        return parse_revision(content.decode())
    except (FolderError, UnicodeDecodeError):
        return ""


def _names(base: Path, root: Path) -> tuple[list[tuple[str, bool]], list[Finding]]:
    """Return (path, is a link) of each playbook file below ``base`` and of the kustomization, sorted by path.

    Hidden files are skipped. Raises FolderError.
    """
    found: list[tuple[str, bool]] = []
    findings: list[Finding] = []
    waiting, seen = [""], 0
    while waiting:
        folder = waiting.pop()
        for entry in _entries(base / folder):
            seen += 1
            if seen > MAX_ENTRIES:
                raise FolderError(f"{root} has more than {MAX_ENTRIES:,} files and folders")
            path = f"{folder}/{entry.name}" if folder else entry.name
            kind = _kind(entry, path)
            if kind == "folder":
                waiting.append(path)
            elif kind == "linked folder":
                what = "the files in a linked folder are not read"
                where = _at(root, path)
                findings.append(Finding(where, "not-read", what, "copy the folder", "warning"))
            elif kind and shown_path(path) != path:
                findings.append(_not_read(str(root / path), "the file name is not UTF-8"))
            elif kind == "other":
                findings.append(_not_read(str(root / path), "it is not a regular file"))
            elif kind:
                found.append((path, kind == "link"))
    return sorted(found), findings


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    entries = []
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                entries.append(entry)
                if len(entries) > MAX_ENTRIES:
                    break
    except OSError as error:
        raise FolderError(f"{shown_path(str(folder))}: {error.strerror}") from None
    return entries


def _kind(entry: os.DirEntry[str], path: str) -> str | None:
    """Return file, folder, link, linked folder or other; None for an entry that is ignored."""
    if entry.name.startswith("."):
        return None
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    if (
        entry.is_symlink() and Path(entry.path).is_dir()
    ):  # DirEntry.is_dir() raises for a loop of links
        return "linked folder"
    if not is_playbook_path(path) and path not in _KUSTOMIZATION:
        return None
    if entry.is_symlink():
        return "link"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def is_playbook_path(path: str) -> bool:
    """Whether a file with this path below the root is read as a playbook file."""
    parts = PurePosixPath(path).parts
    is_hidden = any(part.startswith(".") for part in parts)
    return path.endswith(_SUFFIXES) and not is_hidden and parts[-1] not in _KUSTOMIZATION


class _NotReadError(FolderError):
    """A file that is not read. The message is the reason, without the path."""


def _inside(path: Path, root: Path) -> Path:
    """Resolve all links of a path. root: without links. Raises _NotReadError if the file is outside of it.

    A name that begins with two dots belongs to a mounted ConfigMap and is not hidden.
    """
    try:
        real = Path(os.path.realpath(path, strict=True))
        regular = stat.S_ISREG(real.stat().st_mode)
    except OSError as error:
        raise _NotReadError(error.strerror or "it cannot be read") from None
    except ValueError as error:  # a NUL byte in the name
        raise _NotReadError(str(error)) from None
    if not real.is_relative_to(root):
        raise _NotReadError("it leads out of the folder")
    if any(part.startswith(".") and part[:2] != ".." for part in real.relative_to(root).parts):
        raise _NotReadError("it leads to a hidden file")
    if not regular:
        raise _NotReadError("it is not a regular file")
    return real


def _not_read(path: str, why: str) -> Finding:
    return Finding(
        Location(shown_path(path), 1, 1), "not-read", why, "only files of the folder are read"
    )


def _at(root: Path, path: str) -> Location:
    return Location(shown_path(str(root / path)), 1, 1)


def shown_path(path: str) -> str:
    """Return a path as text. Bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _link(link: Path) -> str | None:
    try:
        return os.readlink(link)  # noqa: PTH115 - Path.readlink does not return the text of the link
    except OSError:
        return None


def read_bounded(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Read at most ``limit + 1`` bytes, so that a huge file is not read as a whole. Raises FolderError."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise FolderError(f"{shown_path(str(path))}: {error.strerror}") from None
