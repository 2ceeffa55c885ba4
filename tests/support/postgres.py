"""PostgreSQL for tests: a primary, and a synchronous standby on request, each on a free loopback port."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from tests.support.components import have
from tests.support.engine import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = [
    "/usr/lib/postgresql/15/bin",
    "/usr/lib/postgresql/16/bin",
    "/usr/lib/postgresql/17/bin",
]
MEMORY = Path("/dev/shm")  # noqa: S108 - tmpfs, so that an fsync takes no time
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # in the folder, so that a killed server leaves nothing
    "max_connections": "300",
    "autovacuum_naptime": "5s",
    "log_min_messages": "fatal",
    "max_wal_size": "512MB",
    "min_wal_size": "64MB",
    "wal_retrieve_retry_interval": "100ms",  # a standby without its primary waits so long before it promotes
}


def program(name: str) -> str:
    """Return the path of a program of PostgreSQL. If it is missing, skip the test, or fail in CI."""
    for folder in PROGRAMS:
        if (Path(folder) / name).exists():
            return str(Path(folder) / name)
    return have(name)


def _as_postgres(*command: str) -> list[str]:
    """Return a command that runs as another user, because PostgreSQL refuses root. It ends with the tests."""
    if os.geteuid():
        return ["setpriv", "--pdeathsig", "QUIT", *command]
    user = ["--reuid=postgres", "--regid=postgres", "--init-groups"]
    return ["setpriv", *user, "--pdeathsig", "QUIT", *command]


class Postgres:
    """A server with its data in a folder in memory. It keeps its port and data over ``kill`` and ``start``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def primary(cls, parent: Path) -> Postgres:
        """Create the data of a primary."""
        server = cls(parent / "primary")
        server.folder.mkdir()
        _own(server.folder)
        options = [
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]
        server.run("initdb", *options, "-D", str(server.folder))
        return server

    def standby(self, parent: Path) -> Postgres:
        """Copy this running primary to a synchronous standby, start it and wait until it is synchronous."""
        other = Postgres(parent / "standby")
        self.copy_to(other)
        return other

    def copy_to(self, other: Postgres) -> None:
        """Replace a server that does not run by a synchronous standby of this one, on the same port."""
        shutil.rmtree(other.folder, ignore_errors=True)
        source = f"host=127.0.0.1 port={self.port} user=postgres application_name=standby"
        self.run(
            "pg_basebackup", "-D", str(other.folder), "-d", source, "-R", "-c", "fast", "--no-sync"
        )
        other.start()
        with self.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            connection.execute("SELECT pg_reload_conf()")
            query = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
            wait_until(lambda: connection.execute(query).fetchone())

    def promote(self) -> None:
        """Make a standby the primary. Does not wait for another standby."""
        with self.connect() as connection:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_promote(true)")
            connection.execute("SELECT pg_reload_conf()")

    def start(self, **settings: str) -> None:
        """Start the server and wait until it answers."""
        options = [f"-c{name}={value}" for name, value in (_SETTINGS | settings).items()]
        command = [program("postgres"), "-D", str(self.folder), "-p", str(self.port), *options]
        log = (self.folder.parent / f"{self.folder.name}.log").open("ab")
        self.process = subprocess.Popen(
            _as_postgres(*command), stdout=log, stderr=log, cwd=self.folder.parent
        )
        log.close()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                assert self.process.poll() is None, "postgres has ended"
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """End the server at once, without a checkpoint."""
        if self.process is not None:
            self.process.send_signal(3)  # SIGQUIT: immediate shutdown
            self.process.wait()
            self.process = None

    def kill_all(self) -> None:
        """End all processes of the server with SIGKILL, as the loss of its node does."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in (pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        self.process = None
        _, segment = (self.folder / "postmaster.pid").read_text().splitlines()[6].split()
        subprocess.run(["ipcrm", "-m", segment], check=False, capture_output=True)

    def connect(self, database: str = "postgres", user: str = "postgres") -> psycopg.Connection:
        """Connect in autocommit mode, as the superuser if no other user is given."""
        return psycopg.connect(self.dsn(database, user), autocommit=True, connect_timeout=2)

    def psql(self, script: str) -> None:
        """Run a script as the superuser, up to its first error."""
        options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-"]
        subprocess.run(
            [program("psql"), *options, self.dsn("postgres")],
            input=script.encode(),
            check=True,
            capture_output=True,
        )

    @contextlib.contextmanager
    def requiring_tls(self, keys: Path, database: str) -> Iterator[None]:
        """Accept the role of the engine in a database only with TLS and its password, until the block ends.

        keys: the folder with server.crt and server.key.
        """
        for name in ("server.crt", "server.key"):
            shutil.copy(keys / name, self.folder / name)
            (self.folder / name).chmod(0o600)
            if not os.geteuid():
                shutil.chown(self.folder / name, "postgres", "postgres")
        rules = self.folder / "pg_hba.conf"
        before = rules.read_text()
        place = f"{database} {ENGINE} 127.0.0.1/32"
        rules.write_text(f"hostssl {place} scram-sha-256\nhostnossl {place} reject\n{before}")
        try:
            self._reload("ALTER SYSTEM SET ssl = on", "on")
            yield
        finally:
            rules.write_text(before)
            self._reload("ALTER SYSTEM RESET ssl", "off")

    def _reload(self, statement: str, ssl: str) -> None:
        with self.connect() as connection:
            connection.execute(statement)
            connection.execute("SELECT pg_reload_conf()")
        wait_until(lambda: self._setting("ssl") == ssl)

    def _setting(self, name: str) -> str:
        """Return a setting of a new session."""
        with self.connect() as connection:
            (value,) = connection.execute(f"SHOW {name}").fetchone() or ("",)
            return str(value)

    def dsn(self, database: str, user: str = "postgres") -> str:
        """Return the URL of a database."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def run(self, name: str, *arguments: str) -> None:
        """Run a program of PostgreSQL."""
        subprocess.run(_as_postgres(program(name), *arguments), check=True, capture_output=True)


def _own(folder: Path) -> None:
    if not os.geteuid():
        shutil.chown(folder, "postgres", "postgres")
        folder.chmod(0o700)


def scratch(parent: Path = MEMORY) -> Path:
    """Return a new folder that the user ``postgres`` can enter. It is deleted at the end."""
    folder = Path(
        tempfile.mkdtemp(prefix="tiercel-postgres-", dir=parent if parent.is_dir() else None)
    )
    _own(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def shared_server() -> Postgres:
    """Return the primary of this test session, which starts at the first call."""
    server = Postgres.primary(scratch())
    server.start()
    atexit.register(server.kill)
    return server


ENGINE, OWNER = "tiercel", "tiercel_owner"
"""The roles of the page on replicas: of the engine, and the owner of the tables."""
_numbers = itertools.count(1)
_free: list[str] = []
_RECORD = "postgres.json"


def database_of(folder: Path) -> str:
    """Return the URL of the database that belongs to a folder. A new folder gets an empty database.

    A copy of a folder has the same database. It represents a second process that opens the journal after
    the first one has died: other replicas have found that it does not renew its liveness row.
    """
    record = folder / _RECORD
    server = shared_server()
    if record.exists():
        found = json.loads(record.read_text())
        if found["folder"] != str(folder):
            with server.connect(found["database"]) as connection:
                connection.execute("DELETE FROM replicas")
        return server.dsn(found["database"], ENGINE)
    database = f"journal_{next(_numbers)}"
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {database} TEMPLATE {_template()}")
    folder.mkdir(exist_ok=True)
    record.write_text(json.dumps({"folder": str(folder), "database": database}))
    return server.dsn(database, ENGINE)


@cache
def _template() -> str:
    """Return the name of a database with the tables of the journal, and the roles of docs/replicas.md.

    The tests use the role of the engine, which has the minimum of rights.
    """
    from engine.journal.postgres.migrations import (  # noqa: PLC0415 - not every user of this module needs it
        migrate,
    )

    server = shared_server()
    server.psql(documented_roles())
    with contextlib.closing(server.connect("tiercel", OWNER)) as connection:
        migrate(connection)
    return "tiercel"


def documented_roles() -> str:
    """Return the SQL of the page on replicas that creates the roles and the database ``tiercel``."""
    page = (Path(__file__).parents[2] / "docs" / "replicas.md").read_text()
    section = page[page.index("### The minimum of rights") :]
    return section[section.index("```sql") + 6 :].partition("```")[0]


_CLOCK = """
CREATE SCHEMA IF NOT EXISTS moved;
GRANT USAGE ON SCHEMA moved TO PUBLIC;
CREATE OR REPLACE FUNCTION moved.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
$$ SELECT pg_catalog.clock_timestamp() + make_interval(secs => {}) $$;
"""


def move_clock(server: Postgres, database: str, seconds: float, port: int | None = None) -> None:
    """Move the clock of a database, as a fail-over to a server with another clock does.

    A function in front of that of PostgreSQL stands for the clock. New sessions use it. port: only of the
    server with this port.
    """
    here = "true" if port is None else f"inet_server_port() = {port}"
    with server.connect(database) as admin:
        admin.execute(_CLOCK.format(f"CASE WHEN {here} THEN {seconds} ELSE 0 END"))
        admin.execute(f"ALTER DATABASE {database} SET search_path = public, moved, pg_catalog")


@contextlib.contextmanager
def unavailable(url: str) -> Iterator[None]:
    """Cut all connections to a database and refuse new ones, until the block ends."""
    database = url.rpartition("/")[2]
    with shared_server().connect() as admin:
        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,)
        )
        try:
            yield
        finally:
            admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
