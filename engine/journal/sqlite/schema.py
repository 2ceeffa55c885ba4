"""The tables of the SQLite journal, how its file is opened, and that one process alone owns it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from typing import TYPE_CHECKING

from engine.journal.sqlite.storage import room, untrusted
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 5
"""Kept as ``PRAGMA user_version``; grows with every change of the tables."""

# `state` is where the scheduler has a run. Of the runs that are ready on one target at most one is
# `head`, the only one that may be claimed; those behind it are `queued`. `waiting` is due later,
# `leased` is in flight, NULL is over. The column `leased` stays 1 until the attempt is settled,
# also when its lease ran out. `held` is 1 while a run waits for a person. `seq` is the order of
# acceptance. `pool` and `timeout` are those of the step at `position`. `paused` names playbooks whose
# runs are not claimed; `*` is all of them; `until` is the end of the pause, if it has one. `dead` has bodies
# that are not events, `drops` counts what throttles and silences suppressed, by the hour; both are bounded.
# A row with `undoes` is no run of its own but the undoing of a step of that run, at its hour; `holds` has
# what such a row would put back, with the same `until` as its hour. `arrived` has runs that were accepted
# and are no rows of `runs` yet (see arriving), `many` of them; `event` is the first of the body's, `slow` is
# 1 where one of them is of that pool.
ADDED = """
CREATE TABLE paused (playbook TEXT PRIMARY KEY, by TEXT NOT NULL, since REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE dead (
  id INTEGER PRIMARY KEY, received REAL NOT NULL, source TEXT NOT NULL, error TEXT NOT NULL, body BLOB NOT NULL
);
CREATE TABLE drops (
  playbook TEXT NOT NULL, reason TEXT NOT NULL, key TEXT NOT NULL, hour INTEGER NOT NULL,
  count INTEGER NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
  PRIMARY KEY (playbook, reason, key, hour)
) WITHOUT ROWID;
CREATE INDEX drops_last ON drops (last);
CREATE INDEX runs_settled ON runs (settled) WHERE settled IS NOT NULL;
CREATE INDEX runs_events ON runs (event);
"""
UNDOING = """
CREATE TABLE holds (
  undo TEXT NOT NULL, place INTEGER NOT NULL, key TEXT NOT NULL, until REAL, change BLOB NOT NULL,
  PRIMARY KEY (undo, place)
) WITHOUT ROWID;
CREATE INDEX holds_key ON holds (key);
CREATE INDEX runs_timers ON runs (pool, due_at) WHERE state IN ('waiting', 'leased') AND undoes IS NULL;
CREATE INDEX runs_undos ON runs (due_at) WHERE state IN ('waiting', 'leased') AND undoes IS NOT NULL;
CREATE INDEX runs_undoes ON runs (undoes) WHERE undoes IS NOT NULL;
"""
ARRIVING = """
CREATE TABLE arrived (
  id INTEGER PRIMARY KEY, event INTEGER NOT NULL, runs BLOB NOT NULL, many INTEGER NOT NULL,
  slow INTEGER NOT NULL
);
CREATE INDEX arrived_slow ON arrived (id) WHERE slow;
"""
PAUSES = """
ALTER TABLE paused ADD COLUMN until REAL;
ALTER TABLE paused ADD COLUMN reason TEXT NOT NULL DEFAULT '';
"""
TABLES = f"""
CREATE TABLE snapshots (digest TEXT PRIMARY KEY, snapshot BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE events (id INTEGER PRIMARY KEY, body BLOB NOT NULL, received REAL NOT NULL);
CREATE TABLE runs (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  playbook TEXT NOT NULL,
  digest TEXT NOT NULL,
  blob TEXT NOT NULL,
  event INTEGER NOT NULL,
  target TEXT NOT NULL,
  namespace TEXT,
  received REAL NOT NULL,
  state TEXT CHECK (state IN ('head', 'queued', 'waiting', 'leased')),
  leased INTEGER NOT NULL DEFAULT 0,
  held INTEGER NOT NULL DEFAULT 0,
  fence INTEGER NOT NULL DEFAULT 0,
  position INTEGER,
  pool TEXT,
  timeout REAL,
  attempt INTEGER NOT NULL DEFAULT 0,
  answers INTEGER NOT NULL DEFAULT 0,
  began REAL,
  due_at REAL,
  results BLOB NOT NULL DEFAULT '[]',
  last BLOB,
  facts BLOB NOT NULL DEFAULT '{{}}',
  outcome TEXT,
  settled REAL,
  undoes TEXT
);
CREATE INDEX runs_lanes ON runs (target, state) WHERE state IS NOT NULL;
CREATE INDEX runs_heads ON runs (pool, seq, due_at) WHERE state = 'head';
CREATE TABLE memory (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE sets (
  id INTEGER PRIMARY KEY CHECK (id = 1), digest TEXT NOT NULL, files BLOB NOT NULL
);
{ADDED}{UNDOING}{ARRIVING}{PAUSES}"""
_STEPS = {
    1: "ALTER TABLE runs ADD COLUMN namespace TEXT;"
    f"ALTER TABLE runs ADD COLUMN held INTEGER NOT NULL DEFAULT 0; {ADDED}",
    2: f"ALTER TABLE runs ADD COLUMN undoes TEXT; DROP INDEX runs_timers; DROP TABLE probe; {UNDOING}",
    3: ARRIVING,
    4: PAUSES,
}
"""From a version to the next one."""

CHECKPOINT = 8_000
"""Pages of the log at which a commit moves them itself: nobody else has (see checkpoint)."""
WAL_LIMIT = 64 * 1024 * 1024
"""Bytes to which the write-ahead log is cut back once it is empty."""


def own(path: Path) -> int:
    """The descriptor of the lock beside the journal; the lock lasts until it is closed.

    Raises JournalError where another process holds it, naming its pid; and on a disk of another machine.
    """
    kind = untrusted(path.parent)
    if kind:
        raise JournalError(
            f"cannot keep the journal {path} on {kind}: there neither locks nor fsync can be trusted;"
            " give it a local disk (a PersistentVolume of a block device)"
        )
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise JournalError(f"cannot open the journal {path}: {error.strerror}: {lock}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise JournalError(
            f"cannot open the journal {path}: process {owner} owns it, and only one may; stop that"
            " one or give this one another file"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise JournalError(f"cannot lock the journal {path}: {error.strerror}") from error
    return descriptor


_TURN, _PARTNER = 0, 1
"""Bytes of the lock's file that stand for the right to write, and for being the partner. They are locked as
POSIX locks, which know nothing of the owner's."""


def partner(path: Path) -> int:
    """The descriptor of the lock that the owner's workers hold as long as they live.

    It waits for those of an owner that was killed, whom the kernel kills a moment later: what they have in
    flight must be over before anybody does it again.
    """
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, _PARTNER)
    return descriptor


class Turn:
    """The right to write, which the processes that share a journal have in turn.

    SQLite would let them sleep and ask again, up to 100 ms at a time; a lock of the kernel wakes the next.
    lock: the descriptor of the journal's lock.
    """

    def __init__(self, lock: int) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, _TURN)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, _TURN)


class Flush:
    """Puts on disk what commits have written to the log, those of other processes too.

    With ``synchronous = FULL`` SQLite does so within the commit, where nobody else can write; thus the
    next one writes while the disk is at it. SQLite's own order (the log before the file, the file before the
    log begins anew) is that of NORMAL. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-wal")
        self._descriptor, self._inode = -1, 0

    def __call__(self) -> None:
        """Return once it is there."""
        inode = self._path.stat().st_ino
        if inode != self._inode:
            self.close()
            self._descriptor, self._inode = os.open(self._path, os.O_RDWR | os.O_CLOEXEC), inode
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Let go of the log; it is found again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._inode = -1, 0


def connect(path: Path, *, writes: bool, most: int | None = None) -> sqlite3.Connection:
    """A connection without transactions of its own. Raises sqlite3.Error.

    most: bytes of the file, where they are not measured by its disk.
    """
    connection = sqlite3.connect(
        path, timeout=5.0, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    connection.row_factory = sqlite3.Row
    try:
        if writes:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # see Flush
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
            (page,) = connection.execute("PRAGMA page_size").fetchone()
            most = room(path.parent) if most is None else most
            connection.execute(f"PRAGMA max_page_count = {most // page}")
        else:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def prepare(path: Path) -> None:
    """Make the file and its tables where they are not there, and end what a dead owner held.

    The leases become due at once, still marked as never settled. Raises JournalError: another
    version's journal, no journal, a folder that cannot be written.
    """
    try:
        # events may tell secrets: nobody else reads them, whatever the umask
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with contextlib.closing(connect(path, writes=True)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if version == 0 and tables == 0:
                connection.executescript(
                    f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
                )
            elif version in _STEPS:
                for step in range(version, VERSION):
                    connection.executescript(
                        f"BEGIN IMMEDIATE; {_STEPS[step]} PRAGMA user_version = {step + 1}; COMMIT;"
                    )
            elif version != VERSION:
                raise JournalError(
                    f"cannot use the journal {path}: it has version {version}, this engine knows"
                    f" {VERSION}; run the engine that wrote it, or give another file"
                )
            connection.execute("UPDATE runs SET due_at = began WHERE state = 'leased'")
    except OSError as error:
        raise JournalError(f"cannot open the journal {path}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise JournalError(f"cannot open the journal {path}: {error}") from error
