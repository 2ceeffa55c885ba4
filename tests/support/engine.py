"""Run ``tiercel serve`` as a process: start it, send requests, read its output, stop it.

The tests wait for lines of the log (stderr) and the audit log (stdout), not for a time.
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
    from collections.abc import Callable, Iterable, Iterator, Mapping

    Predicate = Callable[[dict[str, Any]], Any]
    Answer = tuple[int, dict[str, str], Any]

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds after which a test fails. Nothing normally takes that long."""


def wait_until(
    holds: Callable[[], Any],
    why: str | Callable[[], Any] = "it never happened",
    seconds: float = PATIENCE,
) -> None:
    """Call ``holds`` until it returns a true value.

    why: the message of a failure after so many seconds, or a function that returns it.
    """
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, why() if callable(why) else why
        pause.wait(0.02)


class Lines:
    """The lines of a stream as records. A thread reads them until the end.

    A line that is not JSON is ``{"event": "", "line": …}``.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.records: list[dict[str, Any]] = []
        self._stream, self._ended, self._grown = stream, False, threading.Condition()
        self._thread = threading.Thread(target=self._read, name="lines", daemon=True)
        self._thread.start()

    def wait_for(self, predicate: Predicate, timeout: float) -> dict[str, Any]:
        """Return the first record, past or future, for which the predicate is true."""
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
        """Wait for the end of the stream."""
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
    """A running engine. events, admin: ``http://127.0.0.1:PORT`` of its two ports."""

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
        """Post a body: bytes and text unchanged, other values as JSON. Returns status, headers and JSON."""
        if not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        return call(self.events, method, path, body, headers, source)

    def get(self, path: str) -> Answer:
        """Send a GET to the admin port. Returns status, headers, and JSON or text."""
        return call(self.admin, "GET", path)

    def wait_for_log(self, predicate: Predicate, timeout: float = PATIENCE) -> dict[str, Any]:
        """Return the first log line since this start for which the predicate is true. Waits for it."""
        return self._log.wait_for(predicate, timeout)

    def wait_for_audit(self, predicate: Predicate, timeout: float = PATIENCE) -> dict[str, Any]:
        """Return the first audit line since this start for which the predicate is true. Waits for it."""
        return self._audit.wait_for(predicate, timeout)

    def wait_for_steps(self, run: str, steps: Iterable[str]) -> list[dict[str, Any]]:
        """Wait until each step of a run has an audit line. Return all audit lines of the run.

        The lines of one run can have another order than its steps, because each pool writes its own.
        """
        for step in steps:
            self.wait_for_audit(
                lambda it, step=step: (it.get("run"), it.get("step")) == (run, step)
            )
        return [line for line in self.audit if line.get("run") == run]

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log lines since this start."""
        return list(self._log.records)

    @property
    def audit(self) -> list[dict[str, Any]]:
        """The audit lines since this start."""
        return list(self._audit.records)

    @property
    def pid(self) -> int:
        """The id of the main process."""
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """The ids of both processes, the worker process last."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    def kill(self) -> None:
        """Send SIGKILL, as a power failure would end it."""
        self._process.kill()
        self._end()

    def terminate(self) -> int:
        """Send SIGTERM. Returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until it exits. Returns the exit code."""
        return self._end()

    def restart(self) -> None:
        """Start it again with the same flags and journal, on other free ports."""
        if self._process.poll() is None:
            self.terminate()
        self._start()

    def close(self) -> None:
        """Kill it if it still runs."""
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
    """Run an engine. playbooks: a folder, or path -> text of files to create in tmp_path.

    args: more flags of ``serve``. env: more variables. Variables of the test process are inherited, except
    ``TIERCEL_…`` and ``KUBERNETES_…``. The default journal is tmp_path/tiercel.db.
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
    """Return the exit code and stderr of an engine that refuses to start."""
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
    """Send one request on a new connection. Returns status, headers in lower case, and JSON or text.

    source: the local address to connect from; None lets the system choose.
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
    """Write files into the folder, and return it."""
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
    """Return the command line and the environment of an engine (see engine)."""
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
    """The addresses in the ``listening`` line, JSON or text; empty for other lines."""
    if record.get("event") == "listening":
        return record["events"], record["admin"]
    text = record.get("line", "")
    if " listening " not in text:
        return ()
    named = dict(re.findall(r"(events|admin)=(\S+)", text))
    return named["events"], named["admin"]
