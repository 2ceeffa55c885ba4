"""Several replicas of the engine on a primary and a synchronous standby, each behind its own gates."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from engine.journal.postgres.migrations import migrate
from tests.history import journal_observer
from tests.support.engine import PATIENCE, Running, command_of
from tests.support.postgres import Postgres

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg
    from tests.history.api_server import RecordingServer
    from tests.history.gate import Gates

DATABASE = "history"
_WORKERS = ("--workers", "4", "--slow-workers", "4", "--kube-qps", "1000", "--log-format", "json")


class Database:
    """A primary and a synchronous standby with the tables of the journal and the triggers of the observer."""

    def __init__(self, parent: Path) -> None:
        self.primary = Postgres.primary(parent)
        self.primary.start(fsync="on")
        with self.primary.connect() as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        with contextlib.closing(self.primary.connect(DATABASE)) as connection:
            migrate(connection)
            journal_observer.install(connection)
        self.standby = self.primary.standby(parent)
        self.servers = (self.primary, self.standby)

    def fail_over(self) -> None:
        """Kill the primary, promote the standby, and make a new standby of what was the primary."""
        self.primary.kill_all()
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    def add_standby(self) -> None:
        """Make the server that was killed a standby."""
        self.primary.copy_to(self.standby)

    def connect(self) -> psycopg.Connection:
        """Connect to the primary."""
        return self.primary.connect(DATABASE)

    def close(self) -> None:
        """End both servers."""
        for server in self.servers:
            server.kill()


class Replica:
    """A replica that can be killed, stopped and cut off.

    name: of its gates. number: how often it started. spools: whether it has a spool.
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        gates: Gates,
        server: RecordingServer,
        playbooks: dict[str, str],
        *,
        spools: bool,
    ) -> None:
        self.name, self.number, self.spools = folder.name, 0, spools
        self._folder, self._server, self._playbooks = folder, server, playbooks
        self._ports = [gates.add(self.name, one.port) for one in database.servers]
        self._running: Running | None = None
        folder.mkdir()
        (folder / "secrets").mkdir()

    @property
    def process(self) -> str:
        """The name of the current start, as the observers see it."""
        return f"{self.name}.{self.number}"

    @property
    def url(self) -> str | None:
        """The URL of the event port, or None before the first start."""
        return self._running.events if self._running else None

    def start(self) -> None:
        """Start it, again and again while the database is away. Each start has another name of its process."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._start()
            except AssertionError:
                assert time.monotonic() < deadline
            else:
                return

    def _start(self) -> None:
        self.number += 1
        process = self.process
        (self._folder / "secrets" / "process").write_text(process)
        kubeconfig = self._folder / "kubeconfig"
        kubeconfig.write_text(self._server.kubeconfig(process))
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        url = f"postgresql://postgres@{hosts}/{DATABASE}?target_session_attrs=read-write"
        flags = (
            "--journal", journal_observer.with_process(url, process), "--kubeconfig", str(kubeconfig),
            "--secrets-dir", str(self._folder / "secrets"), "--http-hosts", self._server.address,
            *_WORKERS, *(("--spool", str(self._folder / "spool.db")) if self.spools else ()),
        )  # fmt: skip
        command = command_of(self._folder, self._playbooks, flags, {})
        self._running = Running(*command, self._folder)

    def spooled(self) -> int:
        """Return how many runs wait in its spool."""
        return self._running.get("/status")[2]["spool"]["runs"] if self.spools else 0

    def kill(self) -> None:
        """End both of its processes with SIGKILL."""
        self._signal(signal.SIGKILL)
        self._running.wait()

    def pause(self) -> None:
        """Stop both of its processes."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let both of its processes continue."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it."""
        if self._running:
            self._running.close()

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._running.pids:
            os.kill(pid, number)
