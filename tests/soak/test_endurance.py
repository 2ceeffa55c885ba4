"""Minutes at a steady rate: memory, open files and latency do not grow."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.soak.watch import memory_of
from tests.support.engine import engine
from tests.support.intake import PLAYBOOK, alert

RATE = 500
"""Events per second. One in five matches."""
REMEMBERED = 220
"""Bytes of one remembered identity. The engine remembers 100,000, so memory may grow until then."""


def test_at_a_steady_rate_nothing_grows(tmp_path, size):
    seconds = size.of(2, 600)
    pause = threading.Event()
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run") as running:
        address = urlsplit(running.events)
        connection = http.client.HTTPConnection(address.hostname, address.port)
        parts = []
        with contextlib.closing(connection):
            began = time.monotonic()
            for part in range(4):
                times = []
                for number in range(RATE * seconds // 4):
                    sent = part * RATE * seconds // 4 + number
                    event = alert(sent) if sent % 5 == 0 else alert(sent, rule="Another")
                    ahead = sent / RATE - (time.monotonic() - began)
                    if ahead > 0.002:  # keep the rate
                        pause.wait(ahead)
                    asked = time.monotonic()
                    connection.request("POST", "/events", json.dumps(event))
                    answer = connection.getresponse()
                    answer.read()
                    assert answer.status in (200, 202)
                    times.append(time.monotonic() - asked)
                times.sort()
                parts.append(
                    {
                        "p50_ms": round(times[len(times) // 2] * 1000, 2),
                        "p99_ms": round(times[len(times) * 99 // 100] * 1000, 2),
                        "memory_mb": memory_of(running.pid),
                        "open_files": len(list(Path(f"/proc/{running.pid}/fd").iterdir())),
                    }
                )
        assert len({part["open_files"] for part in parts[1:]}) == 1
        first, last = parts[0], parts[3]
        known = min(RATE * seconds // 5, 100_000) * 3 / 4 * REMEMBERED / 1e6
        assert last["memory_mb"] - first["memory_mb"] < known + size.of(20, 3)
        # few events of a small part are slow by chance
        assert last["p99_ms"] <= 2 * first["p99_ms"] + size.of(100, 1)
        assert last["p50_ms"] <= 2 * first["p50_ms"] + size.of(20, 0.2)
        size.tell(seconds=seconds, rate=RATE, quarters=parts)
