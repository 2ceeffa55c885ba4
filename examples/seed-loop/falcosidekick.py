"""Stand-ins for Falco and Falcosidekick on loopback.

Falco posts an event to Falcosidekick. Falcosidekick posts it to each of its outputs, in the shapes and with the
headers of version 2.31, and counts the results in its metrics. As the real one, it does not retry.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter, deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import urllib3

from stand_ins import MAX_BODY, RequestError, StandIn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stand_ins import Reply

    Event = dict[str, Any]

PRIORITIES = (
    "Debug", "Informational", "Notice", "Warning", "Error", "Critical", "Alert", "Emergency",
)  # fmt: skip
"""Falcosidekick's numbers of the priorities are 1 for Debug to 8 for Emergency."""
ACCEPTED = (200, 201, 202, 204)
"""Statuses that Falcosidekick counts as success."""
MAX_DELIVERIES = 1_000
_COLORS = {
    "Emergency": "#e20b0b", "Alert": "#ff5400", "Critical": "#ff5400", "Error": "#e20b0b",
    "Warning": "#ffc700", "Notice": "#5bffb5", "Informational": "#68c2ff", "Debug": "#ccfff2",
}  # fmt: skip
_REPOSITORY = "https://github.com/falcosecurity/falcosidekick"
_ICON = "https://raw.githubusercontent.com/falcosecurity/falcosidekick/master/imgs/falcosidekick_color.png"
_SHORT = 36
"""Characters from which a field of a Slack attachment takes the full width."""
_KEYS = (
    "uuid",
    "output",
    "priority",
    "rule",
    "time",
    "output_fields",
    "source",
    "tags",
    "hostname",
)
_FRACTION = re.compile(r"(\.\d*?)0+(?=Z|[+-]\d\d:\d\d$)")
_PREFIX = "falcosecurity_falcosidekick_"


def go_json(value: Any) -> bytes:
    """Return JSON as Go's encoder writes it: compact, with escaped <, > and &."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def payload(event: Mapping[str, Any], id_: str | None = None) -> Event:
    """Return an event of Falco as Falcosidekick forwards it. id_: the uuid; None makes a new one.

    Raises RequestError (400) for an event that Falcosidekick refuses.
    """
    fields = event.get("output_fields")
    if not event.get("rule") or event.get("priority") not in PRIORITIES or not fields:
        raise RequestError(400, "Please send a valid request body")
    found = {
        "uuid": id_ or str(uuid.uuid4()),
        "output": event.get("output", ""),
        "priority": event["priority"],
        "rule": event["rule"],
        "time": _FRACTION.sub(lambda it: it[1].removesuffix("."), event["time"]),
        "output_fields": dict(sorted(fields.items())),
        "source": event.get("source") or "syscalls",
        "tags": sorted(event.get("tags") or ()),
        "hostname": event.get("hostname", ""),
    }
    return {key: found[key] for key in _KEYS if found[key] or key not in ("tags", "hostname")}


def webhook_body(event: Event) -> bytes:
    """Return the body that the webhook output sends: the event and a newline."""
    return go_json(event) + b"\n"


def loki_body(event: Event) -> bytes:
    """Return the body that the Loki output pushes: one stream with one line, the output of the event."""
    fields = event["output_fields"]
    labels = {key: event[key] for key in ("rule", "source", "priority")}
    for key in ("k8s.ns.name", "k8s.pod.name"):
        if isinstance(fields.get(key), str):
            labels[key.replace(".", "_")] = fields[key]
    if event.get("hostname"):
        labels["hostname"] = event["hostname"]
    if event.get("tags"):
        labels["tags"] = ",".join(event["tags"])
    stream = dict(sorted(labels.items()))
    values = [[str(nanoseconds(event["time"])), event["output"]]]
    return go_json({"streams": [{"stream": stream, "values": values}]}) + b"\n"


def slack_body(event: Event) -> bytes:
    """Return the body that the Slack output posts: one attachment with the output and its fields."""
    first = [(key, event[key]) for key in ("rule", "priority", "source")]
    if event.get("hostname"):
        first.append(("hostname", event["hostname"]))
    if event.get("tags"):
        first.append(("tags", ", ".join(event["tags"])))
    fields = [{"title": key, "value": value, "short": True} for key, value in first]
    fields += [
        {"title": key, "value": value, "short": len(value) < _SHORT}
        for key, value in event["output_fields"].items()
        if isinstance(value, str)
    ]
    at = event["time"].replace("T", " ").replace("Z", " +0000 UTC")
    fields.append({"title": "time", "value": at, "short": False})
    attachment = {
        "fallback": event["output"],
        "color": _COLORS[event["priority"]],
        "text": event["output"],
        "fields": fields,
        "footer": _REPOSITORY,
    }
    message = {"username": "Falcosidekick", "icon_url": _ICON, "attachments": [attachment]}
    return go_json(message) + b"\n"


def nanoseconds(time: str) -> int:
    """Return nanoseconds since the epoch of a time in UTC like 2026-03-01T10:05:30.123456789Z."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * 1_000_000_000 + int(fraction[:9].ljust(9, "0") or 0)


class Delivery(NamedTuple):
    """What an output answered. status: None if there was no answer."""

    destination: str
    rule: str
    status: int | None


class Falcosidekick(StandIn):
    """A stand-in for Falcosidekick: events on POST, metrics on GET /metrics.

    webhook, loki, slack: URLs of the outputs. headers: webhook.customheaders. deliveries: the last answers.
    """

    def __init__(self, webhook: str, loki: str, slack: str, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.deliveries: deque[Delivery] = deque(maxlen=MAX_DELIVERIES)
        self._urls = {"webhook": webhook, "loki": loki, "slack": slack}
        self._bodies = {"webhook": webhook_body, "loki": loki_body, "slack": slack_body}
        self._headers = {"webhook": dict(headers)}
        self._pool = urllib3.PoolManager(retries=False, timeout=30.0)
        self._counters: Counter[str] = Counter()

    def reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Forward an event to each output, or return the metrics."""
        del headers
        if method == "GET":
            if target != "/metrics":
                raise RequestError(404, "404 page not found")
            return 200, "text/plain; version=0.0.4", self._metrics().encode()
        event = self._event(body)
        for destination in self._urls:
            self._deliver(destination, event)
        return 200, "text/plain", b""

    def _event(self, body: bytes) -> Event:
        try:
            given = json.loads(body)
            event = payload(given)
        except (RequestError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
            self._count("inputs_total", source="requests", status="rejected")
            raise RequestError(400, "Please send a valid request body") from None
        self._count("inputs_total", source="requests", status="accepted")
        priority = PRIORITIES.index(event["priority"]) + 1
        fields = event["output_fields"]
        self._count(
            "falco_events_total",
            hostname=event.get("hostname") or "unknown",
            rule=event["rule"],
            priority=str(priority),
            priority_raw=event["priority"].lower(),
            source=event["source"],
            k8s_ns_name=fields.get("k8s.ns.name") or "",
            k8s_pod_name=fields.get("k8s.pod.name") or "",
        )
        return event

    def _deliver(self, destination: str, event: Event) -> None:
        content_type = "application/json" + ("" if destination == "loki" else "; charset=utf-8")
        headers = {"Content-Type": content_type, "User-Agent": "Falcosidekick"}
        headers |= self._headers.get(destination, {})
        body = self._bodies[destination](event)
        status: int | None
        try:
            status = self._pool.request(
                "POST", self._urls[destination], body=body, headers=headers
            ).status
        except urllib3.exceptions.HTTPError:
            status = None
        self.deliveries.append(Delivery(destination, event["rule"], status))
        result = "ok" if status in ACCEPTED else "error"
        self._count("outputs_total", destination=destination, status=result)

    def _count(self, name: str, **labels: str) -> None:
        with self.lock:
            self._counters[_series(_PREFIX + name, labels)] += 1

    def _metrics(self) -> str:
        with self.lock:
            return _exposition(self._counters)


class Falco(StandIn):
    """A stand-in for Falco: it sends events to Falcosidekick, and serves two of its counters on GET /metrics.

    drops: system calls that it did not see.
    """

    def __init__(self, falcosidekick: str) -> None:
        super().__init__()
        self.drops = 0
        self._url = falcosidekick
        self._pool = urllib3.PoolManager(retries=False, timeout=60.0)

    def send(self, event: Event) -> None:
        """Post an event as Falco's http_output. Falco ignores the status of the answer."""
        headers = {"Content-Type": "application/json", "User-Agent": "falcosecurity/falco"}
        body = json.dumps(event, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        assert len(body) < MAX_BODY  # noqa: S101 - the events of this example are small
        self._pool.request("POST", self._url, body=body.encode(), headers=headers)

    def reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the metrics."""
        del headers, body
        if (method, target) != ("GET", "/metrics"):
            raise RequestError(404, "this stand-in has GET /metrics")
        counters = Counter(
            {
                "falcosecurity_scap_n_drops_total": self.drops,
                "falcosecurity_falco_outputs_queue_num_drops_total": 0,
            }
        )
        return 200, "text/plain; version=0.0.4", _exposition(counters).encode()


def _series(name: str, labels: Mapping[str, str]) -> str:
    """Return a series in the exposition format. JSON escapes a backslash, a quote and a newline as it does."""
    pairs = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in labels.items())
    return f"{name}{{{','.join(pairs)}}}"


def _exposition(counters: Mapping[str, int]) -> str:
    """Return counters in the exposition format, the series of a family after its type."""
    lines: list[str] = []
    family = ""
    for series, value in sorted(counters.items()):
        name = series.partition("{")[0]
        if name != family:
            lines.append(f"# TYPE {name} counter")
            family = name
        lines.append(f"{series} {value}")
    return "\n".join(lines) + "\n"
