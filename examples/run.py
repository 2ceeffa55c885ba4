"""Start the engine in dry run, post a sample event, and keep the engine running (`make run`).

The example uses the real components: `tiercel serve --dry-run` as a process, an event over HTTP as Falcosidekick
sends it, the SQLite journal and the workers. Only the calls to the cluster are not sent.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = Path("playbooks/events/vistatech.json")
TIERCEL = Path(sys.executable).parent / "tiercel"
READY = 20.0
"""Seconds to wait until the engine is ready."""


def main() -> None:
    """Run the engine until it is interrupted, with a temporary journal, so that earlier runs do not count."""
    with tempfile.TemporaryDirectory(prefix="tiercel-") as folder:
        _run(Path(folder) / "tiercel.db")


def _run(journal: Path) -> None:
    events, admin = _free(8080), _free(8081)
    command = [
        str(TIERCEL), "serve", "--dry-run", "--story", "--playbooks", "playbooks",
        "--listen", f"127.0.0.1:{events}", "--admin-listen", f"127.0.0.1:{admin}",
        "--journal", str(journal),
    ]  # fmt: skip
    _say(f"$ tiercel {' '.join(command[1:])}")
    with _engine(command) as engine:
        _wait_until_ready(f"http://127.0.0.1:{admin}/readyz", engine)
        url = f"http://127.0.0.1:{events}/events"
        event = json.loads((ROOT / SAMPLE).read_text(encoding="utf-8"))
        event["time"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        _say(f"\n$ curl -d @{SAMPLE} {url}      (with the current time)")
        _say(_post(url, event))
        threading.Event().wait(1.0)  # the engine prints the runs
        _say(
            f"""
Nothing was changed: this is a dry run, and the pod is assumed to exist. The engine keeps running. Post your
own event:

  curl -d '{{"rule": "Terminal shell in container", "priority": "Notice", "hostname": "worker-1",
    "output_fields": {{"k8s.ns.name": "demo", "k8s.pod.name": "web-0", "proc.name": "bash"}}}}' {url}

Edit a file in playbooks/ and post again. The change is in force within a second. Status: curl \
http://127.0.0.1:{admin}/status
Ctrl-C stops the engine and removes its journal."""
        )
        with contextlib.suppress(KeyboardInterrupt):
            engine.wait()


@contextlib.contextmanager
def _engine(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    engine = subprocess.Popen(command, cwd=ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield engine
    finally:
        engine.terminate()
        engine.wait()


def _wait_until_ready(url: str, engine: subprocess.Popen[bytes]) -> None:
    pause = threading.Event()
    for _ in range(int(READY / 0.1)):
        if engine.poll() is not None:
            sys.exit(engine.returncode)
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):
            return
        pause.wait(0.1)
    sys.exit("the engine did not become ready")


def _post(url: str, event: object) -> str:
    request = urllib.request.Request(url, json.dumps(event).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return f"{answer.status} {answer.read().decode()}"


def _free(port: int) -> int:
    """Return the port, or a free one if the port is in use."""
    for wanted in (port, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", wanted)) as listener:
            taken: int = listener.getsockname()[1]
            return taken
    return port


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
