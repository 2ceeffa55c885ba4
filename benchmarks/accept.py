"""Measures how fast a posted event is written and answered, with one run per event, while workers execute runs.

    python benchmarks/accept.py

One sender uses one connection, as Falco and Falcosidekick do. Then 16 threads of one Python process send at
the same time. They share the two cores with the engine, which limits that figure. The fsync of the disk is
measured in the same run.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import PLAYBOOK, alert, percentile, report
from tests.support.engine import engine

EACH = 2_000


def fsync_ms(folder: Path) -> dict[str, float]:
    times = []
    with (folder / "probe").open("wb") as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    return {"p50": round(percentile(times, 0.5), 3), "p99": round(percentile(times, 0.99), 3)}


def send(url: str, first: int, count: int, rule: str, times: list[float]) -> None:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    for number in range(first, first + count):
        body = json.dumps(alert(number, rule, **{"k8s.pod.name": f"web-{number % 100}"}))
        began = time.perf_counter()
        connection.request("POST", "/events", body)
        answer = connection.getresponse()
        answer.read()
        times.append((time.perf_counter() - began) * 1000)
        assert answer.status in (200, 202), answer.status
    connection.close()


def measure(url: str, connections: int, first: int, rule: str) -> dict[str, float]:
    times: list[float] = []
    count = EACH // connections
    senders = [
        threading.Thread(target=send, args=(url, first + n * count, count, rule, times))
        for n in range(connections)
    ]
    began = time.perf_counter()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    whole = time.perf_counter() - began
    return {
        "connections": connections,
        "events_per_s": round(len(times) / whole),
        "p50_ms": round(percentile(times, 0.5), 3),
        "p99_ms": round(percentile(times, 0.99), 3),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with engine(folder, {"mark.yaml": PLAYBOOK}, "--dry-run") as running:
            figures = {
                "fsync_ms": fsync_ms(folder),
                "run_each": [measure(running.events, n, n * 1_000_000, "Rule 7") for n in (1, 16)],
                "nothing_matches": [measure(running.events, n, 0, "Other") for n in (1, 16)],
            }
    report("accept", figures)
