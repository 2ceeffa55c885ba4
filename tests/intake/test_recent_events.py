"""The last events are kept, by number and by size."""

from __future__ import annotations

from engine.intake.recent_events import BYTES, EVENTS, RecentEvent, RecentEvents
from engine.model.event import parse_event


def got(name, size=1):
    return RecentEvent(parse_event({"rule": name}), 0.0, "run", size)


def test_the_newest_thousand_are_kept():
    recent = RecentEvents()
    for number in range(EVENTS + 5):
        recent.add(got(f"r{number}"))
    rules = [one.event.rule for one in recent.all()]
    assert (len(rules), rules[0], rules[-1]) == (EVENTS, "r5", f"r{EVENTS + 4}")


def test_long_events_push_out_old_ones():
    recent = RecentEvents()
    for name in "abc":
        recent.add(got(name, BYTES // 2))
    assert [one.event.rule for one in recent.all()] == ["b", "c"]
