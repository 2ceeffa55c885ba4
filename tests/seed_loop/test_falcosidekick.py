"""The stand-in for Falcosidekick sends the bytes that Falcosidekick sent when it was recorded."""

import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.engine import call

from falcosidekick import Falco, Falcosidekick, loki_body, payload, slack_body, webhook_body
from stand_ins import Loki, RequestError, Slack

EVENTS = Path(__file__).parents[2] / "playbooks" / "events"
RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parent / "falcosidekick.ndjson").read_text().splitlines()
]
"""Requests of the webhook output that Falcosidekick sent: headers and body."""


def sample():
    return json.loads((EVENTS / "vistatech.json").read_text())


@pytest.mark.parametrize("recorded", RECORDED, ids=[str(n) for n in range(len(RECORDED))])
def test_the_webhook_body_is_that_of_a_recording(recorded):
    event = json.loads(recorded["body"])
    assert webhook_body(payload(event, event["uuid"])) == recorded["body"].encode()


def test_the_loki_body_has_the_labels_and_the_output():
    event = payload(sample())
    [stream] = json.loads(loki_body(event))["streams"]
    assert stream["stream"] == {
        "rule": "Connection to vistatech.it",
        "source": "syscall",
        "priority": "Warning",
        "hostname": "worker-1",
        "k8s_ns_name": "demo",
        "k8s_pod_name": "nginx-7d4b9c6f5-x2x7l",
        "tags": "TA0010,container,mitre_exfiltration,network",
    }
    assert stream["values"] == [["1772359200171732939", event["output"]]]


def test_the_slack_body_is_an_attachment_with_the_text_fields():
    event = payload(sample())
    [attachment] = json.loads(slack_body(event))["attachments"]
    assert (attachment["color"], attachment["text"]) == ("#ffc700", event["output"])
    fields = {field["title"]: field["value"] for field in attachment["fields"]}
    assert fields["fd.rip"] == "213.215.222.58"
    assert "fd.sport" not in fields  # a number
    assert fields["time"] == "2026-03-01 10:00:00.171732939 +0000 UTC"


@pytest.mark.parametrize("change", [{"rule": ""}, {"priority": "High"}, {"output_fields": {}}])
def test_an_event_that_falcosidekick_refuses(change):
    with pytest.raises(RequestError):
        payload({**sample(), **change})


def test_an_event_reaches_each_output_and_the_metrics_count_it():
    with (
        Loki() as loki,
        Slack() as slack,
        Falcosidekick(
            "http://127.0.0.1:1/", f"{loki.url}/loki/api/v1/push", slack.webhook, {}
        ) as sidekick,
        Falco(sidekick.url) as falco,
    ):
        falco.send({**sample(), "output": 'a "quoted" text'})
        assert [(one.destination, one.status) for one in sidekick.deliveries] == [
            ("webhook", None),
            ("loki", 204),
            ("slack", 200),
        ]
        assert [entry.line for _, entry in loki.query('{source="syscall"}')] == ['a "quoted" text']
        assert list(slack.texts()) == ['a "quoted" text']
        assert call(sidekick.url, "POST", "/", b"[]")[0] == 400
        text = call(sidekick.url, "GET", "/metrics")[2]
        falco.drops = 3
        drops = call(falco.url, "GET", "/metrics")[2]
    assert "falcosecurity_scap_n_drops_total 3\n" in drops
    samples = {
        (one.name, *(one.labels.get(key) for key in ("destination", "status"))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    prefix = "falcosecurity_falcosidekick_"
    assert samples[f"{prefix}outputs_total", "webhook", "error"] == 1
    assert samples[f"{prefix}outputs_total", "loki", "ok"] == 1
    assert samples[f"{prefix}inputs_total", None, "rejected"] == 1
    assert samples[f"{prefix}falco_events_total", None, None] == 1
