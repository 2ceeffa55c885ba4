"""The Git repository of a folder: revisions, files of a commit, and the commit that wrote a file's content.

The checkout is not trusted: a pull request decides which files are in it. Git therefore runs without hooks,
file system monitors and transports, and reads only the configuration of the repository itself. A folder of
committed files that looks like a repository is refused. Nothing is checked out or changed.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.language.findings import nearest
from engine.language.folder import MAX_FILES, MAX_TOTAL, shown_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SECONDS = 60.0
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
_LOG = (
    "-c", "log.showRoot=true", "log", "--no-show-signature", "--no-notes", "--no-mailmap", "--no-color",
    "--no-ext-diff", "--no-textconv", "--encoding=UTF-8",
)  # fmt: skip
"""git log, without the programs that the settings of the repository can start."""
_MAX_COMMITS = 100
"""Commits that are read to find one that wrote a blob. Commits that removed it count, too."""
_MODIFIER = re.compile(r"[~^:]|@\{")


class RevisionError(Exception):
    """A revision, or a folder in it, cannot be read. The message says why and names the next command."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a folder of a commit."""

    mode: str
    blob: str
    size: int


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that wrote the content of a file.

    Attributes:
        author, email: as the commit says. Git does not verify them.
        date: of the author, RFC 3339.
        path: of the file in that commit.

    """

    id: str
    author: str
    email: str
    date: str
    subject: str
    path: str


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
            commit = self.find_commit(name)
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

    def entries(self, commit: str, *, below: bool) -> dict[str, Entry]:
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
                found[os.fsdecode(name)] = Entry(mode.decode(), blob.decode(), bytes_)
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

    def contents(self, entries: Mapping[str, Entry]) -> dict[str, bytes]:
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

    def commit_of_blob(self, blob: str, commit: str | None = None) -> Commit | None:
        """Return the last commit that wrote a file with this content, or None. Raises RevisionError.

        blob: 40 hex digits. commit: search only its history; None for all branches and tags.
        """
        found = self._git("cat-file", "--batch-check", send=f"{blob}\n".encode())
        if found.split()[1:2] != [b"blob"]:
            raise RevisionError("this clone does not contain the file (git fetch)")
        start = ("--all",) if commit is None else ("--end-of-options", commit)
        for merges in ("--no-merges", "--diff-merges=separate"):
            for id_, path in self._commits_with(blob, merges, start):
                return self._describe(id_, path)
        return None

    def _commits_with(
        self, blob: str, merges: str, start: tuple[str, ...]
    ) -> Iterator[tuple[str, str]]:
        """Yield id and path of the commits that wrote the blob, newest first."""
        output = self._git(
            *_LOG, merges, "-z", "--raw", "--no-abbrev", "--no-renames", "--format=%H",
            f"--max-count={_MAX_COMMITS}", f"--find-object={blob}", *start,
        )  # fmt: skip
        # a commit is `ID NUL`; each of its files is `:MODE MODE OLD NEW STATUS NUL PATH NUL`
        commit, parts = "", iter(output.split(b"\0"))
        for part in parts:
            text = part.lstrip(b"\n").decode(errors="replace")
            if not text.startswith(":"):
                commit = text or commit
                continue
            path = os.fsdecode(next(parts, b""))
            if text.split()[3] == blob:
                yield commit, shown_path(path)

    def _describe(self, commit: str, path: str) -> Commit:
        """Return a commit. Raises RevisionError if it is only the border of a shallow clone."""
        output = self._git(
            *_LOG, "--no-walk", "--format=%P%x00%an%x00%ae%x00%aI%x00%s", "--end-of-options", commit
        )
        parents, author, email, date, subject = (
            output.decode(errors="replace").rstrip("\n").split("\0", 4)
        )
        # the border of a shallow clone has no parents, so it seems to have written every file
        if not parents and self._git("rev-parse", "--is-shallow-repository").strip() == b"true":
            raise RevisionError("this clone is shallow (git fetch --unshallow)")
        return Commit(commit, author, email, date, subject, path)

    def find_commit(self, name: str) -> str | None:
        """Return the id of the commit with this name, or None."""
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
            output = f"{folder} is not in a Git work tree"
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
            raise RevisionError("this needs the command `git`, which is not installed") from None
        except subprocess.TimeoutExpired:
            raise RevisionError(f"git took longer than {_SECONDS:.0f} s") from None


def _fetch(ref: str) -> str:
    """Return the command that fetches a revision into a shallow clone."""
    if _RELATIVE.search(ref):
        return "`git fetch --unshallow`"
    if _SHA.fullmatch(ref):
        return f"`git fetch --depth=1 origin {ref}`"
    branch = ref.removeprefix("origin/")
    return f"`git fetch --depth=1 origin {branch}:refs/remotes/origin/{branch}`"
