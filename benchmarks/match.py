"""Events per second that are decoded and matched with 100, 1,000 and 10,000 playbooks.

    python benchmarks/match.py

The playbooks are spread over 100 rule names, with 2 or 3 conditions each. Half of them compare a field with
``in``, which uses an index. The other half compare a prefix, which cannot use an index. Other measurements:

- 500 playbooks on one rule name that differ in the namespace
- the cost of one condition on a field and on a JSONPath
- for comparison: a scan of all playbooks, and jsonpath-ng parsed for each event

The benchmark uses one process and one core.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec
from benchmarks.common import alert, report
from engine.actions.registry import load_actions
from engine.language.folder import Files
from engine.language.loader import Loader
from engine.model.event import decode_json, parse_event
from engine.planning.matcher import PlaybookIndex

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.model.event import Event

RULES = 100
EVENTS = 2_000


def playbook(number: int) -> dict[str, object]:
    conditions: list[dict[str, Any]] = [{"field": "k8s.ns.name", "notIn": ["kube-system", "falco"]}]
    if number // RULES % 2:
        conditions.append({"field": "proc.name", "in": [f"tool-{number}", "wget"]})
        conditions.append({"field": "proc.cmdline", "startswith": f"tool-{number}"})
    else:
        conditions.append({"field": "proc.cmdline", "startswith": f"tool-{number}"})
    return document(number, f"Rule {number % RULES}", conditions)


def document(number: int, rule: str, conditions: list[dict[str, Any]]) -> dict[str, object]:
    return {
        "apiVersion": "tiercel.dev/v1",
        "kind": "Playbook",
        "metadata": {"name": f"playbook-{number}"},
        "spec": {
            "match": {"rules": [rule], "priority": "Notice"},
            "conditions": conditions,
            "actions": [{"action": "pod.label", "with": {"labels": {"seen": "true"}}}],
        },
    }


def measure(playbooks: int) -> dict[str, float]:
    files = {f"{n}.yaml": json.dumps(playbook(n)).encode() for n in range(playbooks)}
    began = time.perf_counter()
    loaded = Loader(load_actions()).load(Files("", files)).usable()
    loading = time.perf_counter() - began
    index = PlaybookIndex(loaded.playbooks)
    bodies = [json.dumps(alert(n, f"Rule {n % RULES}")).encode() for n in range(EVENTS)]
    events = [parse_event(decode_json(body)) for body in bodies]
    for event in events[:RULES]:
        index.wanting(event)
    began = time.perf_counter()
    for event in events:
        index.wanting(event)
    matching = time.perf_counter() - began
    began = time.perf_counter()
    for body in bodies:
        index.wanting(parse_event(decode_json(body)))
    whole = time.perf_counter() - began
    return {
        "playbooks": playbooks,
        "load_s": round(loading, 3),
        "match_events_per_s": round(EVENTS / matching),
        "decode_and_match_events_per_s": round(EVENTS / whole),
        "decode_us_per_event": round((whole - matching) / EVENTS * 1e6, 2),
    }


def decoding() -> dict[str, float]:
    """Microseconds per event: decoded by msgspec alone, and parsed to an Event. The best of nine runs."""
    bodies = [json.dumps(alert(n)).encode() for n in range(1_000)]
    bare = msgspec.json.Decoder().decode

    def best(work: Callable[[bytes], object]) -> float:
        times = []
        for _ in range(9):
            began = time.perf_counter()
            for body in bodies:
                work(body)
            times.append((time.perf_counter() - began) / len(bodies) * 1e6)
        return min(times)

    plain, whole = best(bare), best(lambda body: parse_event(decode_json(body)))
    return {
        "msgspec_us": round(plain, 2),
        "event_us": round(whole, 2),
        "more_us": round(whole - plain, 2),
    }


def compiled(documents: list[dict[str, object]]) -> PlaybookIndex:
    files = {f"{n}.yaml": json.dumps(one).encode() for n, one in enumerate(documents)}
    return PlaybookIndex(Loader(load_actions()).load(Files("", files)).usable().playbooks)


def per_second(work: Callable[[Event], object], events: list[Event]) -> int:
    work(events[0])
    began = time.perf_counter()
    for event in events:
        work(event)
    return round(len(events) / (time.perf_counter() - began))


def one_rule() -> dict[str, int]:
    """Events per second with 500 playbooks on one rule, each with its own namespace."""
    conditions = [[{"field": "k8s.ns.name", "equals": f"team-{n}"}] for n in range(500)]
    index = compiled([document(n, "Rule 7", given) for n, given in enumerate(conditions)])
    fields = [{"k8s.ns.name": f"team-{n % 500}"} for n in range(EVENTS)]
    events = [parse_event(alert(n, "Rule 7", **one)) for n, one in enumerate(fields)]
    return {"playbooks": 500, "match_events_per_s": per_second(index.wanting, events)}


def paths() -> dict[str, float]:
    """Microseconds of one condition on a field, and on the same value as a JSONPath."""
    conditions = {
        "field": {"field": "proc.name", "startswith": "x"},
        "jsonPath": {"jsonPath": "$.output_fields['proc.name']", "startswith": "x"},
        "jsonPath_top_level": {"jsonPath": "$.hostname", "startswith": "x"},
    }
    events = [parse_event(alert(n)) for n in range(20_000)]
    holds = {
        name: compiled([document(0, "Rule 7", [one])]).all[0].conditions[0].holds
        for name, one in conditions.items()
    }
    return {f"{name}_us": round(1e6 / per_second(one, events), 3) for name, one in holds.items()}


def peers() -> dict[str, int]:
    """Events per second with 1,000 playbooks and simpler algorithms."""
    import jsonpath_ng  # noqa: PLC0415 - only this comparison needs it

    documents: list[Any] = [playbook(n) for n in range(1_000)]
    events = [parse_event(alert(n, f"Rule {n % RULES}")) for n in range(EVENTS)]

    def scan(event: Event) -> list[str]:
        return [
            one["metadata"]["name"]
            for one in documents
            if event.rule in one["spec"]["match"]["rules"]
            and all(_holds(condition, event) for condition in one["spec"]["conditions"])
        ]

    def parsed(event: Event) -> int:
        wanted = [one for one in documents if event.rule in one["spec"]["match"]["rules"]]
        paths = [
            f"$.output_fields['{c['field']}']" for one in wanted for c in one["spec"]["conditions"]
        ]
        return sum(bool(jsonpath_ng.parse(path).find(event.alert)) for path in paths)

    return {
        "linear_scan_events_per_s": per_second(scan, events),
        "jsonpath_per_event_events_per_s": per_second(parsed, events[:20]),
    }


def _holds(condition: dict[str, Any], event: Event) -> bool:
    value = event.fields.get(condition["field"])
    if "notIn" in condition:
        return value not in condition["notIn"]
    if "in" in condition:
        return value in condition["in"]
    return str(value).startswith(condition["startswith"])


if __name__ == "__main__":
    report(
        "match",
        {
            "decoding": decoding(),
            "sets": [measure(number) for number in (100, 1_000, 10_000)],
            "one_rule": one_rule(),
            "one_condition": paths(),
            "peers_1000_playbooks": peers(),
        },
    )
