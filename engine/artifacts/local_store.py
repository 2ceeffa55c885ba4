"""Artifacts in a folder of this machine.

obstore's store of files follows symbolic links, so that a link in the folder could lead out of it. Here each
folder is opened below the one above it, without following links.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from engine.model.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from engine.artifacts.url import ArtifactUrl

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_file(
    url: ArtifactUrl,
    root: ArtifactUrl | None,
    chunks: Iterable[bytes],
    reserve: Callable[[], None] | None,
) -> None:
    """Write a file below a folder. Folders that do not exist are created.

    root: the folder of ``--artifact-stores``, which must exist; None for the root of the file system.
    The bytes go to ``.tiercel-….part``, which gets its name when all of them are on the disk.
    Raises PermanentError if the file exists or a folder is a symbolic link, TemporaryError for other errors of
    the file system.
    """
    base = f"/{root.key}" if root else "/"
    folders = url.segments[len(root.segments) if root else 0 : -1]
    part = f".tiercel-{secrets.token_hex(8)}.part"
    try:
        with _open_folder(base, folders) as folder:
            _check_name(folder, url.segments[-1], is_reserved=reserve is None)
            if reserve:
                reserve()
            try:
                _write(folder, part, chunks)
                _check_name(folder, url.segments[-1], is_reserved=reserve is None)
                os.rename(part, url.segments[-1], src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except BaseException:  # remove the partial file after any error
                with contextlib.suppress(OSError):
                    os.unlink(part, dir_fd=folder)
                raise
    except OSError as error:
        what = os.strerror(error.errno) if error.errno else type(error).__name__
        raise TemporaryError(f"{url}: {what}", answered=True) from None


def _write(folder: int, name: str, chunks: Iterable[bytes]) -> None:
    """Write a new file and flush it to the disk."""
    with os.fdopen(os.open(name, _NEW_FILE, 0o600, dir_fd=folder), "wb", buffering=0) as file:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())


@contextlib.contextmanager
def _open_folder(base: str, names: Iterable[str]) -> Iterator[int]:
    """Open a folder below ``base`` and create missing folders. Raises PermanentError for a link, OSError."""
    current = os.open(base, _FOLDER)
    try:
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=current)
            try:
                inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=current)
            except NotADirectoryError:  # a symbolic link, or a file
                raise PermanentError(
                    f"{name[:100]} is a symbolic link or a file, not a folder for artifacts"
                ) from None
            os.close(current)
            current = inner
        yield current
    finally:
        os.close(current)


def _check_name(folder: int, name: str, *, is_reserved: bool) -> None:
    """Raise PermanentError if the name exists, unless it is reserved and the name of a regular file."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not is_reserved or (found.st_mode & 0o170000) != 0o100000:  # noqa: PLR2004 - a regular file
        raise PermanentError(f"the artifact {name[:100]} exists (put %run.id into its name)")
