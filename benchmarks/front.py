"""Measures how many events per second the event port accepts from `wrk`, compared with minimal servers.

    python benchmarks/front.py            # needs wrk, from the Debian package of that name

Two limits are measured in the same run, with uvicorn and a bare ASGI callable: one only answers, the other
writes each body in the same group commit before it answers. Events have 27 fields and 1.5 KB. Both are
measured again on a disk whose fsync takes 5 ms longer. The share of the limit that the engine reaches is the
median of three pairs of consecutive runs, because the speed of a virtual machine varies.
Memory is that of both processes. Shared pages are counted once (PSS).
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import PLAYBOOK, ROOT, alert, report
from tests.support.engine import engine, write_playbooks

SECONDS, ROUNDS = 6, 3
BARE = Path(__file__).with_name("bare.py")
SLOW = """
import os, time
flush = os.fdatasync
def fdatasync(descriptor):
    time.sleep(0.005)
    flush(descriptor)
os.fdatasync = fdatasync
"""
LUA = """\
local body = [==[%s]==]
local n = 0
local base = %d
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  n = n + 1
  local own = body:gsub("NUMBER", string.format("%%09d", base + n), 1):gsub("POD", "web-" .. n %% 100, 1)
  return wrk.format(nil, "/events", nil, own)
end
"""


def wrk(url: str, connections: int, body: str, base: int, folder: Path) -> dict[str, float]:
    """Run wrk. Return events per second and latencies in milliseconds. Each event has its own time."""
    script = folder / "post.lua"
    script.write_text(LUA % (body, base))
    output = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", "-s", str(script), url],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
    times = {
        f"p{part}_ms": round(_ms(*re.search(rf"{part}%\s+([\d.]+)(us|ms|s)", output).groups()), 3)
        for part in (50, 99)
    }
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    assert not bad, output
    return {"connections": connections, "events_per_s": round(rate), **times}


def _ms(value: str, unit: str) -> float:
    return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def bare(
    mode: str, connections: int, body: str, folder: Path, env: dict[str, str] | None = None
) -> dict[str, float]:
    """Run the same load on a minimal server. mode: ``answer`` or ``commit``."""
    command = [
        sys.executable,
        str(BARE),
        mode,
        str(folder / f"{mode}-{connections}-{bool(env)}.db"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    ) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        try:
            return wrk(f"http://127.0.0.1:{port}", connections, body, 0, folder)
        finally:
            server.kill()


def slow_disk(folder: Path) -> dict[str, str]:
    """Return the environment of a Python in which a flush of the disk takes 5 ms longer."""
    place = folder / "slow"
    place.mkdir()
    (place / "sitecustomize.py").write_text(SLOW)
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{place}"}


def memory_mb(pids: list[int]) -> float:
    """Return the memory of processes in MiB. Shared pages are counted once."""
    kib = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        kib += int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1])
    return round(kib / 1024, 1)


def many(count: int) -> dict[str, str]:
    """Return ``count`` playbooks, of which one matches the events."""
    return {
        f"{n}.yaml": PLAYBOOK.replace("name: mark", f"name: p{n}").replace("Rule 7", f"Rule {n}")
        for n in range(count)
    }


def shares(
    connections: int, body: str, folder: Path, env: dict[str, str] | None = None
) -> dict[str, object]:
    """Return the events per second of the engine with one run each, and their share of the bare server."""
    pairs = []
    for number in range(ROUNDS):
        place = folder / f"{connections}-{bool(env)}-{number}"
        place.mkdir()
        limit = bare("commit", connections, body, place, env)["events_per_s"]
        with engine(place, many(100), "--dry-run", env=env or {}) as running:
            pairs.append((wrk(running.events, connections, body, 0, place)["events_per_s"], limit))
    each = [round(taken / limit, 2) for taken, limit in pairs]
    return {"taken_and_limit": pairs, "shares": each, "share": statistics.median(each)}


def reloading(body: str, folder: Path) -> dict[str, float]:
    """Measure events without match while 1,000 playbooks are rewritten and reloaded."""
    playbooks, edited = folder / "thousand", threading.Event()
    write_playbooks(playbooks, many(1_000))
    times: list[float] = []

    def edit() -> None:
        edited.wait(0.5)
        for file in playbooks.iterdir():
            file.write_text(file.read_text() + "# another\n")
        times.append(time.time())

    thread = threading.Thread(target=edit)
    flags = ("--dry-run", "--journal", str(folder / "thousand.db"))
    with engine(folder, playbooks, *flags) as running:
        digest = running.get("/status")[2]["playbooks"]["digest"]
        thread.start()
        rates = wrk(running.events, 16, body, 0, folder)
        thread.join()
        reloaded = running.wait_for_log(
            lambda line: line.get("event") == "playbooks_loaded" and line["digest"] != digest
        )
    in_force = datetime.fromisoformat(reloaded["time"]).timestamp() - times[0]
    return {**rates, "in_force_s": round(in_force, 1)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = json.dumps(alert(0, "Rule 7", **{"k8s.pod.name": "POD"}))
        matched = re.sub(r"\.\d{9}Z", ".NUMBERZ", text, count=1)
        other = matched.replace("Rule 7", "Another")
        figures: dict[str, object] = {"answers only": bare("answer", 16, matched, folder)}
        figures["group commit only, 1"] = bare("commit", 1, matched, folder)
        with engine(folder, many(100), "--dry-run") as running:
            figures["idle_mb"] = memory_mb(running.pids)
            figures["nothing matches, 16"] = wrk(running.events, 16, other, 0, folder)
            for n, connections in enumerate((1, 16, 64), 1):
                rates = wrk(running.events, connections, matched, n * 10**7, folder)
                figures[f"a run each, {connections}"] = rates
            figures["after_flood_mb"] = memory_mb(running.pids)
        slow = slow_disk(folder)
        for connections in (16, 64):
            figures[f"beside the group commit only, {connections}"] = shares(
                connections, matched, folder
            )
            figures[f"beside the group commit only, {connections}, fsync 5 ms longer"] = shares(
                connections, matched, folder, slow
            )
        figures["nothing matches, 16, while 1,000 playbooks reload"] = reloading(other, folder)
        report("front", figures)
