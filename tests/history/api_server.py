"""The API server and the receiver of requests, in one HTTP server with its own log of writes.

The objects are those of ``tests.support.fakes.ApiServer``. The bearer token of a replica names its process. A
request of ``http.request`` names it in the header ``Process``.
"""

from __future__ import annotations

import json
import re
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from tests.history.records import Effect
from tests.support.fakes import ApiServer, Failed, NotServed
from tests.support.loopback_server import LoopbackServer, as_json

if TYPE_CHECKING:
    import random

SLOWEST = 0.35
"""Seconds until the slowest answer. Shorter than the time that a liveness row has left for a call that began."""
SLOW, QUICK = 0.3, 0.05
"""Share of the slow answers, and seconds until the others."""
REFUSED = 0.02
"""Share of the requests that get a 503, so that runs wait for a retry."""
PART = re.compile(r"history\.test/(\w+)")
UNDONE_LABEL = "history.test/hold"
"""The label that an undo removes."""


class _Objects(ApiServer):
    """The objects, without a copy of all of them at each write. No write of the engine is a dry run here."""

    def _answer(self, method, path, query, content, body):
        if method == "GET":
            return super()._answer(method, path, query, content, body)
        parts = path.strip("/").split("/")
        namespace, resource, name = parts[3], parts[4], parts[5] if len(parts) > 5 else ""
        return self._write(method, resource, (resource, namespace, name), content, body)[1]


class RecordingServer(LoopbackServer):
    """effects: the log. address: HOST:PORT. chance: decides the delays and the refusals."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.effects: list[Effect] = []
        self.faults: list[str] = []
        self._chance, self._lock = chance, threading.Lock()
        self._objects, self._never = _Objects(), threading.Event()
        self._objects.put({"kind": "Node", "metadata": {"name": "worker-1"}})

    def add_pod(self, namespace: str, name: str) -> None:
        """Create a running pod, and its namespace."""
        with self._lock:
            self._objects.put({"kind": "Namespace", "metadata": {"name": namespace}})
            metadata = {"name": name, "namespace": namespace}
            spec = {"nodeName": "worker-1", "containers": [{"name": "c", "image": "nginx"}]}
            self._objects.put(
                {"kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Running"}}
            )

    def left(self) -> list[str]:
        """Return the pods that still have the label that an undo removes."""
        with self._lock:
            return [
                f"{namespace}/{name}"
                for (kind, namespace, name), item in self._objects.objects.items()
                if kind == "pods" and UNDONE_LABEL in (item["metadata"].get("labels") or {})
            ]

    def kubeconfig(self, process: str) -> str:
        """Return a kubeconfig with the token of a process."""
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "history",
                "clusters": [{"name": "history", "cluster": {"server": f"http://{self.address}"}}],
                "users": [{"name": "history", "user": {"token": process}}],
                "contexts": [
                    {"name": "history", "context": {"cluster": "history", "user": "history"}}
                ],
            }
        )

    def respond(self, method, path, headers, body):
        """Answer as the API server or the receiver. Record the request if it is a write."""
        return as_json(*self._answer(method, path, headers, body, time.time()))

    def _answer(self, method, path, headers, body, began):
        with self._lock:
            delay = self._chance.uniform(0, SLOWEST if self._chance.random() < SLOW else QUICK)
            refuses = self._chance.random() < REFUSED
        if path.startswith("/request/"):
            return self._request(path, headers, began, delay, refuses=refuses)
        parts = urlsplit(path)
        if "/apis/authorization.k8s.io/" in path:
            return 201, {"status": {"allowed": True}}
        if method != "GET":
            self._never.wait(delay)
        try:
            status, answer = self._ask(method, parts, headers, body)
        except Exception as error:  # noqa: BLE001 - the test fails because of it
            self.faults.append(f"{method} {path}: {error!r}")
            return 500, {"message": repr(error)}
        if method != "GET":
            process = headers["Authorization"].removeprefix("Bearer ")
            self._record_write(parts.path, body, process, began, applied=status < 300)
        return status, answer

    def _request(self, path, headers, began, delay, *, refuses):
        self._never.wait(delay)
        run, target = headers["Idempotency-Key"].partition("/")[0], path.removeprefix("/request/")
        effect = Effect(
            run, "request", target, headers["Process"], began, time.time(), applied=not refuses
        )
        with self._lock:
            self.effects.append(effect)
        return (503, {}) if refuses else (200, {})

    def _ask(self, method, parts, headers, body):
        content = headers["Content-Type"]
        with self._lock:
            try:
                answer = self._objects._answer(
                    method, parts.path, {"limit": "500", **dict(parse_qsl(parts.query))}, content,
                    json.loads(body) if body else None,
                )  # fmt: skip
            except NotServed:
                return 404, {"message": "the server could not find the requested resource"}
            except Failed as failed:
                details = {"name": parts.path.rpartition("/")[2], "causes": failed.causes}
                return failed.status, {"message": str(failed), "details": details}
        return 200, answer

    def _record_write(self, path, body, process, began, *, applied):
        """Record which parts of the pod a merge patch sets (to the id of a run) or removes (None)."""
        parts, sent = path.split("/"), json.loads(body)
        target = f"{parts[4]}/{parts[6]}"
        metadata = sent.get("metadata") or {}
        ended = time.time()
        for name, value in {
            **(metadata.get("labels") or {}),
            **(metadata.get("annotations") or {}),
        }.items():
            kind = PART.fullmatch(name)
            if kind:
                effect = Effect(
                    value or "", kind[1], target, process, began, ended,
                    undo=value is None, applied=applied,
                )  # fmt: skip
                with self._lock:
                    self.effects.append(effect)

    def __exit__(self, *_):
        self._never.set()
        super().__exit__()
