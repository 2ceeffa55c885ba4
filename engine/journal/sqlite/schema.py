"""The tables of the journal, the locks of its file and the settings of its connections."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from typing import TYPE_CHECKING

from engine.journal.sqlite.storage import max_journal_bytes, unsafe_file_system
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 7
"""Version of the tables, stored as ``PRAGMA user_version``. Each change of the tables increases it."""

# Table runs: one row for each run, and one for each undo of a step (column `undoes`: the id of its run).
#   seq       order of acceptance
#   state     place of the run in the target queue:
#               queued   ready, behind another run of its target
#               head     ready, and the only run of its target that can be claimed
#               waiting  due at `due_at`
#               leased   claimed; the lease ends at `due_at`
#               NULL     over
#   leased    1 until the attempt is settled, also after the lease expired
#   held      1 while the run waits for an approval
#   pool, timeout   of the step at `position`
#   facts     the attempt state, JSON
#   revision  of the set of playbooks that planned the run; empty if it was unknown
# Table undo_intents: the changes that an undo reverts. `until` is the `due_at` of the undo.
# Table arrived (the inbox): accepted runs that are not in `runs` yet, `many` of them in a row. `event` is the
#   number of the first event of the body. `slow` is 1 if one of the runs is of the slow pool.
# Table events: the encoded events.
# Table snapshots: the playbooks that runs were accepted with.
# Table pauses: playbooks whose runs are not claimed; `*` means all. `until` is the end of the pause, or NULL.
# Table dead_letters: bodies that are not valid events. Table drops: the number of runs that throttles and
#   silences suppressed, by hour. Both have a maximum size.
# Tables throttle_windows, budget_windows, offsets: JSON by key. Table playbook_sets: the last good set of
#   playbook files. Table dry_run: the last run that was accepted before the dry run that uses the journal.
# The statements below build the tables of the first versions. Version 7 gave them the names above.
_TABLES_2 = """
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
_TABLES_3 = """
CREATE TABLE holds (
  undo TEXT NOT NULL, place INTEGER NOT NULL, key TEXT NOT NULL, until REAL, change BLOB NOT NULL,
  PRIMARY KEY (undo, place)
) WITHOUT ROWID;
CREATE INDEX holds_key ON holds (key);
CREATE INDEX runs_timers ON runs (pool, due_at) WHERE state IN ('waiting', 'leased') AND undoes IS NULL;
CREATE INDEX runs_undos ON runs (due_at) WHERE state IN ('waiting', 'leased') AND undoes IS NOT NULL;
CREATE INDEX runs_undoes ON runs (undoes) WHERE undoes IS NOT NULL;
"""
_TABLES_4 = """
CREATE TABLE arrived (
  id INTEGER PRIMARY KEY, event INTEGER NOT NULL, runs BLOB NOT NULL, many INTEGER NOT NULL,
  slow INTEGER NOT NULL
);
CREATE INDEX arrived_slow ON arrived (id) WHERE slow;
"""
_TABLES_5 = """
ALTER TABLE paused ADD COLUMN until REAL;
ALTER TABLE paused ADD COLUMN reason TEXT NOT NULL DEFAULT '';
"""
_TABLES_6 = """
ALTER TABLE runs ADD COLUMN revision TEXT NOT NULL DEFAULT '';
ALTER TABLE sets ADD COLUMN revision TEXT NOT NULL DEFAULT '';
"""
_TABLES_7 = """
ALTER TABLE paused RENAME TO pauses;
ALTER TABLE holds RENAME TO undo_intents;
ALTER TABLE sets RENAME TO playbook_sets;
ALTER TABLE dead RENAME TO dead_letters;
CREATE TABLE throttle_windows (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE budget_windows (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE offsets (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE dry_run (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL);
INSERT INTO budget_windows SELECT substr(key, 8), value FROM memory WHERE key GLOB 'budget:*';
INSERT INTO offsets SELECT substr(key, 8), value FROM memory WHERE key GLOB 'follow:*';
INSERT INTO dry_run SELECT 1, CAST(CAST(value AS TEXT) AS INTEGER) FROM memory WHERE key = 'dry-run';
INSERT INTO throttle_windows SELECT key, value FROM memory
  WHERE key NOT GLOB 'budget:*' AND key NOT GLOB 'follow:*' AND key NOT IN ('dry-run', 'probe');
DROP TABLE memory;
"""
_TABLES = f"""
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
{_TABLES_2}{_TABLES_3}{_TABLES_4}{_TABLES_5}{_TABLES_6}{_TABLES_7}"""
_MIGRATIONS = {
    1: "ALTER TABLE runs ADD COLUMN namespace TEXT;"
    f"ALTER TABLE runs ADD COLUMN held INTEGER NOT NULL DEFAULT 0; {_TABLES_2}",
    2: f"ALTER TABLE runs ADD COLUMN undoes TEXT; DROP INDEX runs_timers; DROP TABLE probe; {_TABLES_3}",
    3: _TABLES_4,
    4: _TABLES_5,
    5: _TABLES_6,
    6: _TABLES_7,
}
"""Version -> statements that migrate the tables to the next version."""

CHECKPOINT_PAGES = 8_000
"""Pages in the log at which a commit checkpoints by itself, because the Checkpointer did not."""
WAL_BYTES = 64 * 1024 * 1024
"""Size to which SQLite truncates the write-ahead log after it was emptied."""

_WRITE_LOCK_BYTE, _WORKER_LOCK_BYTE = 0, 1
"""Bytes of the lock file that are locked for the right to write and for the worker process. They are POSIX
locks, which are independent of the ``flock`` of the owner."""


def lock_for_owner(path: Path, kind: str = "journal") -> int:
    """Lock the file for this engine. Return the descriptor of the lock file; closing it unlocks.

    kind: what the file is, for messages.

    Raises JournalError if another process owns the file (the message contains its pid), if the lock file
    cannot be opened, or if the file system is not safe for SQLite.
    """
    file_system = unsafe_file_system(path.parent)
    if file_system:
        raise JournalError(
            f"cannot keep the {kind} {path} on {file_system}: locks and fsync are not reliable there;"
            " use a local disk (a PersistentVolume of a block device)"
        )
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise JournalError(f"cannot open the {kind} {path}: {error.strerror}: {lock}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise JournalError(
            f"cannot open the {kind} {path}: process {owner} owns it, and only one process can; stop"
            " that process or use another file"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise JournalError(f"cannot lock the {kind} {path}: {error.strerror}") from error
    return descriptor


def lock_for_worker(path: Path) -> int:
    """Lock the journal for the worker process of its owner. Return the descriptor of the lock file.

    Waits until the worker process of an earlier owner has ended. If that owner was killed, the kernel kills
    its worker process shortly after. The attempts of that process must end before they are repeated.
    """
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, _WORKER_LOCK_BYTE)
    return descriptor


class WriteLock:
    """The right to write, which the owner and its worker process take in turn.

    The lock of SQLite polls, with pauses of up to 100 ms. A kernel lock wakes the next process at once.
    lock: descriptor of the lock file.
    """

    def __init__(self, lock: int) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, _WRITE_LOCK_BYTE)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, _WRITE_LOCK_BYTE)


class WalSync:
    """Syncs the write-ahead log to disk, including the commits of other processes.

    With ``synchronous = FULL``, SQLite syncs during the commit, while it blocks other writers. Here the next
    writer continues during the sync. SQLite works in the mode NORMAL, which keeps the order of its own writes
    (log before file, file before a restart of the log). Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-wal")
        self._descriptor, self._inode = -1, 0

    def __call__(self) -> None:
        """Return when all earlier commits are on disk."""
        inode = self._path.stat().st_ino
        if inode != self._inode:
            self.close()
            self._descriptor, self._inode = os.open(self._path, os.O_RDWR | os.O_CLOEXEC), inode
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file. The next call opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._inode = -1, 0


def connect(path: Path, *, writes: bool, max_bytes: int | None = None) -> sqlite3.Connection:
    """Open a connection in autocommit mode. Raises sqlite3.Error.

    max_bytes: maximum size of the file; None to derive it from the size of the disk.
    """
    connection = sqlite3.connect(
        path, timeout=5.0, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    connection.row_factory = sqlite3.Row
    try:
        if writes:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # see WalSync
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
            (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
            max_bytes = max_journal_bytes(path.parent) if max_bytes is None else max_bytes
            connection.execute(f"PRAGMA max_page_count = {max_bytes // page_bytes}")
        else:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def prepare(path: Path) -> None:
    """Create or migrate the file and its tables, and expire the leases of the previous owner.

    The expired attempts are due at once and count as interrupted.

    Raises JournalError if the file has an unknown version, is not a journal, or cannot be written.
    """
    try:
        # events can contain secrets: only the owner may read them, whatever the umask is
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with contextlib.closing(connect(path, writes=True)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if version == 0 and tables == 0:
                connection.executescript(
                    f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
                )
            elif version in _MIGRATIONS:
                for old in range(version, VERSION):
                    connection.executescript(
                        f"BEGIN IMMEDIATE; {_MIGRATIONS[old]} PRAGMA user_version = {old + 1}; COMMIT;"
                    )
            elif version != VERSION:
                raise JournalError(
                    f"cannot use the journal {path}: it has version {version}, this engine supports"
                    f" version {VERSION}; run the engine that wrote it, or use another file"
                )
            connection.execute("UPDATE runs SET due_at = began WHERE state = 'leased'")
    except OSError as error:
        raise JournalError(f"cannot open the journal {path}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise JournalError(f"cannot open the journal {path}: {error}") from error
