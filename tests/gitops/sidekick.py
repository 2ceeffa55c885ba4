"""A request that Falcosidekick really sent, for a pod and the present time of the test.

``shell.json`` is a recorded request of the webhook output: its headers and its body.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.engine import call

from falcosidekick import loki_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.engine import Answer

RECORDED = json.loads((Path(__file__).parent / "shell.json").read_text())


def shell_in(pod: Mapping[str, Any]) -> str:
    """Return the recorded body for another pod and the present time. Nothing else changes."""
    body: str = RECORDED["body"]
    event = json.loads(body)
    fields, meta = event["output_fields"], pod["metadata"]
    now = datetime.now(UTC)
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    namespace = fields["k8s.ns.name"]
    changes = {
        fields["k8s.pod.name"]: meta["name"],
        f"_ns_name={namespace}": f"_ns_name={meta['namespace']}",
        f'.ns.name":"{namespace}"': f'.ns.name":"{meta["namespace"]}"',
        fields["k8s.pod.uid"]: meta["uid"],
        fields["container.id"]: container[:12],
        event["time"]: now.isoformat().replace("+00:00", "000Z"),
        str(fields["evt.time"]): str(int(now.timestamp() * 1e6) * 1000),
        event["hostname"]: pod["spec"]["nodeName"],
    }
    for old, new in changes.items():
        assert old in body
        body = body.replace(old, new)
    return body


def send(events: str, loki: str, token: str, body: str) -> Answer:
    """Send an event to the engine, with the bearer header, and to Loki. Returns what the engine answers."""
    headers = {**RECORDED["headers"], "Authorization": f"Bearer {token}"}
    answer = call(events, "POST", "/events", body.encode(), headers)
    push(loki, loki_body(json.loads(body)))
    return answer


def collect(loki: str, line: Mapping[str, Any]) -> None:
    """Send an audit line to Loki with the labels that the collector adds in examples/seed-loop."""
    labels = {
        "source": "tiercel", "rule": line["rule"], "priority": line["priority"],
        "k8s_ns_name": line["namespace"], "k8s_pod_name": line["pod"],
    }  # fmt: skip
    time = str(int(datetime.fromisoformat(line["time"]).timestamp() * 1e9))
    stream = {"stream": labels, "values": [[time, json.dumps(line)]]}
    push(loki, json.dumps({"streams": [stream]}).encode())


def push(loki: str, body: bytes) -> None:
    """Push streams to Loki."""
    headers = {"Content-Type": "application/json"}
    status, _, text = call(loki, "POST", "/loki/api/v1/push", body, headers)
    assert status == 204, text
