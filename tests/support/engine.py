"""``tiercel serve`` as its own process: started, spoken to, listened to, stopped.

Nothing here waits by the clock: the engine's own lines on stderr (log) and stdout (audit) say how far it is.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Predicate = Callable[[dict[str, Any]], Any]
    Answer = tuple[int, dict[str, str], Any]

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
"""Seconds that anything may take before a test fails; far more than it ever should."""


class Lines:
    """The lines of a stream as records, read by a thread until its end.

    A line that is no JSON is ``{"event": "", "line": …}``.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.records: list[dict[str, Any]] = []
        self._stream, self._ended, self._grown = stream, False, threading.Condition()
        self._thread = threading.Thread(target=self._read, name="lines", daemon=True)
        self._thread.start()

    def wait_for(self, predicate: Predicate, timeout: float) -> dict[str, Any]:
        """The first record, of all so far and to come, that the predicate holds for."""
        until, seen = time.monotonic() + timeout, 0
        with self._grown:
            while True:
                for record in self.records[seen:]:
                    if predicate(record):
                        return record
                seen, left = len(self.records), until - time.monotonic()
                if self._ended or left <= 0:
                    break
                self._grown.wait(left)
            said = "\n".join(json.dumps(record, ensure_ascii=False) for record in self.records)
            raise AssertionError(f"{'it ended' if self._ended else 'too late'}; it said:\n{said}")

    def join(self) -> None:
        """Read on to the stream's end."""
        self._thread.join(PATIENCE)
        self._stream.close()

    def _read(self) -> None:
        for line in self._stream:
            with self._grown:
                self.records.append(_record(line.decode("utf-8", "replace").rstrip("\n")))
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()


class Running:
    """An engine that listens. events, admin: ``http://127.0.0.1:PORT`` of its two ports."""

    def __init__(self, command: list[str], env: dict[str, str], folder: Path) -> None:
        self._command, self._env, self._folder = command, env, folder
        self._start()

    def post(
        self,
        body: Any,
        path: str = "/events",
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        source: str | None = None,
    ) -> Answer:
        """Post a body (bytes or text as they are, all else as JSON): the status, headers, JSON."""
        if not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        return call(self.events, method, path, body, headers, source)

    def get(self, path: str) -> Answer:
        """Ask the admin port: the status, headers, and the JSON (or text) of the answer."""
        return call(self.admin, "GET", path)

    def wait_for_log(self, predicate: Predicate, timeout: float = PATIENCE) -> dict[str, Any]:
        """The first line of the log, of this start so far or to come, that the predicate holds for."""
        return self._log.wait_for(predicate, timeout)

    def wait_for_audit(self, predicate: Predicate, timeout: float = PATIENCE) -> dict[str, Any]:
        """The first line of the audit likewise."""
        return self._audit.wait_for(predicate, timeout)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log's lines of this start so far."""
        return list(self._log.records)

    @property
    def audit(self) -> list[dict[str, Any]]:
        """The audit's lines of this start so far."""
        return list(self._audit.records)

    @property
    def pid(self) -> int:
        """The process that takes events."""
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """Both processes, that of the workers last."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL."""
        self._process.kill()
        self._end()

    def terminate(self) -> int:
        """Ask it to end with SIGTERM: its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self._end()

    def restart(self) -> None:
        """Start it again as it was told before, with the same journal, on other free ports."""
        if self._process.poll() is None:
            self.terminate()
        self._start()

    def close(self) -> None:
        """End it where it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._end()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self._env,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stderr
        assert self._process.stdout
        self._log, self._audit = Lines(self._process.stderr), Lines(self._process.stdout)
        try:
            said = self.wait_for_log(_addresses)
        except BaseException:
            self.close()
            raise
        self.events, self.admin = _addresses(said)

    def _end(self) -> int:
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._log.join()
            self._audit.join()
        return code


@contextlib.contextmanager
def engine(
    tmp_path: Path,
    playbooks: Path | Mapping[str, str],
    *args: str,
    env: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """A running engine. playbooks: a folder, or path -> text of one that is made in tmp_path.

    args: further flags of ``serve``. env: further variables; of the tests' own, none of ``TIERCEL_…`` or
    ``KUBERNETES_…`` is passed on. The journal is tmp_path/tiercel.db unless a flag says otherwise.
    """
    running = Running(*command_of(tmp_path, playbooks, args, env or {}), tmp_path)
    try:
        yield running
    finally:
        running.close()


def refusal(
    tmp_path: Path,
    playbooks: Path | Mapping[str, str],
    *args: str,
    env: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """The exit code and stderr of an engine that refuses to start."""
    command, variables = command_of(tmp_path, playbooks, args, env or {})
    ended = subprocess.run(
        command, env=variables, cwd=tmp_path, capture_output=True, timeout=PATIENCE, check=False
    )
    return ended.returncode, ended.stderr.decode()


def call(
    url: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    source: str | None = None,
) -> Answer:
    """One request on a connection of its own: the status, headers in lower case, JSON or text.

    source: the address that it comes from; None for the system's choice.
    """
    address = urlsplit(url)
    connection = http.client.HTTPConnection(
        address.hostname or "",
        address.port,
        timeout=PATIENCE,
        source_address=(source, 0) if source else None,
    )
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        content = response.read().decode()
    given = {name.lower(): value for name, value in response.getheaders()}
    is_json = given.get("content-type", "").startswith("application/json")
    return response.status, given, json.loads(content) if is_json and content else content


def write_playbooks(folder: Path, files: Mapping[str, str]) -> Path:
    """The folder, with these files in it."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def command_of(
    tmp_path: Path,
    playbooks: Path | Mapping[str, str],
    args: tuple[str, ...],
    env: Mapping[str, str],
) -> tuple[list[str], dict[str, str]]:
    """The command line of an engine (see engine) and its environment."""
    folder = playbooks
    if not isinstance(folder, Path):
        folder = write_playbooks(tmp_path / "playbooks", folder)
    defaults = {
        "--playbooks": str(folder),
        "--journal": str(tmp_path / "tiercel.db"),
        "--listen": "127.0.0.1:0",
        "--admin-listen": "127.0.0.1:0",
    }
    given = [
        part
        for flag, value in defaults.items()
        if flag not in args and _variable(flag) not in env
        for part in (flag, value)
    ]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TIERCEL_", "KUBERNETES_"))}
    command = [sys.executable, "-m", "engine", "serve", *given, *args]
    return command, {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **env}


def _variable(flag: str) -> str:
    return "TIERCEL_" + flag.removeprefix("--").replace("-", "_").upper()


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {"event": "", "line": line}


def _addresses(record: dict[str, Any]) -> tuple[str, ...]:
    """Where the engine listens, by the line that says so, as JSON or as text; else nothing."""
    if record.get("event") == "listening":
        return record["events"], record["admin"]
    text = record.get("line", "")
    if " listening " not in text:
        return ()
    named = dict(re.findall(r"(events|admin)=(\S+)", text))
    return named["events"], named["admin"]
