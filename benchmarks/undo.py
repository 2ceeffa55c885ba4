"""Measure 1,000 undos that are due at once, after a restart, with a real API server.

python benchmarks/undo.py [ROUNDS]       (needs `make control-plane`)

Each of 1,000 pods gets a label with a ttl. The engine is stopped before the first label ends, and is started
again when all of them are over. The time is that from the first line of the new engine to the last undo. Bare
pairs of GET and PATCH from 16 threads directly before and after it have the same calls, so their rate is the
limit.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datetime import UTC, datetime

from benchmarks.act import MANY, PATH, bare_pairs, make_pods
from benchmarks.common import PLAYBOOK, alert, report
from tests.cluster.control_plane import ControlPlane
from tests.support.engine import engine

TTL = 40
"""Seconds until a label ends; longer than the time to set all of them."""


def wait_for_states(running, state: str, number: int) -> float:
    """Wait for so many audit lines with this state. Return the time of the last one."""
    seen: set[str] = set()

    def last(line: dict[str, str]) -> bool:
        if line.get("state") == state:
            seen.add(line["run"])
        return len(seen) == number

    running.wait_for_audit(last, 300)
    return time.perf_counter()


def undo_round(admin, folder: Path, label: str, flags: tuple[str, ...]) -> float:
    """Return the undos a second."""
    folder.mkdir()
    labels = f'{{labels: {{{label}: "true"}}, ttl: {TTL}s}}'
    playbook = PLAYBOOK.replace('{labels: {seen: "true"}}', labels)
    unlimited = (
        "apiVersion: tiercel.dev/v1\nkind: Guardrails\nmetadata: {name: g}\nspec: {budgets: []}\n"
    )
    with engine(folder, {"mark.yaml": playbook, "g.yaml": unlimited}, *flags) as running:
        now = datetime.now(UTC).isoformat()[:19]
        bodies = [
            {
                **alert(n, **{"k8s.pod.name": f"web-{n}", "container.id": "host"}),
                "time": f"{now}.{n:09d}Z",
            }
            for n in range(MANY)
        ]
        for start in range(0, MANY, 100):
            running.post(bodies[start : start + 100])
        wait_for_states(running, "done", MANY)
        assert not any(line.get("state") == "undone" for line in running.audit), "longer TTL"
        running.terminate()
        time.sleep(TTL)  # until the last label is over
        running.restart()
        began = time.perf_counter()
        ended = wait_for_states(running, "undone", MANY)
        left = running.get("/in-force")[2]["total"]
    labelled = [p for p in admin.list(PATH) if label in (p["metadata"].get("labels") or {})]
    assert (left, labelled) == (0, [])
    return MANY / (ended - began)


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as name, ControlPlane(Path(name)) as plane:
        admin = plane.admin
        admin.create("/api/v1/namespaces", {"metadata": {"name": "demo"}})
        make_pods(admin)
        kubeconfig = plane.kubeconfig(plane.admin_token, Path(name) / "kubeconfig.json")
        flags = ("--kubeconfig", str(kubeconfig), "--kube-qps", "10000")
        pairs, done = [bare_pairs(admin)], []
        for number in range(rounds):
            done.append(undo_round(admin, Path(name) / f"round {number}", f"u{number}", flags))
            pairs.append(bare_pairs(admin))
        around = [sum(two) / 2 for two in pairwise(pairs)]
        ratios = [one / bare for one, bare in zip(done, around, strict=True)]
        report(
            "undo",
            {
                "undos_due_at_once": MANY,
                "bare_pairs_per_s": [round(one) for one in pairs],
                "undos_per_s": [round(one) for one in done],
                "seconds": [round(MANY / one, 2) for one in done],
                "ratios": [round(one, 2) for one in ratios],
                "ratio": round(statistics.median(ratios), 2),
            },
        )
