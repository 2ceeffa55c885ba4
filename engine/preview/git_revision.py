"""The playbook files of another Git revision, read from Git's objects (see ``git_repository``)."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from engine.language.folder import VALUES, Files, is_playbook_path, shown_path
from engine.preview.git_repository import Entry, Repository, RevisionError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

_BLOBS = ("100644", "100755", "100664")
_LINK, _SUBMODULE = "120000", "160000"
_LEADS_OUT = "the link does not lead to a file of the folder"
_MAX_LINKS = 10
"""Symbolic links that are followed one after the other."""


@dataclass(frozen=True, slots=True)
class Revision:
    """The playbook files of a revision.

    Attributes:
        name: the name under which it was found, for example ``origin/main`` for ``main``.
        commit: the id of the commit.
        files: the files.
        values: content of the file that replaces values.yaml, or None if the revision does not have it.
        notes: messages about files that are not read.

    """

    name: str
    commit: str
    files: Files
    values: bytes | None = None
    notes: tuple[str, ...] = ()


def read_revision(ref: str, paths: Sequence[str], values: Path | None = None) -> Revision:
    """Return the playbook files of a folder, or of given files, in a revision. Raises RevisionError.

    The rules for file names are those of a folder on disk. values: a file that replaces values.yaml.
    """
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return _read_folder(ref, Path(paths[0]), values)
    repository = Repository(Path(paths[0]).parent)
    name, commit = repository.resolve(ref)
    files: dict[str, bytes] = {}
    for path in paths:
        content = _read_file(commit, Path(path))
        if content is None:
            raise RevisionError(f"{path} is not in {name}: there is nothing to compare with")
        files[path] = content
    beside = _read_file(commit, Path(paths[0]).parent / VALUES)
    if beside is not None:
        files.setdefault(VALUES, beside)
    return Revision(name, commit, Files("", files), _old_values(commit, values))


def _read_folder(ref: str, folder: Path, values: Path | None) -> Revision:
    repository = Repository(folder)
    name, commit = repository.resolve(ref)
    try:
        entries = repository.entries(commit, below=True)
    except RevisionError:
        raise RevisionError(
            f"{folder} is not in {name}: there is nothing to compare with"
        ) from None
    counted = {path for path in entries if is_playbook_path(path) and _is_text(path)}
    blobs = {path: entries[path] for path in counted if entries[path].mode in _BLOBS}
    if any(entries[path].mode == _LINK for path in counted):
        links = {path: entry for path, entry in entries.items() if entry.mode == _LINK}
        followed = _followed(repository.contents(links), entries)
        blobs |= {path: entry for path, entry in followed.items() if path in counted}
    files = Files(f"{name}:{folder}", repository.contents(dict(sorted(blobs.items()))))
    notes = (f"{name}:{shown_path(path)} {why}" for path, why in _left_out(entries, blobs.keys()))
    return Revision(name, commit, files, _old_values(commit, values), tuple(notes))


def _is_text(path: str) -> bool:
    return shown_path(path) == path


def _followed(links: Mapping[str, bytes], entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return the targets of links, if they are files of the folder and not hidden."""
    found = {}
    for link in links:
        at = link
        for _ in range(_MAX_LINKS):
            at = posixpath.normpath(posixpath.join(posixpath.dirname(at), os.fsdecode(links[at])))
            if at not in links:
                break
        entry = entries.get(at)
        hidden = any(part.startswith(".") for part in PurePosixPath(at).parts)
        if entry and entry.mode in _BLOBS and not hidden:
            found[link] = entry
    return found


def _left_out(entries: Mapping[str, Entry], taken: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield path and reason of playbook files and submodules that are not read."""
    for path, entry in entries.items():
        if entry.mode == _SUBMODULE:
            yield path, "is a submodule, which is not read"
        elif path not in taken and is_playbook_path(path):
            link = entry.mode == _LINK
            yield path, f"is not read: {_LEADS_OUT if link else 'the file name is not UTF-8'}"


def _read_file(commit: str, path: Path) -> bytes | None:
    """Return a file of a commit, or None if the commit does not have it."""
    try:
        repository = Repository(path.parent)
        entries = repository.entries(commit, below=False)
        entry = entries.get(path.name)
        if entry is None or entry.mode not in _BLOBS:
            return None
        return repository.contents({path.name: entry})[path.name]
    except RevisionError:
        return None


def _old_values(commit: str, values: Path | None) -> bytes | None:
    return None if values is None else _read_file(commit, values)
