"""An HTTP server on loopback that counts requests, so that a request that is sent twice is seen."""

from __future__ import annotations

import http.server
import threading
from collections import Counter


class Receiver:
    """Counts the requests to each path before it answers. ``seen``: number -> count, ``address``: HOST:PORT.

    slow: seconds until it answers, so that a kill finds requests under way. shut: while it is set, it answers
    503 and counts no more than that it did.
    """

    def __init__(self, slow=0.0):
        self.seen, self.refused = Counter(), 0
        self.shut = threading.Event()
        self._slow, self._never = slow, threading.Event()
        self._lock = threading.Lock()
        receiver = self

        class Door(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet, or the client waits 40 ms for the second

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                self.send_response(receiver.answer(int(self.path.removeprefix("/"))))
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self._server = _Server(("127.0.0.1", 0), Door)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def answer(self, number):
        """Return the status for a request."""
        with self._lock:
            if self.shut.is_set():
                self.refused += 1
                return 503
            self.seen[number] += 1
        self._never.wait(self._slow)
        return 200

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True  # those of connections that are kept open

    def handle_error(self, *_):
        """Ignore clients that were killed. The test kills them."""
