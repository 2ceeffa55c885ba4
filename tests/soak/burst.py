"""A burst of events, of each of which the effects can be counted: an Event on a pod, a request to a receiver."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from datetime import UTC, datetime

from tests.soak.receiver import Receiver
from tests.support.serving import PATIENCE, engine

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
    """An engine whose playbook notes and then tells a receiver: (engine, receiver).

    An Event's name would hide that it was written twice; a request is not repeatable, and counted. The
    receiver gets four at once, so that more workers would only wait for each other.
    """
    with Receiver(slow) as receiver:
        files = {"a.yaml": note + TELL.replace("ADDRESS", receiver.address), "rails.yaml": RAILS}
        acting = ("--kubeconfig", str(kubeconfig), "--kube-qps", "1000", "--slow-workers", "4")
        with engine(tmp_path, files, *acting, "--http-hosts", receiver.address) as running:
            yield running, receiver


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
    """The numbers that stand in the events of the namespace."""
    found = admin.list(f"/api/v1/namespaces/{namespace}/events")
    messages = [event["message"] for event in found if event["message"].startswith("soak ")]
    return {int(message.removeprefix("soak ")) for message in messages}


def done_once(running, admin, burst, receiver):
    """How many requests were interrupted; of all that was acknowledged, all else must be done, and once.

    A request that was under way when the engine died cannot be told from one that was sent: it says so, and
    is not sent again.
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
    """A sender that goes on through restarts; ``runs`` has the run of each number that got a 202.

    most: how many it sends at once; then it waits until somebody waits for more.
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
                continue  # no answer: it may be done or not
            if status == 202:
                (self.runs[number],) = said["runs"]

    def has_sent(self, number):
        """Wait until so many were acknowledged."""
        self._most = max(self._most, number + 20)
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE
        while len(self.runs) < number:
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
