"""A consistent copy of a journal, also while an engine uses it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING
from urllib.parse import quote

from engine.journal.sqlite.schema import WAL_BYTES
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from pathlib import Path


def copy_journal(journal: Path, copy: Path) -> None:
    """Write a consistent copy of the journal to a new file, and check it.

    The copy contains each run that was acknowledged before the call. Accepting and acting continue meanwhile.
    Refuses to use the last free space: an engine without space accepts no events.

    Raises JournalError if the journal cannot be read, if the copy exists, does not fit or is not sound.
    """
    try:
        needed = journal.stat().st_size + WAL_BYTES
        free = shutil.disk_usage(copy.parent).free
        if free < needed + WAL_BYTES:
            raise JournalError(
                f"{copy.parent} has {free >> 20} MiB free, and a copy needs {(needed + WAL_BYTES) >> 20} MiB:"
                " write the copy to another disk, or take a snapshot of the volume"
            )
        # events can contain secrets: only the owner may read them, whatever the umask is
        os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise JournalError(f"{error.filename}: {error.strerror}") from error
    try:
        _copy(journal, copy)
        _check(copy)
    except (OSError, sqlite3.Error) as error:
        copy.unlink(missing_ok=True)
        raise JournalError(f"cannot copy the journal {journal}: {error}") from error
    except JournalError:
        copy.unlink(missing_ok=True)
        raise


def _copy(journal: Path, copy: Path) -> None:
    """Copy all pages in one read transaction. A writer only appends to the write-ahead log meanwhile."""
    address = f"file:{quote(str(journal.absolute()))}?mode=ro"
    with (
        contextlib.closing(sqlite3.connect(address, uri=True, timeout=30.0)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        # one file, without a log beside it
        target.execute("PRAGMA journal_mode = DELETE")
    descriptor = os.open(copy, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(copy: Path) -> None:
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (sound,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if not version:
        raise JournalError("the file is not a journal of Tiercel")
    if sound != "ok":
        raise JournalError(f"the copy is not sound: {sound}")
