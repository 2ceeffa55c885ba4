"""A playbook folder: which files of it are read, and the set of documents that they make.

A mounted ConfigMap is read through its ``..data`` link, whole or again: the kubelet swaps the link, so files
read before and after a swap would be halves of two sets.

A folder may come from a pull request. Only regular files below its root are read: a link that leads out of
it, a device and a hidden file are findings. The number of files and their total size are limited.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.language.yaml_source import MAX_BYTES
from engine.model.errors import Finding, Location

if TYPE_CHECKING:
    from collections.abc import Sequence

VALUES = "values.yaml"
_SUFFIXES = (".yaml", ".yml")
_KUSTOMIZATION = ("kustomization.yaml", "kustomization.yml")
_TRIES = 10
MAX_FILES = 20_000
"""Playbook files of a folder."""
MAX_TOTAL = 10 * 2**20
"""Bytes of all playbook files of a folder. Compiled they take some 18 times as much; a reload holds two sets."""
MAX_ENTRIES = 200_000
"""Names that are looked at in a folder and its subfolders, playbook files or not."""
MAX_EVENT_FILE = 4 * 2**20
"""Bytes of a file beside the playbooks, such as the ``eventFile`` of a test: those of a body."""


class FolderError(Exception):
    """A folder that is not there, is empty or cannot be read; the sentence says which and why."""


@dataclass(frozen=True, slots=True)
class Files:
    """A snapshot of a folder.

    files: path below the root -> content; root: as reached from here. findings: what was left out, at its
    place; an error where it would have been read.
    """

    root: str
    files: dict[str, bytes]
    kustomization: tuple[str, bytes] | None = field(default=None, repr=False)
    findings: tuple[Finding, ...] = ()

    def shown(self, path: str) -> str:
        """The file as reached from the current folder; bytes that are not UTF-8 are escaped."""
        return shown_path(str(Path(self.root) / path) if self.root else path)

    def beside(self, path: str, name: str) -> bytes:
        """The content of a file that the file at ``path`` names, relative to itself.

        It stands below the root, or in the folder of a file that was named itself. Raises FolderError.
        """
        file = Path(self.root) / path
        root = Path(self.root) if self.root else file.parent
        real = _inside(file.parent / name, root.resolve())
        content = read_bounded(real, MAX_EVENT_FILE)
        if len(content) > MAX_EVENT_FILE:
            raise FolderError(f"it is larger than {MAX_EVENT_FILE >> 20} MiB")
        return content

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted lines ``path NUL blob-id``, hex; values.yaml included."""
        lines = sorted(f"{path}\0{blob_id(content)}\n" for path, content in self.files.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def blob_id(content: bytes) -> str:
    """The id that Git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def read_files(paths: Sequence[str | Path]) -> Files:
    """The playbook files of one folder, or the files named. Raises FolderError."""
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return _read_folder(Path(paths[0]))
    files: dict[str, bytes] = {}
    for path in map(Path, paths):
        if path.is_dir():
            raise FolderError(f"{path} is a folder: name one folder, or files")
        files[shown_path(str(path))] = read_bounded(path)
        _check_total(sum(map(len, files.values())), path)
    values = Path(paths[0]).parent / VALUES
    if os.path.lexists(values):
        try:
            files.setdefault(VALUES, read_bounded(_inside(values, values.parent.resolve())))
        except FolderError as error:
            return Files("", files, findings=(_left_out(str(values), str(error)),))
    return Files("", files)


def _check_total(size: int, path: Path) -> None:
    if size > MAX_TOTAL:
        raise FolderError(f"{path}: the files are larger than {MAX_TOTAL >> 20} MiB together")


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
    raise FolderError(f"{root}: its ..data link never stood still")


def _read_once(root: Path, base: Path) -> Files:
    """The files as they are now. base: the root, or its ..data link. Raises FolderError."""
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
                f" {MAX_TOTAL >> 20} MiB of them; this file and the next ones are not read"
            )
            findings.append(Finding(_at(root, path), "folder-limit", what))
            break
        try:
            content = read_bounded(_inside(real / path, real) if linked else base / path)
        except _LeftOutError as error:
            findings.append(_left_out(str(root / path), str(error)))
            continue
        if path in _KUSTOMIZATION:
            kustomization = kustomization or (path, content)
        else:
            files[path] = content
            size += len(content)
    return Files(str(root), files, kustomization, tuple(findings))


def _names(base: Path, root: Path) -> tuple[list[tuple[str, bool]], list[Finding]]:
    """The playbook files below ``base`` and the root's kustomization, by name, and whether each is a link.

    Names that begin with a dot are skipped. Raises FolderError.
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
                what = "it is a link to a folder, so what stands in it is not read"
                where = _at(root, path)
                findings.append(Finding(where, "not-read", what, "copy it", "warning"))
            elif kind and shown_path(path) != path:
                findings.append(_left_out(str(root / path), "the file name is not UTF-8"))
            elif kind == "other":
                findings.append(_left_out(str(root / path), "it is not a regular file"))
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
    """What is read of an entry: a file, a folder, a link to one of them; None for what does not count."""
    if entry.name.startswith("."):
        return None
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    if entry.is_symlink() and Path(entry.path).is_dir():  # is_dir() of an entry raises on a loop
        return "linked folder"
    nested_kustomization = entry.name in _KUSTOMIZATION and path != entry.name
    if not entry.name.endswith(_SUFFIXES) or nested_kustomization:
        return None
    if entry.is_symlink():
        return "link"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


class _LeftOutError(FolderError):
    """A file that is not read; the sentence says why, not which."""


def _inside(path: Path, root: Path) -> Path:
    """The file itself, whatever links lead to it. root: without links. Raises _LeftOutError.

    A name that begins with two dots is one of a mounted ConfigMap, not a hidden file.
    """
    try:
        real = Path(os.path.realpath(path, strict=True))
        regular = stat.S_ISREG(real.stat().st_mode)
    except OSError as error:
        raise _LeftOutError(error.strerror or "it cannot be read") from None
    except ValueError as error:  # a NUL in the name
        raise _LeftOutError(str(error)) from None
    if not real.is_relative_to(root):
        raise _LeftOutError("it leads out of the folder")
    if any(part.startswith(".") and part[:2] != ".." for part in real.relative_to(root).parts):
        raise _LeftOutError("it leads to a hidden file")
    if not regular:
        raise _LeftOutError("it is not a regular file")
    return real


def _left_out(path: str, why: str) -> Finding:
    return Finding(
        Location(shown_path(path), 1, 1), "not-read", why, "only files of the folder are read"
    )


def _at(root: Path, path: str) -> Location:
    return Location(shown_path(str(root / path)), 1, 1)


def shown_path(path: str) -> str:
    """A path as text; bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _link(link: Path) -> str | None:
    try:
        return os.readlink(link)  # noqa: PTH115 - Path has no reading of a link that dangles
    except OSError:
        return None


def read_bounded(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content, cut one byte past the limit: a huge file is never read whole. Raises FolderError."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise FolderError(f"{shown_path(str(path))}: {error.strerror}") from None
