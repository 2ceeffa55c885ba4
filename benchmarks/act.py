"""Measure the time from a posted event to the label on the pod, and the rate of a burst, with a real API server.

python benchmarks/act.py        (needs `make control-plane`)

Latency: one event at a time, each for its own pod, compared with a bare GET and PATCH on the same server in the
same run. Rate: 2,000 events for 1,000 pods at once, five times. Each burst is compared with bare pairs of GET
and PATCH from 16 threads directly before and after it, because the speed of a virtual machine varies by a
third. The result is the median of the five ratios.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datetime import UTC, datetime

from benchmarks.common import PLAYBOOK, alert, percentile, report
from tests.cluster.control_plane import ControlPlane
from tests.support.engine import engine

PODS = 100
MANY, BURST, ROUNDS = 1_000, 2_000, 5
PATH = "/api/v1/namespaces/demo/pods"


def watch(admin, version: str, seen: dict[str, float], found: threading.Condition) -> None:
    for event in admin.watch(PATH, version, 300):
        labels = event["object"]["metadata"].get("labels") or {}
        if "seen" in labels:
            with found:
                seen[event["object"]["metadata"]["name"]] = time.perf_counter()
                found.notify()
            if len(seen) == PODS:
                return


def bare(admin) -> list[float]:
    """Return the milliseconds of each GET and PATCH, sent one after the other on one connection."""
    times = []
    for number in range(PODS):
        began = time.perf_counter()
        admin.get(f"{PATH}/web-{number}")
        admin.patch(f"{PATH}/web-{number}", {"metadata": {"labels": {"bare": "true"}}})
        times.append((time.perf_counter() - began) * 1000)
    return times


def through_engine(admin, running) -> list[float]:
    """Return the milliseconds from each POST to the event of the watch."""
    version = admin.get(PATH)["metadata"]["resourceVersion"]
    seen: dict[str, float] = {}
    found = threading.Condition()
    watcher = threading.Thread(target=watch, args=(admin, version, seen, found), daemon=True)
    watcher.start()
    times = []
    for number in range(PODS):
        body = alert(number, **{"k8s.pod.name": f"web-{number}", "container.id": "host"})
        body["time"] = datetime.now(UTC).isoformat()
        began = time.perf_counter()
        running.post(body)
        with found:
            name = f"web-{number}"
            found.wait_for(lambda name=name: name in seen, 10)
            times.append((seen[name] - began) * 1000)
    watcher.join(10)
    return times


def percentiles(times: list[float]) -> dict[str, float]:
    return {"p50_ms": round(percentile(times, 0.5), 2), "p99_ms": round(percentile(times, 0.99), 2)}


def make_pods(admin) -> None:
    """Create a node and ``MANY`` pods on it."""
    admin.create("/api/v1/nodes", {"metadata": {"name": "none"}})
    spec = {"nodeName": "none", "containers": [{"name": "web", "image": "web"}]}
    with ThreadPoolExecutor(16) as pool:
        made = [{"metadata": {"name": f"web-{n}"}, "spec": spec} for n in range(MANY)]
        list(pool.map(lambda pod: admin.create(PATH, pod), made))


def bare_pairs(admin) -> float:
    """Return the pairs of GET and PATCH a second, from 16 threads."""

    def pair(number: int) -> None:
        admin.get(f"{PATH}/web-{number % MANY}")
        patch = {"metadata": {"labels": {"pair": str(number)}}}
        admin.patch(f"{PATH}/web-{number % MANY}", patch)

    began = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(pair, range(BURST)))
    return BURST / (time.perf_counter() - began)


def burst(running) -> float:
    """Return the finished actions a second, from the first POST to the end of the last run."""
    now = datetime.now(UTC).isoformat()
    bodies = []
    for number in range(BURST):
        fields = {"k8s.pod.name": f"web-{number % MANY}", "container.id": "host"}
        bodies.append({**alert(10_000 + number, **fields), "time": f"{now[:19]}.{number:09d}Z"})
    began = time.perf_counter()
    runs: set[str] = set()
    for start in range(0, BURST, 100):
        runs |= set(running.post(bodies[start : start + 100])[2]["runs"])
    assert len(runs) == BURST
    finished: set[str] = set()

    def last(line: dict[str, str]) -> bool:
        if line.get("run") in runs and line.get("state") == "done":
            finished.add(line["run"])
        return len(finished) == BURST

    running.wait_for_audit(last, 120)
    return BURST / (time.perf_counter() - began)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, ControlPlane(Path(name)) as plane:
        admin = plane.admin
        admin.create("/api/v1/namespaces", {"metadata": {"name": "demo"}})
        make_pods(admin)
        kubeconfig = plane.kubeconfig(plane.admin_token, Path(name) / "kubeconfig.json")
        direct = bare(admin)
        flags = ("--kubeconfig", str(kubeconfig), "--kube-qps", "10000")
        with engine(Path(name), {"mark.yaml": PLAYBOOK}, *flags) as running:
            whole = through_engine(admin, running)
        pairs, done = [bare_pairs(admin)], []
        for number in range(ROUNDS):
            (folder := Path(name) / f"round {number}").mkdir()
            mark = PLAYBOOK.replace(
                "seen", f"seen-{number}"
            )  # otherwise the label would already exist
            with engine(folder, {"mark.yaml": mark}, *flags) as running:
                done.append(burst(running))
            pairs.append(bare_pairs(admin))
        around = [sum(two) / 2 for two in pairwise(pairs)]
        ratios = [one / bare for one, bare in zip(done, around, strict=True)]
        ratio = percentile(whole, 0.5) / percentile(direct, 0.5)
        report(
            "act",
            {
                "bare_get_and_patch": percentiles(direct),
                "event_to_label": percentiles(whole),
                "p50_ratio": round(ratio, 2),
                "bare_pairs_per_s": [round(one) for one in pairs],
                "actions_per_s": [round(one) for one in done],
                "burst_ratios": [round(one, 2) for one in ratios],
                "burst_ratio": round(statistics.median(ratios), 2),
            },
        )
