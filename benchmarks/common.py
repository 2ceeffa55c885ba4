"""Shared parts of the benchmarks: an event of 1.5 KB with 27 fields, percentiles, results as JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
PLAYBOOK = """
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: mark}
spec:
  match: {rules: ["Rule 7"]}
  actions: [{action: pod.label, with: {labels: {seen: "true"}}}]
"""
"""Labels the pod of every event of Rule 7."""
TIME = "2026-03-01T10:00:00.{:09d}Z"


def alert(number: int = 0, rule: str = "Rule 7", **fields: Any) -> dict[str, Any]:
    """Return an alert as Falco sends it. ``number`` makes it unique."""
    filler = {f"proc.aname[{n}]": f"/usr/sbin/some-process-{n:02d} --flag" for n in range(2, 18)}
    return {
        "hostname": "worker-1",
        "output": "Warning a process did something in a container " + "x" * 150,
        "priority": "Warning",
        "rule": rule,
        "source": "syscall",
        "tags": ["container", "network", "T1059"],
        "time": TIME.format(number),
        "output_fields": {
            "container.id": "0a1b2c3d4e5f",
            "container.name": "web",
            "container.image.repository": "registry.example/web",
            "container.image.tag": "1.27",
            "k8s.ns.name": "demo",
            "k8s.pod.name": "web-0",
            "proc.name": "curl",
            "proc.cmdline": "curl https://example.com/payload",
            "user.name": "root",
            "fd.sip": "213.215.222.58",
            "fd.rport": 443,
            **filler,
            **fields,
        },
    }


def percentile(values: list[float], share: float) -> float:
    """Return the value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def report(name: str, figures: dict[str, Any]) -> None:
    """Print the figures as JSON and write them to benchmarks/results/."""
    told = {
        "benchmark": name,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        **figures,
    }
    text = json.dumps(told, indent=1)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")
