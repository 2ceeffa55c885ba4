"""From a posted event to the label on the pod, seen by a watch on a real API server.

    python benchmarks/act.py        (needs `make control-plane`)

One at a time, each on a pod of its own, beside a bare GET and PATCH on the same server in the same run.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datetime import UTC, datetime

from benchmarks.common import PLAYBOOK, alert, percentile, report
from tests.cluster.control_plane import ControlPlane
from tests.serving import engine

PODS = 100
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
    """Milliseconds of a GET and a PATCH, one after the other on a kept-alive connection."""
    times = []
    for number in range(PODS):
        began = time.perf_counter()
        admin.get(f"{PATH}/web-{number}")
        admin.patch(f"{PATH}/web-{number}", {"metadata": {"labels": {"bare": "true"}}})
        times.append((time.perf_counter() - began) * 1000)
    return times


def through_engine(admin, running) -> list[float]:
    """Milliseconds from the POST to the watch's event."""
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


def told(times: list[float]) -> dict[str, float]:
    return {"p50_ms": round(percentile(times, 0.5), 2), "p99_ms": round(percentile(times, 0.99), 2)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, ControlPlane(Path(name)) as plane:
        admin = plane.admin
        admin.create("/api/v1/namespaces", {"metadata": {"name": "demo"}})
        for number in range(PODS):
            spec = {"nodeName": "none", "containers": [{"name": "web", "image": "web"}]}
            admin.create(PATH, {"metadata": {"name": f"web-{number}"}, "spec": spec})
        kubeconfig = plane.kubeconfig(plane.admin_token, Path(name) / "kubeconfig.json")
        direct = bare(admin)
        with engine(
            Path(name), {"mark.yaml": PLAYBOOK}, "--kubeconfig", str(kubeconfig)
        ) as running:
            whole = through_engine(admin, running)
        ratio = percentile(whole, 0.5) / percentile(direct, 0.5)
        report(
            "act",
            {
                "bare_get_and_patch": told(direct),
                "event_to_label": told(whole),
                "p50_ratio": round(ratio, 2),
            },
        )
