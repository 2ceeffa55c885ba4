"""A playbook folder: which files of it are read, and the set of documents that they make.

A mounted ConfigMap is read through its ``..data`` link, whole or again: the kubelet swaps the link, so files
read before and after a swap would be halves of two sets.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.language.source import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VALUES = "values.yaml"
_SUFFIXES = (".yaml", ".yml")
_KUSTOMIZATION = ("kustomization.yaml", "kustomization.yml")
_TRIES = 10
MAX_FILES = 20_000


class FolderError(Exception):
    """A folder that is not there, is empty or cannot be read; the sentence says which and why."""


@dataclass(frozen=True, slots=True)
class Files:
    """A snapshot of a folder. files: path below the root -> content; root: as reached from here."""

    root: str
    files: dict[str, bytes]
    kustomization: tuple[str, bytes] | None = field(default=None, repr=False)

    def shown(self, path: str) -> str:
        """The file as reached from the current folder."""
        return str(Path(self.root) / path) if self.root else path

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
        files[str(path)] = read_bounded(path)
    values = Path(paths[0]).parent / VALUES
    if values.is_file():
        files.setdefault(VALUES, read_bounded(values))
    return Files("", files)


def _read_folder(root: Path) -> Files:
    link = root / "..data"
    for _ in range(_TRIES):
        target = _link(link)
        base = link if target else root
        try:
            files = {str(path): read_bounded(base / path) for path in sorted(_names(base))}
            kustomization = next(
                (
                    (name, read_bounded(base / name))
                    for name in _KUSTOMIZATION
                    if (base / name).is_file()
                ),
                None,
            )
        except FolderError:
            if _link(link) == target:
                raise
            continue
        if _link(link) == target:
            return Files(str(root), files, kustomization)
    raise FolderError(f"{root}: its ..data link never stood still")


def _link(link: Path) -> str | None:
    try:
        return os.readlink(link)  # noqa: PTH115 - Path has no reading of a link that dangles
    except OSError:
        return None


def _names(base: Path) -> Iterator[Path]:
    """The playbook files below ``base``, and the root's values.yaml; names with a dot first are skipped."""
    count = 0
    for folder, folders, names in os.walk(base, onerror=_fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.startswith(".") or not name.endswith(_SUFFIXES) or name in _KUSTOMIZATION:
                continue
            count += 1
            if count > MAX_FILES:
                raise FolderError(f"{base} has more than {MAX_FILES:,} playbook files")
            yield (Path(folder) / name).relative_to(base)


def _fail(error: OSError) -> None:
    raise FolderError(f"{error.filename}: {error.strerror}") from error


def read_bounded(path: Path) -> bytes:
    """The content, cut past the size that is refused: a huge file is never read whole. Raises FolderError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}") from None
