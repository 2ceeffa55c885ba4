"""The recent events are bounded by their number and by the memory that they take."""

from __future__ import annotations

import json

import pytest
from engine.intake.recent_events import MAX_BYTES, MAX_EVENTS, RecentEvent, RecentEvents
from tests.support.intake import InstantJournal, alert, intake_of, take


def recent_event(rule, *, size=0, suppressed=()):
    content = json.dumps({"rule": rule, "output": "x" * size}).encode()
    return RecentEvent(content, 0.0, "run", tuple(suppressed))


def test_the_newest_thousand_events_are_kept():
    recent = RecentEvents()
    for number in range(MAX_EVENTS + 5):
        recent.add(recent_event(f"r{number}"))
    rules = [event.alert["rule"] for event in recent.all()]
    assert (len(rules), rules[0], rules[-1]) == (MAX_EVENTS, "r5", f"r{MAX_EVENTS + 4}")


@pytest.mark.parametrize(
    "large", [{"size": MAX_BYTES // 2 - 100}, {"suppressed": [("p", "paused")] * 100_000}]
)
def test_large_events_push_out_older_ones(large):
    recent = RecentEvents()
    for rule in "abc":
        recent.add(recent_event(rule, **large))
    assert [event.alert["rule"] for event in recent.all()] == ["b", "c"]


def test_an_event_of_empty_lists_is_kept_as_its_json_and_not_decoded():
    intake = intake_of(InstantJournal())
    fields = {"x": [[]] * 10_000}
    sent = json.dumps(alert(output_fields=fields), separators=(",", ":")).encode()
    take(intake, sent)
    (event,) = intake.recent.all()
    assert event.size <= len(sent)
    assert event.alert["output_fields"] == fields
