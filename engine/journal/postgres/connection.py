"""Connections to PostgreSQL: the URL, the settings of a session, and errors as JournalError."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import errors, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg.types.string import StrDumper

from engine.journal.postgres import arrays
from engine.journal.postgres.connect_errors import explained
from engine.model.errors import JournalError, JournalUnavailableError, UnwritableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from psycopg.abc import Buffer

SCHEMES = ("postgresql://", "postgres://")
CONNECT_TIMEOUT = 3
"""Seconds to wait for a connection."""
STALL_TIMEOUT = 10.0
"""Seconds after which a transaction without progress is aborted. Its result is then unknown."""
IDLE_TIMEOUT_MS = 3_000
"""Milliseconds after which PostgreSQL ends a transaction whose client sends nothing."""
CLIENT_CHECK_MS = 2_000
"""Milliseconds after which PostgreSQL ends a statement that waits for a lock if its client has disconnected."""
MAX_CONNECTIONS = 11
"""Connections of one process, besides those of the two writers and of the liveness row."""
MAX_KEY_BYTES = 512
"""Bytes of a text in an index. An index entry has at most 2,704."""
_ATTEMPTS = 3
"""Attempts of a transaction that PostgreSQL ends because of a deadlock."""


class CommitsWaitError(psycopg.OperationalError):
    """An earlier commit of this thread still waits for a standby. Another one would wait, too."""


_KEEPS_CONNECTION = (errors.DeadlockDetected, errors.SerializationFailure, CommitsWaitError)
"""Errors of a single transaction, besides those of its content."""

Connection = psycopg.Connection[dict[str, Any]]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Server:
    """The address of a database. conninfo: without a password. password_file: read for each connection."""

    conninfo: str
    password_file: Path | None = None

    @property
    def name(self) -> str:
        """The address for messages: host, port and database."""
        found = conninfo_to_dict(self.conninfo)
        return f"{found.get('host', 'localhost')}:{found.get('port', 5432)}/{found['dbname']}"


def parse_server(url: str, password_file: Path | None = None, option: str = "--journal") -> Server:
    """Parse ``postgresql://USER@HOST[:PORT]/DATABASE``. Raises JournalError, without the URL in its message.

    option: that contains the URL, for messages. Connections to other machines use TLS and verify the
    certificate and the name of the server.
    """
    form = "postgresql://USER@HOST[:PORT]/DATABASE"
    try:
        found = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise JournalError(f"{option} is not {form}") from None
    ports = str(found.get("port") or 5432).split(",")
    if not all(port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16 for port in ports):
        raise JournalError(f"{option} has a port that is not a number from 1 to 65535: {form}")
    if not found.get("dbname"):
        raise JournalError(f"{option} does not name a database: {form}")
    if found.get("password"):
        raise JournalError(
            f"{option} must not contain a password, because other processes can read it: give"
            " --journal-password-file FILE"
        )
    hosts = str(found.get("host") or "localhost").split(",")
    addresses = str(found.get("hostaddr") or "").split(
        ","
    )  # libpq connects to these if they are given
    if not all(map(_is_local, [*hosts, *filter(None, addresses)])):
        if found.get("sslmode", "verify-full") != "verify-full":
            raise JournalError(
                f"{option}: sslmode must be verify-full for a server on another machine"
            )
        found = {"sslrootcert": "system", **found, "sslmode": "verify-full"}
    found.setdefault("target_session_attrs", "read-write" if len(hosts) > 1 else "any")
    return Server(make_conninfo(**{key: str(value) for key, value in found.items()}), password_file)


def _is_local(host: str) -> bool:
    if host == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Text(StrDumper):
    """Writes text. PostgreSQL cannot store NUL and halves of surrogate pairs, which an event can contain."""

    def dump(self, obj: str) -> Buffer | None:
        return obj.replace("\0", "\ufffd").encode("utf-8", "replace")


class _BinaryText(_Text):
    """Writes text as a binary parameter."""

    format = pq.Format.BINARY


def connect(server: Server) -> Connection:
    """Open a connection in autocommit mode. Raises psycopg.Error, OSError."""
    conninfo = server.conninfo
    if server.password_file:
        try:
            password = server.password_file.read_text("utf-8").strip("\r\n")
        except UnicodeDecodeError:
            raise psycopg.OperationalError(
                f"the password file {server.password_file} is not UTF-8 text: write the password into it"
            ) from None
        except OSError as error:
            raise psycopg.OperationalError(
                f"the password file {server.password_file} cannot be read: {error.strerror}: give"
                " --journal-password-file a file with the password of the role"
            ) from error
        conninfo = make_conninfo(conninfo, password=password)
    try:
        connection: Connection = psycopg.connect(
            conninfo,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=CONNECT_TIMEOUT,
            client_encoding="UTF8",  # also for a server whose encoding is refused
            keepalives_idle=2, keepalives_interval=1, keepalives_count=3, tcp_user_timeout=4_000,
            application_name="tiercel",
        )  # fmt: skip
    except psycopg.OperationalError as error:
        raise explained(error) from error
    connection.adapters.register_dumper(str, _BinaryText)
    connection.adapters.register_dumper(str, _Text)
    arrays.register(connection)
    # a process that is stopped in a transaction loses its locks when it loses its claims
    connection.execute(f"SET idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}")
    # While commits wait for a standby, each connection that is given up would otherwise stay on the server.
    # Not every system of a server supports it.
    with contextlib.suppress(errors.InvalidParameterValue, errors.UndefinedObject):
        connection.execute(f"SET client_connection_check_interval = {CLIENT_CHECK_MS}")
    return connection


def index_key(text: str) -> str:
    """Return a text as an index can store it. A long one, which a hostile event can have, gets a digest.

    Two texts that are stored as one row must be equal here: a statement cannot write one row twice.
    """
    if "\0" in text or not text.isascii():
        text = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if len(text) * 4 <= MAX_KEY_BYTES or len(text.encode("utf-8", "replace")) <= MAX_KEY_BYTES:
        return text
    return f"{text[:60]}#{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}"


def sentence(error: Exception) -> str:
    """Return the first line of an error, without the text that psycopg adds."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Connections:
    """The connections of one process: each is used by one thread at a time. Thread-safe."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._idle: list[Connection] = []
        self._active: dict[int, tuple[float, Connection]] = {}
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def transaction(self, longer: float = 0.0) -> Iterator[Connection]:
        """Run a transaction, which is on disk when the block ends. Raises JournalError.

        longer: seconds that it may take besides STALL_TIMEOUT.
        """
        with self._slots:
            connection = self._borrow(longer)
            try:
                with connection.transaction():
                    yield connection
            except (psycopg.Error, OSError) as error:
                if isinstance(error, errors.DeadlockDetected | errors.SerializationFailure):
                    raise
                close_after(error, connection)
                raise _failed(error, writes=True) from error
            finally:
                self._return(connection)

    def run(self, work: Callable[[Connection], Any], *, longer: float = 0.0) -> Any:
        """Run a function in a transaction. Repeat it if PostgreSQL ends it because of a deadlock.

        longer: see ``transaction``.
        """
        for attempt in range(_ATTEMPTS):
            try:
                with self.transaction(longer) as connection:
                    return work(connection)
            except psycopg.Error as error:
                if attempt == _ATTEMPTS - 1:
                    raise _failed(error, writes=True) from error
        raise AssertionError

    @contextlib.contextmanager
    def session(self) -> Iterator[Connection]:
        """Borrow a connection in autocommit mode. Raises JournalError."""
        with self._slots:
            connection = self._borrow()
            try:
                yield connection
            except (psycopg.Error, OSError) as error:
                close_after(error, connection)
                raise _failed(error, writes=False) from error
            finally:
                self._return(connection)

    def rows(self, query: LiteralString, *parameters: Any) -> list[Row]:
        """Return the rows of one query."""
        with self.session() as connection:
            return connection.execute(query, parameters, binary=True).fetchall()

    def call(self, query: LiteralString, *parameters: Any) -> list[Row]:
        """Call a function of the database, which is a transaction. Repeat it after a deadlock."""
        for attempt in range(_ATTEMPTS):
            with self._slots:
                connection = self._borrow()
                try:
                    return connection.execute(query, parameters, binary=True).fetchall()
                except (psycopg.Error, OSError) as error:
                    if not isinstance(error, errors.DeadlockDetected) or attempt == _ATTEMPTS - 1:
                        close_after(error, connection)
                        raise _failed(error, writes=True) from error
                finally:
                    self._return(connection)
        raise AssertionError

    def row(self, query: LiteralString, *parameters: Any) -> Row | None:
        """Return the first row of a query, or None."""
        return next(iter(self.rows(query, *parameters)), None)

    def end_stalled(self) -> None:
        """Disconnect the connections that have been in use for too long. Their threads get an error."""
        limit = time.monotonic() - STALL_TIMEOUT
        with self._lock:
            for since, connection in self._active.values():
                if since < limit:
                    disconnect(connection)

    def close(self) -> None:
        """Close the idle connections now, and each other one when it is returned."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _borrow(self, longer: float = 0.0) -> Connection:
        with self._lock:
            if self._closed:
                raise JournalError("the journal is closed")
            connection = self._idle.pop() if self._idle else None
            while connection and is_stale(connection):
                connection.close()
                connection = self._idle.pop() if self._idle else None
        try:
            connection = connection or self._connect()
        except (psycopg.Error, OSError) as error:
            raise _failed(error, writes=True) from error
        with self._lock:
            self._active[id(connection)] = time.monotonic() + longer, connection
        return connection

    def _return(self, connection: Connection) -> None:
        with self._lock:
            self._active.pop(id(connection), None)
            if not self._closed and not connection.closed:
                self._idle.append(connection)
                return
        connection.close()


def is_stale(connection: Connection) -> bool:
    """Return whether the server has sent something on an idle connection: usually, that it has closed it.

    After a fail-over, all idle connections are closed, and each of them would fail one command of a user.
    """
    if connection.closed:
        return True
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def is_of_content(error: Exception) -> bool:
    """Return whether an error is caused by a value that was to be written, and not by the state of the server.

    Another value can be written on the same connection. Classes of SQLSTATE: 21 and 22 (data), 23 (integrity),
    54 (limits, such as the size of a row). Too much memory for a value is an internal error.
    """
    if not isinstance(error, psycopg.Error):
        return not isinstance(error, OSError)  # for example, a text that cannot be encoded
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)
    return error.sqlstate[:2] in ("21", "22", "23", "54") or (
        error.sqlstate == "XX000" and "invalid memory alloc request size" in str(error)
    )


def _failed(error: Exception, *, writes: bool) -> JournalError:
    kind = UnwritableError if is_of_content(error) else JournalUnavailableError
    return kind(f"the journal cannot be {'written' if writes else 'read'}: {sentence(error)}")


def close_after(error: Exception, connection: Connection) -> bool:
    """Close a connection after an error that a new connection may not have. Return whether it is closed.

    The server can have become a standby, or read-only: then its connections never work again.
    """
    if not isinstance(error, _KEEPS_CONNECTION) and not is_of_content(error):
        connection.close()
    return bool(connection.closed)


def check_no_commit_waits(connection: Connection, backend: int) -> None:
    """Raise CommitsWaitError while a backend of an aborted connection waits for a standby.

    PostgreSQL does not end such a backend. Each further attempt would take one more of its connections.
    """
    waits = connection.execute(
        "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND usename = current_user AND wait_event = 'SyncRep'",
        (backend,),
    ).fetchone()
    if waits:
        raise CommitsWaitError("commits wait for a standby that does not answer")


def disconnect(connection: Connection) -> int | None:
    """Cut a connection that another thread uses. That thread gets an error at once.

    Return the process id of its backend, None if the connection is closed already.
    """
    with contextlib.suppress(OSError, psycopg.Error):
        backend = connection.info.backend_pid
        with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
        return backend
    return None
