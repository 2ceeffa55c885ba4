"""A proxy in front of the real API server that injects errors, hangs and lost answers.

Plain HTTP on loopback; what passes goes on to the server under the caller's own token.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections import Counter

import urllib3

LONG = 10.0
"""Seconds that a request hangs, much longer than the timeout of a step."""
REASONS = {
    403: "Forbidden",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalError",
}


class FaultyProxy:
    """``now`` is None (all passes), a status that is answered instead, ``hangs``, or ``lost``.

    hangs: no answer comes. lost: the request is done, and its answer is not sent. met: how many requests met
    which fault.
    """

    def __init__(self, plane):
        self.now, self.met = None, Counter()
        self._clears = threading.Event()
        self._pool = urllib3.PoolManager(ca_certs=str(plane.ca), maxsize=64, retries=False)
        self._real = plane.server
        self._lock = threading.Lock()
        proxy = self

        class Door(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet, or the client waits 40 ms for the second

            def do_GET(self):
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                told = proxy.answer(self.command, self.path, self.headers, body)
                if told is None:
                    self.close_connection = True
                    return
                status, headers, content = told
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server's names

            def log_message(self, *_):
                pass

        self._server = _Server(("127.0.0.1", 0), Door)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.server = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, method, path, headers, body):
        """Return (status, headers, content), or None to close the connection."""
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
        return now, {"Content-Type": "application/json", **again}, json.dumps(told).encode()

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

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._clears.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._pool.clear()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True  # those of connections that are kept open

    def handle_error(self, *_):
        """Ignore clients that disconnected. The test disconnects them."""
