"""The playbook files of another Git revision, read from Git's objects. Nothing is checked out or changed.

The checkout is not trusted: a pull request decides which files are in it. Git therefore runs without hooks,
file system monitors and transports, and reads only the configuration of the repository itself. A folder of
committed files that looks like a repository is refused.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from engine.language.findings import nearest
from engine.language.folder import (
    MAX_FILES,
    MAX_TOTAL,
    VALUES,
    Files,
    is_playbook_path,
    shown_path,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

_SECONDS = 60.0
_BLOBS = ("100644", "100755", "100664")
_LINK, _SUBMODULE = "120000", "160000"
_LEADS_OUT = "the link does not lead to a file of the folder"
_MAX_LINKS = 10
"""Symbolic links that are followed one after the other."""
_SETTINGS = (
    "safe.bareRepository=explicit", "protocol.allow=never", "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
)  # fmt: skip
_ENVIRONMENT = {
    "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1", "GIT_OPTIONAL_LOCKS": "0",
}  # fmt: skip
_NO_CONFIGURATION = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_GLOBAL": "/dev/null",
}  # fmt: skip
_KEPT = (
    "GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM",
)  # fmt: skip
"""Variables that say where Git looks. Others are removed: some of them can run commands."""
_NAMESPACES = ("refs/tags", "refs/heads", "refs/remotes")
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_RELATIVE = re.compile(r"[~^]|@\{")
_MODIFIER = re.compile(r"[~^:]|@\{")


class RevisionError(Exception):
    """A revision, or a folder in it, cannot be read. The message says why and names the next command."""


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


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: str
    blob: str
    size: int


class Repository:
    """The Git repository of a folder.

    Raises RevisionError if the folder is not in a repository. Also raises it if the current folder is above
    it and belongs to another repository: with a submodule or a link, a pull request could choose the
    history that it is compared with.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._trusted = [
            f"safe.directory={value}"
            for scope in ("--system", "--global")
            for value in self._user_setting(scope, "safe.directory")
        ]
        self._top = self._top_of(folder)
        self.prefix = self._prefix()

    def _top_of(self, folder: Path) -> Path:
        """Return the top of the work tree. It must contain ``.git``, which cannot be part of a commit."""
        output = self._git("rev-parse", "--show-toplevel", folder=folder)
        top = Path(os.fsdecode(output.removesuffix(b"\n")))
        real = folder.resolve()
        own = next((one for one in (real, *real.parents) if (one / ".git").exists()), None)
        if own is None or own != top.resolve():
            raise RevisionError(f"{folder} is in a folder that only looks like a Git repository")
        return own

    def _prefix(self) -> str:
        """Return the path of the folder below the top. Links in the work tree are not followed."""
        folder = Path(os.path.abspath(self._folder))  # noqa: PTH100 - resolve() follows links
        around = Path.cwd()
        if folder.is_relative_to(around):
            try:
                outer = self._top_of(around)
            except RevisionError:
                outer = self._top
            if outer != self._top:
                raise RevisionError(
                    f"{self._folder} belongs to the Git repository {self._top}, not to {outer}"
                )
        for above in (folder, *folder.parents):
            if above.resolve() == self._top:
                return folder.relative_to(above).as_posix()
        return folder.resolve().relative_to(self._top).as_posix()

    def resolve(self, ref: str) -> tuple[str, str]:
        """Return the name under which a revision was found, and its commit. Raises RevisionError."""
        if not ref or ref.startswith("-"):
            raise RevisionError(
                f"`{ref}` is not a Git revision: --against main, or a tag or commit"
            )
        # a clone of one branch has the other branches only as those of the remote
        for name in (ref, f"origin/{ref}"):
            commit = self._commit(name)
            if commit:
                self._require_one(name)
                return name, commit
        if self._git("rev-parse", "--is-shallow-repository").strip() == b"true":
            raise RevisionError(
                f"`{ref}` is not in this shallow clone; fetch it with {_fetch(ref)}"
            )
        names = self._git("for-each-ref", "--format=%(refname:short)").decode(errors="replace")
        near = nearest(ref, names.split())
        hint = f" (nearest: {near})" if near else ""
        raise RevisionError(f"`{ref}` is not a revision of this Git repository{hint}")

    def _require_one(self, name: str) -> None:
        """Raise RevisionError if several tags or branches have the name."""
        plain = _MODIFIER.split(name, maxsplit=1)[0]
        wanted = [f"{space}/{plain}" for space in _NAMESPACES]
        listed = self._git("for-each-ref", "--format=%(refname)", *wanted).decode(errors="replace")
        found = [one for one in listed.splitlines() if one in wanted]
        if len(found) > 1:
            raise RevisionError(f"`{plain}` is ambiguous; name one of {', '.join(found)}")

    def entries(self, commit: str, *, below: bool) -> dict[str, _Entry]:
        """Return the entries of the folder by path. below: also those of its subfolders.

        Raises RevisionError if the commit does not have the folder.
        """
        options = ["-r"] if below else []
        tree = self._git("ls-tree", *options, "-l", "-z", "--full-tree", self._tree(commit))
        found = {}
        for line in tree.split(b"\0"):
            if line:
                columns, _, name = line.partition(b"\t")
                mode, _, blob, size = columns.split()
                bytes_ = int(size) if size != b"-" else 0
                found[os.fsdecode(name)] = _Entry(mode.decode(), blob.decode(), bytes_)
        return found

    def _tree(self, commit: str) -> str:
        """Return the id of the folder's tree. Links to other folders of the commit are followed."""
        path = "" if self.prefix == "." else self.prefix
        asked = f"{commit}:{path}\n"
        output = self._git(
            "cat-file", "--batch-check", "--follow-symlinks", send=os.fsencode(asked)
        )
        blob, _, rest = output.partition(b" ")
        if not rest.startswith(b"tree "):
            raise RevisionError(f"{path} is not a folder of {commit}")
        return blob.decode()

    def contents(self, entries: Mapping[str, _Entry]) -> dict[str, bytes]:
        """Return the contents of blobs by path. Raises RevisionError if they exceed the limits of a folder."""
        if len(entries) > MAX_FILES or sum(one.size for one in entries.values()) > MAX_TOTAL:
            raise RevisionError(
                f"the old revision has more than {MAX_FILES:,} playbook files,"
                f" or more than {MAX_TOTAL >> 20} MiB of them"
            )
        blobs = "".join(f"{one.blob}\n" for one in entries.values()).encode()
        out = self._git("cat-file", "--batch", send=blobs)
        found, at = {}, 0
        for path in entries:
            header, _, _ = out[at : at + 200].partition(b"\n")
            size = header.split()[-1]
            if not size.isdigit():
                raise RevisionError(f"Git cannot read {path}: {header.decode(errors='replace')}")
            begin = at + len(header) + 1
            at = begin + int(size) + 1
            found[path] = out[begin : at - 1]
        return found

    def _commit(self, name: str) -> str | None:
        try:
            found = self._git(
                "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
            )
        except RevisionError:
            return None
        return found.decode().strip()

    def _user_setting(self, scope: str, key: str) -> list[str]:
        """Return the values of a setting of the system or the user; it may be empty."""
        done = self._run(["config", scope, "--null", "--get-all", key], Path("/"), {}, b"")
        return os.fsdecode(done.stdout).split("\0")[:-1]

    def _git(self, *arguments: str, send: bytes = b"", folder: Path | None = None) -> bytes:
        """Return the output of git. Raises RevisionError with the first line of git's error."""
        folder = folder or self._folder
        settings = [part for one in (*_SETTINGS, *self._trusted) for part in ("-c", one)]
        done = self._run([*settings, *arguments], folder, _NO_CONFIGURATION, send)
        if done.returncode == 0:
            return done.stdout
        output = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        if "not a git repository" in output or "must be run in a work tree" in output:
            output = f"{folder} is not in a Git work tree, so there is nothing to compare with"
        elif "cannot use bare repository" in output:
            output = f"{folder} is in a folder that only looks like a Git repository"
        elif "dubious ownership" in output:
            output += f": git config --global --add safe.directory {folder.resolve()}"
        raise RevisionError(output or f"git {arguments[0]} failed")

    def _run(
        self, arguments: list[str], folder: Path, environment: Mapping[str, str], send: bytes
    ) -> subprocess.CompletedProcess[bytes]:
        """Run git, also if it fails. Raises RevisionError if it cannot run, or runs too long."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in _KEPT}
        command = ["git", "-C", str(folder), *arguments]
        try:
            return subprocess.run(
                command, input=send, capture_output=True, timeout=_SECONDS, check=False,
                env={**kept, **_ENVIRONMENT, **environment},
            )  # fmt: skip
        except FileNotFoundError:
            raise RevisionError(
                "--against needs the command `git`, which is not installed"
            ) from None
        except subprocess.TimeoutExpired:
            raise RevisionError(f"git took longer than {_SECONDS:.0f} s") from None


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


def _followed(links: Mapping[str, bytes], entries: Mapping[str, _Entry]) -> dict[str, _Entry]:
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


def _left_out(entries: Mapping[str, _Entry], taken: Collection[str]) -> Iterator[tuple[str, str]]:
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


def _fetch(ref: str) -> str:
    """Return the command that fetches a revision into a shallow clone."""
    if _RELATIVE.search(ref):
        return "`git fetch --unshallow`"
    if _SHA.fullmatch(ref):
        return f"`git fetch --depth=1 origin {ref}`"
    branch = ref.removeprefix("origin/")
    return f"`git fetch --depth=1 origin {branch}:refs/remotes/origin/{branch}`"
