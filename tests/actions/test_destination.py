"""Which destination pod.block cuts off: the remote address of the event."""

from __future__ import annotations

import pytest
from engine.actions.destination import check_destination, remote_network
from engine.cluster.pods import Pod
from engine.model.errors import SkippedError
from engine.model.event import parse_event

IPS = ["10.1.0.5", "fd00::5"]


def destination(pod_ips=IPS, **fields):
    status = {"podIP": pod_ips[0], "podIPs": [{"ip": ip} for ip in pod_ips]} if pod_ips else {}
    event = parse_event({"rule": "r", "output_fields": fields})
    return remote_network(event, Pod("demo", "web-0", "u", {"status": status}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"fd.rip": "192.0.2.7", "fd.sip": "192.0.2.8"}, "192.0.2.7/32"),
        ({"fd.sip": "192.0.2.8"}, "192.0.2.8/32"),
        ({"fd.sip": "2001:db8::7"}, "2001:db8::7/128"),
        ({"fd.sip": "::ffff:192.0.2.8"}, "192.0.2.8/32"),
        # the pod is the server: its own address is not the destination
        ({"fd.sip": "10.1.0.5", "fd.name": "192.0.2.9:40000->10.1.0.5:80"}, "192.0.2.9/32"),
        ({"fd.rip": "<NA>", "fd.name": "10.1.0.5:40000->192.0.2.9:443"}, "192.0.2.9/32"),
        ({"fd.name": "fd00::5:40000->2001:db8::9:443"}, "2001:db8::9/128"),
        ({"fd.name": "[fd00::5]:40000->[2001:db8::9]:443"}, "2001:db8::9/128"),
        ({"fd.name": "::ffff:10.1.0.5:40000->::ffff:192.0.2.9:443"}, "192.0.2.9/32"),
        ({"fd.name": "10.9.9.9:1->192.0.2.9:443", "fd.lip": "10.9.9.9"}, "192.0.2.9/32"),
        ({"fd.sip": "127.0.0.1", "fd.name": "10.1.0.5:4->192.0.2.9:443"}, "192.0.2.9/32"),
        ({"fd.sip": "169.254.169.254"}, "169.254.169.254/32"),
    ],
)
def test_the_destination_is_the_remote_side(fields, expected):
    assert destination(**fields) == expected


def test_the_client_is_on_the_left_if_the_address_of_the_pod_is_not_known():
    assert destination(pod_ips=[], **{"fd.name": "10.1.0.5:4->192.0.2.9:443"}) == "192.0.2.9/32"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"fd.rip": "10.1.0.5"},
        {"fd.rip": "fd00:0::5"},
        {"fd.sip": "127.0.0.1", "fd.rip": "::1"},
        {"fd.sip": "0.0.0.0"},
        {"fd.sip": 7, "fd.rip": ["192.0.2.7"]},
        {"fd.sip": "192.0.2.0/24"},
        {"fd.name": "/etc/passwd"},
        {"fd.name": "192.0.2.1:1->192.0.2.9:443"},
        {"fd.name": "10.1.0.5:1->10.1.0.5:2"},
        {"fd.name": "10.1.0.5:1->a->192.0.2.9:443"},
        {"fd.name": "10.1.0.5:1->192.0.2.9:443" + "0" * 300},
        {"fd.name": "->"},
        {"fd.name": None},
    ],
)
def test_without_a_remote_address_the_step_is_skipped(fields):
    with pytest.raises(SkippedError, match="does not name a remote address"):
        destination(**fields)


@pytest.mark.parametrize("text", ["192.0.2.7", "192.0.2.0/24", "2001:db8::/32", "::ffff:192.0.2.7"])
def test_a_destination_is_an_address_or_a_network(text):
    assert check_destination(text) is None


@pytest.mark.parametrize("text", ["0.0.0.0/0", "::/0", "192.0.2.7/24", "example.com", "", "a\nb"])
def test_every_address_and_anything_else_is_not_a_destination(text):
    assert check_destination(text)
