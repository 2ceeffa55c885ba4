"""A burst of events whose effects can be counted: an Event on a pod and a request to a receiver."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from datetime import UTC, datetime

from tests.soak.receiver import Receiver
from tests.support.engine import PATIENCE, engine

NOTE = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: note}
spec:
  match: {rules: [Burst]}
  actions:
    - {action: kubernetes.event, with: {message: "soak %proc.pid"}}
"""
TELL = """\
    - {action: http.request, with: {url: "http://ADDRESS/%proc.pid"}}
"""
RAILS = """\
apiVersion: tiercel.dev/v1
kind: Guardrails
metadata: {name: default}
spec:
  budgets: []
"""
INTERRUPTED = "interrupted, may have run"
PODS = 10


@contextlib.contextmanager
def telling(tmp_path, kubeconfig, slow=0.0, note=NOTE):
    """Run an engine whose playbook creates an Event and then sends a request: (engine, receiver).

    The name of an Event hides that it was written twice. A request is not repeatable, and the receiver counts
    it. The receiver gets four requests at a time, so more workers would only wait for each other.
    """
    with Receiver(slow) as receiver:
        files = {"a.yaml": note + TELL.replace("ADDRESS", receiver.address), "rails.yaml": RAILS}
        acting = ("--kubeconfig", str(kubeconfig), "--kube-qps", "1000", "--slow-workers", "4")
        with engine(tmp_path, files, *acting, "--http-hosts", receiver.address) as running:
            yield running, receiver


def alert(namespace, number):
    """Return the event of that number, on one of the pods."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    fields = {
        "k8s.ns.name": namespace,
        "k8s.pod.name": f"pod-{number % PODS}",
        "proc.pid": number,
    }
    return {"rule": "Burst", "time": now, "hostname": "worker-1", "output_fields": fields}


def noted(admin, namespace):
    """Return the numbers in the Events of the namespace."""
    found = admin.list(f"/api/v1/namespaces/{namespace}/events")
    messages = [event["message"] for event in found if event["message"].startswith("soak ")]
    return {int(message.removeprefix("soak ")) for message in messages}


def done_once(running, admin, burst, receiver):
    """Return how many requests were interrupted. Every other acknowledged run must be done exactly once.

    A request that was under way when the engine died may have been sent. The step says so, and is not repeated.
    """
    assert max(receiver.seen.values()) == 1, "a request is doubled"
    noted_down, interrupted = noted(admin, burst.namespace), 0
    for number, run in burst.runs.items():
        note, request = running.get(f"/runs/{run}")[2]["steps"]
        assert (note["state"], number in noted_down) == ("done", True), (number, note)
        if request["state"] == "failed" and request["message"].startswith(INTERRUPTED):
            interrupted += 1
        else:
            assert (request["state"], receiver.seen[number]) == ("done", 1), (number, request)
    return interrupted


class Burst:
    """A sender that continues through restarts. ``runs`` maps each number that got a 202 to its run.

    most: how many events it sends before it waits for ``has_sent``.
    """

    def __init__(self, running, namespace, most=10**9):
        self._running, self.namespace, self._most = running, namespace, most
        self.runs, self.sent = {}, 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send, name="burst", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()

    def _send(self):
        while not self._stopping.is_set():
            if self.sent >= self._most:
                self._stopping.wait(0.01)
                continue
            number, self.sent = self.sent, self.sent + 1
            try:
                status, _, said = self._running.post(alert(self.namespace, number))
            except (OSError, ValueError, http.client.HTTPException):
                continue  # no answer: it may have been accepted
            if status == 202:
                (self.runs[number],) = said["runs"]

    def has_sent(self, number):
        """Wait until that many events are acknowledged."""
        self._most = max(self._most, number + 20)
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE
        while len(self.runs) < number:
            assert time.monotonic() < deadline, "the burst makes no progress"
            pause.wait(0.01)


def drained(running):
    """Wait until no run waits or runs."""
    pause, deadline = threading.Event(), time.monotonic() + 120
    while True:
        queue = running.get("/status")[2]["queue"]
        if queue["waiting"] == queue["running"] == 0:
            return
        assert time.monotonic() < deadline, queue
        pause.wait(0.05)
