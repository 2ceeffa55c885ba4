"""Real Redis and NATS servers, each on a free loopback port with its data in a folder."""

from __future__ import annotations

import abc
import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from tests.support.engine import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path


def have(name: str) -> str:
    """Return the path of a program. If it is missing, skip the test, or fail in CI."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"{name} is missing: make components")
    assert found, f"{name} is missing: make components"
    return found


class Server(abc.ABC):
    """A server program. It keeps its port and data over ``stop`` and ``start``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def command(self) -> list[str]:
        """Return the command line."""

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        self._process = subprocess.Popen(
            self.command(), cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, f"{self.command()[0]} has ended"
                assert time.monotonic() < deadline
            else:
                return

    def stop(self) -> None:
        """Kill the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class RedisServer(Server):
    """Redis with an fsync for each write."""

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            have("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--appendonly", "yes",
            "--appendfsync", "always", "--save", "",
        ]  # fmt: skip


class NatsServer(Server):
    """NATS with JetStream."""

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            have("nats-server"), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder),
        ]  # fmt: skip
