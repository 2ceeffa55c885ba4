"""A burst of events that each leave one Event on a pod, so that what was done can be counted."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from datetime import UTC, datetime

from tests.serving import PATIENCE

NOTE = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: note}
spec:
  match: {rules: [Burst]}
  actions:
    - {action: kubernetes.event, with: {message: "soak %proc.pid"}}
"""
PODS = 10


def alert(namespace, number):
    """The event of that number, about one of the pods."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    fields = {
        "k8s.ns.name": namespace,
        "k8s.pod.name": f"pod-{number % PODS}",
        "proc.pid": number,
    }
    return {"rule": "Burst", "time": now, "hostname": "worker-1", "output_fields": fields}


def noted(admin, namespace):
    """How often each number stands in the events of the namespace."""
    found = admin.list(f"/api/v1/namespaces/{namespace}/events")
    messages = [event["message"] for event in found if event["message"].startswith("soak ")]
    return Counter(int(message.removeprefix("soak ")) for message in messages)


class Burst:
    """A sender that goes on through restarts; ``acknowledged`` are the numbers that got a 202.

    most: how many it sends at once; then it waits until somebody waits for more.
    """

    def __init__(self, running, namespace, most=10**9):
        self._running, self._namespace, self._most = running, namespace, most
        self.acknowledged, self.sent = [], 0
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
                status, _, _ = self._running.post(alert(self._namespace, number))
            except (OSError, ValueError, http.client.HTTPException):
                continue  # no answer: it may be done or not
            if status == 202:
                self.acknowledged.append(number)

    def has_sent(self, number):
        """Wait until so many were acknowledged."""
        self._most = max(self._most, number + 20)
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE
        while len(self.acknowledged) < number:
            assert time.monotonic() < deadline, "the burst does not come on"
            pause.wait(0.01)


def drained(running):
    """Wait until no run waits or is under way."""
    pause, deadline = threading.Event(), time.monotonic() + 120
    while True:
        queue = running.get("/status")[2]["queue"]
        if queue["waiting"] == queue["running"] == 0:
            return
        assert time.monotonic() < deadline, queue
        pause.wait(0.05)
