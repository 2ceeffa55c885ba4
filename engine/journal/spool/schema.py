"""The tables of the spool, and the checks of its file when it is opened."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from typing import TYPE_CHECKING

from engine.journal.sqlite.schema import connect
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1
"""Version of the tables, stored as ``PRAGMA user_version``. Each change of the tables increases it."""
APPLICATION_ID = 0x74535031
"""``PRAGMA application_id`` of a spool: `tSP1` in ASCII. A journal has 0."""

# Table runs: the runs in the order in which they were accepted. `throttle`: JSON [key of the window, clock], or
#   NULL. A number is never used again, so that a number that was forwarded stays forwarded.
# Table events: the encoded events. Table snapshots: the playbooks that the runs were accepted with.
# Table about: `journal` is the id of the shared journal to which the runs belong, `id` that of this spool.
_TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE about (only INTEGER PRIMARY KEY CHECK (only = 1), id TEXT NOT NULL, journal TEXT NOT NULL);
CREATE TABLE snapshots (digest TEXT PRIMARY KEY, snapshot BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
CREATE TABLE runs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, blob TEXT NOT NULL,
  event INTEGER NOT NULL, received REAL NOT NULL, target TEXT NOT NULL, revision TEXT NOT NULL, throttle BLOB
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
COMMIT;
"""


def prepare(path: Path, journal: str | None) -> tuple[str, str]:
    """Create the tables, or check those of an existing file. Return the ids of the spool and of its journal.

    journal: the id of the shared journal. An empty spool of another journal is taken over. None: the journal
    does not answer, and the spool must have been used with it before.
    Raises JournalError if the file is not a spool, has a newer version, holds runs of another journal, or
    cannot be written.
    """
    try:
        # events can contain secrets: only the owner may read them, whatever the umask is
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with contextlib.closing(connect(path, writes=True)) as connection:
            _create_or_check(connection, path)
            return _take_over(connection, path, journal)
    except OSError as error:
        raise JournalError(f"cannot open the spool {path}: {error.strerror}; {_OTHER}") from error
    except sqlite3.Error as error:
        raise JournalError(f"cannot open the spool {path}: {error}; {_OTHER}") from error


_OTHER = "give --spool a file in a folder that the engine can write"


def _create_or_check(connection: sqlite3.Connection, path: Path) -> None:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if not tables and not version:
        connection.executescript(_TABLES)
    elif application != APPLICATION_ID:
        raise JournalError(
            f"{path} is not a spool, but another database: give --spool another file"
        )
    elif version != VERSION:
        raise JournalError(
            f"cannot use the spool {path}: it has version {version}, this engine supports version {VERSION};"
            " start the engine that wrote it until /status shows 0 runs in the spool, or give --spool"
            " another file"
        )


def _take_over(connection: sqlite3.Connection, path: Path, journal: str | None) -> tuple[str, str]:
    """Record the journal in the spool. Refuse one that holds runs of another journal. Return the ids."""
    about = connection.execute("SELECT id, journal FROM about").fetchone()
    if about and journal in (None, about["journal"]):
        return str(about["id"]), str(about["journal"])
    if journal is None:
        raise JournalError(
            f"the spool {path} was not used before, and the database does not answer: start the engine when it"
            " does"
        )
    (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    if about and runs:
        raise JournalError(of_another_journal(path, runs))
    id_ = secrets.token_hex(8)
    connection.execute("INSERT OR REPLACE INTO about VALUES (1, ?, ?)", (id_, journal))
    return id_, journal


def of_another_journal(path: Path, runs: int) -> str:
    """Return the sentence that a spool holds runs of another journal."""
    return (
        f"the spool {path} holds {runs:,} runs of another journal: start the engine with the --journal of"
        " these runs until /status shows 0 runs in the spool, or give --spool another file"
    )
