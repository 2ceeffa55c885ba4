"""An HTTP server on loopback that counts requests, so that a request that is sent twice is seen."""

from __future__ import annotations

import threading
from collections import Counter

from tests.support.loopback_server import LoopbackServer, as_json


class Receiver(LoopbackServer):
    """Counts the requests to each path before it answers. ``seen``: number -> count, ``address``: HOST:PORT.

    slow: seconds until it answers, so that a kill finds requests under way. shut: while it is set, it answers
    503 and counts no more than that it did.
    """

    def __init__(self, slow=0.0):
        super().__init__()
        self.seen, self.refused = Counter(), 0
        self.shut = threading.Event()
        self._slow, self._never = slow, threading.Event()
        self._lock = threading.Lock()

    def respond(self, method, path, headers, body):
        """Answer after the request is counted."""
        del method, headers, body
        return as_json(self.answer(int(path.removeprefix("/"))), {})

    def answer(self, number):
        """Return the status for a request."""
        with self._lock:
            if self.shut.is_set():
                self.refused += 1
                return 503
            self.seen[number] += 1
        self._never.wait(self._slow)
        return 200
