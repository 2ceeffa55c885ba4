"""Servers that kill the engine with SIGKILL at a chosen call, before or after the call has its effect."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
from collections import Counter
from urllib.parse import urlsplit

import urllib3
from tests.soak.faulty_proxy import FaultyProxy
from tests.support.engine import PATIENCE
from tests.support.loopback_server import LoopbackServer, as_json

ENDED = (b'"status":"Success"', b'"status":"Failure"')
"""What the last message of an exec contains. The frames of a server are not masked."""
KEPT = ("Content-Length", "Content-Type", "ETag", "Last-Modified")
"""Headers of an object store's response that go on to the engine."""


class Kills:
    """Counts calls, and kills the engine at the one with the number ``at`` (0: at none).

    after: kill it after the call had its effect, before its answer. running: the engine. calls: how many were
    counted.
    """

    def __init__(self):
        self.at, self.after, self.calls, self.running = 0, False, 0, None
        self._killed, self._lock = threading.Event(), threading.Lock()

    def arm(self, at, *, after):
        """Count from the beginning."""
        self._killed.clear()
        self.at, self.after, self.calls = at, after, 0

    def call(self, perform):
        """Count a call. Return what ``perform`` returns, or None if the engine is killed."""
        with self._lock:
            self.calls += 1
            kills = self.calls == self.at
        if not kills:
            return perform()
        if self.after:
            perform()
        self.kill()
        return None

    def kill(self):
        """Kill the engine."""
        for pid in self.running.pids:
            os.kill(pid, signal.SIGKILL)
        self._killed.set()

    def restart(self):
        """Restart the engine after it was killed, if it is to be killed at all."""
        if self.at:
            assert self._killed.wait(PATIENCE)
            self.running.wait()
            self.running.restart()


class KillingProxy(FaultyProxy):
    """A proxy of the API server. counts: whether a call counts, from its method and path."""

    def __init__(self, plane, kills, counts):
        super().__init__(plane)
        self._plane, self._kills, self._counts = plane, kills, counts

    def respond(self, method, path, headers, body):
        if not self._counts(method, path):
            return super().respond(method, path, headers, body)
        return self._kills.call(
            lambda: super(KillingProxy, self).respond(method, path, headers, body)
        )

    def upgrade(self, request):
        """Forward an exec. After its effect: when the command has ended, and the engine knows nothing of it."""
        kills = self._kills.at == self._kills.calls + 1
        self._kills.call(lambda: self._run_command(request) if kills else self._tunnel(request))

    def _run_command(self, request):
        """Run the command, and keep its output from the engine."""
        with self._connect(request) as upstream:
            seen = b""
            while not any(end in seen for end in ENDED):
                data = upstream.recv(65_536)
                assert data, "the exec ended without a status"
                seen += data

    def _tunnel(self, request):
        with self._connect(request) as upstream:
            back = threading.Thread(target=_forward, args=(request.connection, upstream))
            back.start()
            _forward(upstream, request.connection)
            back.join()

    def _connect(self, request):
        """Return a connection to the API server that has got the request."""
        address = urlsplit(self._plane.server)
        context = ssl.create_default_context(cafile=str(self._plane.ca))
        plain = socket.create_connection((address.hostname, address.port), PATIENCE)
        upstream = context.wrap_socket(plain, server_hostname=address.hostname)
        headers = {**dict(request.headers.items()), "Host": address.netloc}
        lines = [request.requestline, *(f"{name}: {value}" for name, value in headers.items())]
        upstream.sendall("\r\n".join([*lines, "", ""]).encode())
        return upstream


class KillingReceiver(LoopbackServer):
    """A receiver of webhooks. seen: path -> number of requests. Those to FREE do not count as calls."""

    FREE = "/follows"

    def __init__(self, kills):
        super().__init__()
        self.seen, self._kills = Counter(), kills

    def respond(self, method, path, headers, body):
        del method, headers, body

        def perform():
            self.seen[path] += 1
            return as_json(200, {})

        return perform() if path == self.FREE else self._kills.call(perform)


class KillingStore(LoopbackServer):
    """A proxy of an object store. real: HOST:PORT of the store."""

    def __init__(self, kills, real):
        super().__init__()
        self._kills, self._real = kills, real
        self._pool = urllib3.PoolManager(retries=False)

    def respond(self, method, path, headers, body):
        def perform():
            url = f"http://{self._real}{path}"
            response = self._pool.request(method, url, body=body, headers=dict(headers.items()))
            kept = {name: response.headers[name] for name in KEPT if name in response.headers}
            return response.status, kept, response.data

        return self._kills.call(perform)

    def __exit__(self, *_):
        super().__exit__()
        self._pool.clear()


def _forward(source, target):
    """Forward bytes until the source ends, and then end the target."""
    try:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other direction has ended both
        pass
