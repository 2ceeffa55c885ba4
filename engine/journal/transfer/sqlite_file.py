"""The SQLite side of a copy: a file that is read while no engine has it open, and a new file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING
from urllib.parse import quote

from engine.journal.sqlite import schema
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.errors import JournalError, PlaybookError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.model.playbook import Playbook


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Lock a journal that no engine has open, and read it in one transaction.

    The runs of its inbox are moved to the target queues first, as at each start of an engine.
    Raises JournalError if the file is missing, in use, not a journal, or of another version.
    """
    _check_version(path)
    with contextlib.closing(SqliteJournal(path, _not_compiled)) as journal:
        journal.find_ids("0")  # a query for runs empties the inbox
        with contextlib.closing(schema.connect(path, writes=False)) as connection:
            connection.execute("BEGIN")
            if connection.execute("SELECT 1 FROM arrived").fetchone():
                raise JournalError(f"the journal {path} cannot be written: free space on its disk")
            yield connection


@contextlib.contextmanager
def created(path: Path) -> Iterator[sqlite3.Connection]:
    """Create a journal, which appears under its name only if the block ends without an error.

    Raises JournalError if the file exists or cannot be written.
    """
    copy = path.with_name(f"{path.name}.copy-{os.getpid()}")
    if path.exists():
        raise JournalError(f"{path} exists: give the name of a new file")
    try:
        schema.prepare(copy)
        with contextlib.closing(schema.connect(copy, writes=True)) as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        _sync(copy)
        os.link(copy, path)  # fails if another process has created it meanwhile
        _sync(path.parent)
    except OSError as error:
        raise JournalError(f"cannot write the journal {path}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise JournalError(f"cannot write the journal {path}: {error}") from error
    finally:
        for name in (copy, *(copy.with_name(f"{copy.name}{end}") for end in ("-wal", "-shm"))):
            name.unlink(missing_ok=True)


def _check_version(path: Path) -> None:
    try:
        address = f"file:{quote(str(path.absolute()))}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        raise JournalError(f"cannot read the journal {path}: {error}") from error
    if version == schema.VERSION:
        return
    what = f"the journal {path} has version {version}, and this command copies version {schema.VERSION}"
    if 0 < version < schema.VERSION:
        raise JournalError(f"{what}: start and stop this engine once with it, which migrates it")
    raise JournalError(f"{what}: use the command of the engine that wrote it")


def _not_compiled(_: bytes) -> Playbook:
    raise PlaybookError(())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
