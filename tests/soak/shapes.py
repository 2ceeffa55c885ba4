"""The forms in which events arrive, and mutations of them."""

from __future__ import annotations

import copy
import json

from tests.support.intake import FALCO, SIDEKICK

OLD = {key: FALCO[key] for key in ("output", "priority", "rule", "time", "output_fields")}
"""Falco before 0.30."""
BARE = {key: FALCO[key] for key in ("hostname", "priority", "rule", "source", "time")}
"""Falco with its json_include_* options off."""
TALON = SIDEKICK | {
    "output": "x" * 507 + "[...]",
    "output_fields": SIDEKICK["output_fields"] | {"proc.aname_2": "bash", "cluster": "prod"},
}
"""Falcosidekick's Talon output: cut, with custom fields and replaced brackets."""
AUDIT = {
    "hostname": "worker-1",
    "output": "10:00:00.000000000: Warning K8s exec",
    "output_fields": {
        "evt.time": 1772359200000000000,
        "jevt.time.iso8601": "2026-03-01T10:00:00Z",
        "ka.req.pod.containers.image": ["nginx", "envoy"],
        "ka.response.code": "200",
        "ka.target.name": "nginx",
        "ka.target.namespace": "demo",
        "ka.target.pod.name": None,
        "ka.target.resource": "pods",
        "ka.uri.param[command]": "sh",
        "ka.user.groups": [],
        "ka.user.name": "system:serviceaccount:demo:default",
    },
    "priority": "Warning",
    "rule": FALCO["rule"],
    "source": "k8s_audit",
    "tags": ["k8s"],
    "time": "2026-03-01T10:00:00.000000000Z",
}
"""The plugins for the audit log of the API server."""
INTERNAL = [
    {
        "hostname": "worker-1",
        "output": f"Debug {rule}",
        "output_fields": fields,
        "priority": "Debug",
        "rule": f"Falco internal: {rule}",
        "source": "internal",
        "time": "2026-03-01T10:00:00.000000000Z",
    }
    for rule, fields in (
        ("syscall event drop", {"n_drops": "12", "n_evts": "9000"}),
        ("metrics snapshot", {"falco.cpu_usage_perc": 1.5, "falco.version": "0.44.0"}),
        ("hot restart failure", {}),
    )
]
"""Falco's own messages. They never have tags."""
ATTRIBUTES = {
    "specversion": "1.0",
    "id": "7b8f6f0e-8d0a-4d54-a6de-0c6e2f0b1c11",
    "source": "https://falco.org",
    "type": "falco.rule.output.v1",
    "time": "2026-03-01T10:00:00Z",
}
STRUCTURED = {**ATTRIBUTES, "datacontenttype": "application/json", "data": SIDEKICK}
BINARY = {f"ce-{name}": value for name, value in ATTRIBUTES.items()} | {"ce-rule": FALCO["rule"]}
"""The headers of a binary CloudEvent."""
JSON = {"Content-Type": "application/json"}

SHAPES = {
    "Falco": (JSON, FALCO),
    "Falco before 0.30": (JSON, OLD),
    "Falco with little included": (JSON, BARE),
    "Falcosidekick": ({"Content-Type": "application/json; charset=utf-8"}, SIDEKICK),
    "Talon": ({"User-Agent": "Falcosidekick"}, TALON),
    "CloudEvents, binary": (JSON | BINARY, SIDEKICK),
    "CloudEvents, structured": ({"Content-Type": "application/cloudevents+json"}, STRUCTURED),
    "k8s_audit": (JSON, AUDIT),
    **{told["rule"]: (JSON, told) for told in INTERNAL},
    "text": ({"Content-Type": "text/plain"}, FALCO),
}
"""name -> (headers, event)."""
VALUES = (
    None, "", "<NA>", 0, -1, 1.5, 2**70, True, [], {}, [[]], ["a", 1], {"a": {}}, "x" * 5_000, "\x00\x1b[2J",
    "\u202e", "syscalls", "2026-03-01T10:00:00Z", "0001-01-01T00:00:00+23:59", "%rule", "../..", "' OR 1=1",
)  # fmt: skip
KEYS = ("k8s.pod.uid", "extra", "RULE", "specversion", "data", "source", "type")


def mutated(chance, event):
    """Return the event with one random mutation, as bytes."""
    value = copy.deepcopy(event)
    for _ in range(chance.randrange(1, 4)):
        where = chance.choice(list(_objects(value)))
        key = chance.choice([*where, *KEYS])
        if chance.random() < 0.2:
            where.pop(key, None)
        else:
            where[key] = copy.deepcopy(chance.choice(VALUES))
    return json.dumps(value).encode()


def garbled(chance, body):
    """Return the bytes, sometimes with changed, added or missing bytes."""
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        place = chance.randrange(len(body))
        body = body[:place] + bytes([chance.randrange(256)]) + body[place + chance.randrange(2) :]
    if chance.random() < 0.05:
        body = body[: chance.randrange(len(body))]
    return body


def _objects(value):
    """Yield every object in the value."""
    if isinstance(value, dict):
        yield value
        for one in value.values():
            yield from _objects(one)
