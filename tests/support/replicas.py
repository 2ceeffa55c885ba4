"""What the tests of replicas share: playbooks that send requests, and a receiver of the requests."""

from __future__ import annotations

import contextlib
import socket
import threading
from datetime import UTC, datetime
from typing import Any

from tests.support.engine import PATIENCE

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: none
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
users: [{name: none, user: {}}]
"""
PLAYBOOKS = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: tell}
spec:
  match: {rules: [Tell]}
  actions: [{action: http.request, timeout: 10m, with: {url: "%s"}}]
---
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: once}
spec:
  match: {rules: [Once]}
  throttle: {first: 1, within: 10m}
  actions: [{action: http.request, with: {url: "%s"}}]
---
apiVersion: tiercel.dev/v1
kind: Guardrails
metadata: {name: default}
spec:
  budgets: []
"""
"""The lease of ``tell`` lasts longer than PATIENCE. No run is taken over because its lease has ended."""


class Receiver:
    """An HTTP server that records requests. It answers while ``answering`` is set."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.changed, self.answering = threading.Condition(), threading.Event()
        self.answering.set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._socket.close()

    def of(self, run: str) -> int:
        """Return how many requests a run has sent."""
        return sum(f"Idempotency-Key: {run}/".encode() in request for request in self.requests)

    def wait_for(self, run: str) -> None:
        """Wait for the request of a run."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.of(run), PATIENCE)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            received = connection.recv(65_536)
            with self.changed:
                answers = self.answering.is_set()  # before a test sees the request, and changes it
                self.requests.append(received)
                self.changed.notify_all()
            if answers:  # and the next request has a connection of its own
                head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n"
                connection.sendall(head + b"{}")
            else:
                self.answering.wait()  # then close the connection without an answer


def alert(rule: str, number: int = 0) -> dict[str, Any]:
    """Return an event of a rule. number: makes it another event."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"rule": rule, "time": now, "output_fields": {"proc.pid": number}}
