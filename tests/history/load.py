"""The sender of events. It sends each event until a replica has acknowledged it, and records every request."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.history.chance import split
from tests.history.playbooks import PODS, RULES
from tests.history.records import Sent

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

TIMEOUT = 3.0
"""Seconds until the sender gives up a request and tries another replica, as Falcosidekick does."""
EVENTS_IN_NAMESPACE = 24
"""Events for the pods of one namespace. Then the load moves on to new pods."""
REPEATED = 0.1
"""Share of the events that are sent a second time."""


class Load:
    """Threads that send events at a rate. sent: every request.

    replicas: returns name -> URL of the replicas, also of those that do not answer. add_pod: creates a pod.
    """

    def __init__(
        self,
        chance: random.Random,
        replicas: Callable[[], Mapping[str, str]],
        add_pod: Callable[[str, str], None],
        rate: float,
        threads: int = 3,
    ) -> None:
        self.sent: list[Sent] = []
        self._chance, self._replicas, self._add_pod = chance, replicas, add_pod
        self._interval = threads / rate
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._number = 0
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]

    def start(self) -> None:
        """Start to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop after every event is acknowledged."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        with self._lock:
            chance = split(self._chance)
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._interval, time.monotonic())
            with self._lock:
                number = self._number
                self._number += 1
                if number % EVENTS_IN_NAMESPACE == 0:
                    for pod in range(PODS):
                        self._add_pod(namespace_of(number), f"pod-{pod}")
            rule, pod = chance.choice(RULES), f"pod-{chance.randrange(PODS)}"
            event = _event(number, rule, pod)
            self._deliver(chance, event)
            if chance.random() < REPEATED:
                self._deliver(chance, event)

    def _deliver(self, chance: random.Random, event: dict) -> None:
        """Send an event until it is acknowledged."""
        pause = threading.Event()
        body = json.dumps(event).encode()
        while True:
            replica, url = chance.choice(sorted(self._replicas().items()))
            began = time.time()
            status, answer = _post(url, body)
            fields = event["output_fields"]
            target = f"{fields['k8s.ns.name']}/{fields['k8s.pod.name']}"
            runs = tuple(answer.get("runs", ())) if status == 202 else ()
            number = fields["proc.pid"]
            self.sent.append(
                Sent(number, event["rule"], target, replica, began, time.time(), status, runs)
            )
            if status == 202:
                return
            pause.wait(0.2)


def namespace_of(number: int) -> str:
    """Return the namespace of the event with this number."""
    return f"load-{number // EVENTS_IN_NAMESPACE}"


def _event(number: int, rule: str, pod: str) -> dict:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    fields = {"k8s.ns.name": namespace_of(number), "k8s.pod.name": pod, "proc.pid": number}
    return {"rule": rule, "time": now, "source": "test", "output_fields": fields}


def _post(url: str, body: bytes) -> tuple[int, dict]:
    """Return the status (0: no answer) and the JSON of the answer."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=TIMEOUT)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/events", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    return 0, {}
