"""A proxy in front of the real API server that injects errors, hangs and lost answers.

Plain HTTP on loopback; what passes goes on to the server under the caller's own token.
"""

from __future__ import annotations

import json
import threading
from collections import Counter

import urllib3
from tests.support.loopback_server import LoopbackServer, as_json

LONG = 10.0
"""Seconds that a request hangs, much longer than the timeout of a step."""
REASONS = {
    403: "Forbidden",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalError",
}


class FaultyProxy(LoopbackServer):
    """``now`` is None (all passes), a status that is answered instead, ``hangs``, or ``lost``.

    hangs: no answer comes. lost: the request is done, and its answer is not sent. met: how many requests met
    which fault.
    """

    def __init__(self, plane):
        super().__init__()
        self.now, self.met = None, Counter()
        self._clears = threading.Event()
        self._pool = urllib3.PoolManager(ca_certs=str(plane.ca), maxsize=64, retries=False)
        self._real = plane.server
        self._lock = threading.Lock()
        self.server = f"http://{self.address}"

    def respond(self, method, path, headers, body):
        """Return the response of the API server, or that of the fault."""
        now = self.now
        if now is None:
            return self._pass(method, path, headers, body)
        with self._lock:
            self.met[now] += 1
        if now == "hangs":
            self._clears.wait(LONG)
            return None
        if now == "lost":
            self._pass(method, path, headers, body)
            return None
        told = {"kind": "Status", "code": now, "reason": REASONS[now], "message": "injected"}
        again = {"Retry-After": "1"} if now == 429 else {}
        status, kind, content = as_json(now, told)
        return status, {**kind, **again}, content

    def _pass(self, method, path, headers, body):
        kept = {
            name: headers[name]
            for name in ("Authorization", "Content-Type", "Accept")
            if headers[name]
        }
        response = self._pool.request(method, self._real + path, body=body, headers=kept)
        return response.status, {"Content-Type": response.headers["Content-Type"]}, response.data

    def kubeconfig(self, token, path):
        """Write a kubeconfig that uses this proxy."""
        cluster = {"name": "door", "cluster": {"server": self.server}}
        context = {"name": "door", "context": {"cluster": "door", "user": "door"}}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "door", "clusters": [cluster],
            "users": [{"name": "door", "user": {"token": token}}], "contexts": [context],
        }  # fmt: skip
        path.write_text(json.dumps(config))
        return path

    def __exit__(self, *_):
        self._clears.set()
        super().__exit__()
        self._pool.clear()
