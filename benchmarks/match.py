"""How many events a second are decoded and matched by 100, 1,000 and 10,000 playbooks.

    python benchmarks/match.py

The playbooks are spread over 100 rule names, with 2 or 3 conditions each; one process, one core.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import alert, report
from engine.event import decode, parse
from engine.language.folder import Files
from engine.language.load import Loader
from engine.match import Playbooks

RULES = 100
EVENTS = 2_000


def playbook(number: int) -> dict[str, object]:
    conditions = [
        {"field": "k8s.ns.name", "notIn": ["kube-system", "falco"]},
        {"field": "proc.name", "in": [f"tool-{number}", "wget"]},
    ]
    if number % 2:
        conditions.append({"field": "proc.cmdline", "startswith": f"tool-{number}"})
    return {
        "apiVersion": "tiercel.dev/v1",
        "kind": "Playbook",
        "metadata": {"name": f"playbook-{number}"},
        "spec": {
            "match": {"rules": [f"Rule {number % RULES}"], "priority": "Notice"},
            "conditions": conditions,
            "actions": [{"action": "pod.label", "with": {"labels": {"seen": "true"}}}],
        },
    }


def measure(playbooks: int) -> dict[str, float]:
    files = {f"{n}.yaml": json.dumps(playbook(n)).encode() for n in range(playbooks)}
    began = time.perf_counter()
    loaded = Loader().load(Files("", files)).usable()
    loading = time.perf_counter() - began
    index = Playbooks(loaded.playbooks)
    bodies = [json.dumps(alert(n, f"Rule {n % RULES}")).encode() for n in range(EVENTS)]
    events = [parse(decode(body)) for body in bodies]
    for event in events[:RULES]:
        index.wanting(event)
    began = time.perf_counter()
    for event in events:
        index.wanting(event)
    matching = time.perf_counter() - began
    began = time.perf_counter()
    for body in bodies:
        index.wanting(parse(decode(body)))
    whole = time.perf_counter() - began
    return {
        "playbooks": playbooks,
        "load_s": round(loading, 3),
        "match_events_per_s": round(EVENTS / matching),
        "decode_and_match_events_per_s": round(EVENTS / whole),
        "decode_us_per_event": round((whole - matching) / EVENTS * 1e6, 2),
    }


if __name__ == "__main__":
    report("match", {"sets": [measure(number) for number in (100, 1_000, 10_000)]})
