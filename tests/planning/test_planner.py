from __future__ import annotations

import engine.planning.planner
import engine.planning.throttle
import pytest
from engine.model.event import format_time, parse_event
from engine.model.playbook import Condition, Match, Playbook, Silence, Throttle
from engine.model.run import run_id
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory, plan
from engine.planning.throttle import throttle_key

START = 1_772_359_200


class Clock:
    """Plans a new event at each given second."""

    def __init__(self, throttle=None, memory=None, name="p", mode="enforce", silences=()):
        self.memory = memory or PlanningMemory()
        book = Playbook(name, Match(), (), throttle=throttle, mode=mode)
        self.playbooks = PlaybookIndex([book], silences)
        self.number = 0

    def at(self, second, received=None, **fields):
        self.number += 1
        fields = {"k8s.ns.name": "demo", "k8s.pod.name": "web-0", "n": self.number} | fields
        stamp = format_time(round((START + second) * 1_000_000_000))
        event = parse_event({"rule": "r", "time": stamp, "hostname": "h", "output_fields": fields})
        when = None if received is None else START + received
        (planned,) = plan(event, self.playbooks, self.memory, when)
        return planned

    def acts(self, *seconds, **fields):
        return [self.at(second, **fields).suppressed is None for second in seconds]


def once(seconds, key=None):
    return first(1, seconds, key)


def first(number, within, key=None):
    return Throttle(f"first {number} in {within} {key}", within, first=number, key=key)


def count(number, within, key=None):
    return Throttle(f"{number} in {within}", within, count=number, key=key)


def quiet(until, *conditions, name="quiet", rules=None):
    until_ns = (START + until) * 1_000_000_000
    return Silence(name, Match(rules=rules), until_ns, "me", "c", conditions)


def test_the_first_event_runs_and_the_next_ones_are_suppressed_until_the_window_ends():
    clock = Clock(once(10))
    assert clock.acts(0, 1, 9.999, 10, 19.999, 20) == [True, False, False, True, False, True]


@pytest.mark.parametrize(
    ("within", "stamps", "acts"),
    [
        (600, ["00:00", "09:59.999999999", "10:00"], [True, False, True]),
        (0.1, ["00:00", "00:00.1", "00:00.199999999", "00:00.2"], [True, True, False, True]),
        (0.1, [f"00:00.{n}" for n in range(3, 9)], [True] * 6),
        (0.001, ["00:00.0009", "00:00.001", "00:00.0019"], [True, False, True]),
    ],
)
def test_an_event_acts_when_exactly_the_window_has_passed(within, stamps, acts):
    for throttle in (once(within, ("x.y",)), count(2, within, ("x.y",))):
        playbooks = PlaybookIndex([Playbook("p", Match(), (), throttle=throttle)])
        memory = PlanningMemory()
        planned = [
            plan(parse_event({"rule": "r", "time": f"2026-03-01T10:{at}Z"}), playbooks, memory)[0]
            for at in stamps
        ]
        if throttle.count:
            assert [one.suppressed is None for one in planned[:2]] == [False, not acts[1]]
        else:
            assert [one.suppressed is None for one in planned] == acts


def test_suppressed_events_do_not_extend_the_window():
    assert Clock(once(10)).acts(0, 5, 9, 10) == [True, False, False, True]


def test_the_fifth_event_within_a_sliding_minute_runs_and_counting_starts_again():
    clock = Clock(count(5, 60))
    assert clock.acts(*range(10)) == [False] * 4 + [True] + [False] * 4 + [True]
    assert Clock(count(2, 60)).acts(0, 60, 119.999, 121) == [False, False, True, False]
    assert Clock(count(1, 60)).acts(0, 1) == [True, True]


def test_the_clock_never_goes_back():
    clock = Clock(once(10))
    assert clock.acts(100, 5, 109, 50, 110) == [True, False, False, False, True]
    assert Clock(count(2, 10)).acts(100, 5) == [False, True]


def test_the_first_n_events_within_any_window_run():
    clock = Clock(first(3, 60))
    assert clock.acts(0, 10, 20, 30, 59.999) == [True, True, True, False, False]
    assert clock.acts(60, 61, 70, 80) == [True, False, True, True]  # it slides
    assert clock.acts(119.999, 120) == [False, True]


def test_once_is_first_with_one_event():
    seconds = (0, 1, 9.999, 10, 19.999, 20, 20, 45)
    assert Clock(once(10)).acts(*seconds) == Clock(first(1, 10)).acts(*seconds)


def test_a_run_releases_only_its_own_slot():
    clock = Clock(first(2, 60))
    one, two = clock.at(0), clock.at(30)
    assert clock.acts(31) == [False]
    clock.memory.release(two.run.id)
    clock.memory.release(two.run.id)  # once only
    assert clock.acts(32, 33) == [True, False]
    clock.memory.release(one.run.id)
    assert clock.acts(59, 60) == [True, False]
    assert clock.acts(92) == [True]


def test_a_run_that_ends_after_its_window_does_not_release_a_later_slot():
    clock = Clock(first(1, 10))
    late = clock.at(0)
    assert clock.acts(10) == [True]
    clock.memory.release(late.run.id)
    assert clock.acts(11) == [False]


def test_the_time_of_receipt_is_used_if_the_event_is_too_old_or_in_the_future():
    clock = Clock(once(10))
    assert clock.at(0, received=200).suppressed is None
    assert clock.memory.clock == START
    for second, received in ((5000, 201), (-5000, 202), (460, 203), (203.5, 204)):
        clock.at(second, received=received)
        assert clock.memory.clock == START + min(second if second > 0 else received, received)


def test_a_sender_with_a_fast_clock_does_not_extend_a_window():
    clock = Clock(first(2, 10))
    clock.at(290, received=0, sender="fast")
    assert clock.at(1, received=1).suppressed is None
    assert clock.at(2, received=2).suppressed == "throttle"
    assert clock.at(10, received=10).suppressed is None
    # nor does it end one before its time
    assert clock.at(299, received=10.5).suppressed == "throttle"


def test_a_run_that_did_nothing_releases_its_slot():
    clock = Clock(once(10))
    first = clock.at(0)
    assert clock.acts(1) == [False]
    clock.memory.release(first.run.id)
    assert clock.acts(2, 3) == [True, False]
    clock.memory.release(first.run.id)
    assert clock.acts(4) == [False]


def test_a_released_slot_restores_the_count():
    clock = Clock(count(3, 60))
    assert clock.acts(0, 1) == [False, False]
    acted = clock.at(2)
    assert acted.suppressed is None
    clock.memory.release(acted.run.id)
    assert clock.acts(3) == [True]


def test_the_default_key_is_rule_namespace_and_pod():
    clock = Clock(once(10))
    assert clock.acts(0, 1) == [True, False]
    assert clock.acts(2, **{"k8s.pod.name": "web-1"}) == [True]
    assert clock.acts(2, **{"k8s.ns.name": "other"}) == [True]
    nobody = {"k8s.pod.name": None, "k8s.ns.name": None}
    assert clock.acts(2, **nobody, **{"container.id": "a" * 12}) == [True]
    assert clock.acts(2, **nobody, **{"container.id": "b" * 12}) == [True]
    assert clock.acts(2, **nobody, **{"container.id": "host"}) == [True]
    assert clock.acts(3, **nobody) == [False]


def test_a_key_of_fields_counts_by_their_values():
    clock = Clock(once(10, ("proc.name",)))
    assert clock.acts(0, **{"proc.name": "a"}) == [True]
    assert clock.acts(1, **{"proc.name": "b"}) == [True]
    assert clock.acts(2, **{"proc.name": "a", "k8s.pod.name": "x"}) == [False]
    assert clock.acts(2, **{"proc.name": None}) == [True]
    assert clock.acts(3, **{"proc.name": "<NA>"}) == [False]
    assert clock.acts(3, **{"proc.name": ["a", {"b": 1}]}) == [True]


@pytest.mark.parametrize("throttle", [first(1, 60, ("a", "b")), count(2, 60, ("a", "b"))])
def test_without_a_field_of_the_key_each_container_has_its_own_window(throttle):
    def dropped(clock, **fields):
        planned = [clock.at(second, a="x", **fields).suppressed for second in (0, 1)]
        return planned.count("throttle")

    clock = Clock(throttle)
    for absent in (None, "", "<NA>", []):
        clock = Clock(throttle)
        assert dropped(clock, b=absent, **{"container.id": "a" * 12}) == 1
        clock.at(1, a="x", b=absent, **{"container.id": "b" * 12})
        assert len(clock.memory.windows) == 2
    clock = Clock(throttle)
    clock.at(0, a="x", b="y", **{"container.id": "a" * 12})
    clock.at(0, a="x", b="y", **{"container.id": "b" * 12})
    assert len(clock.memory.windows) == 1


def test_the_throttle_key_includes_the_fallback_for_an_absent_field():
    event = parse_event({"rule": "r", "hostname": "h", "output_fields": {"a": "x"}})
    assert throttle_key(event, first(1, 60, ("a",))) == [("a", "x")]
    assert throttle_key(event, first(1, 60, ("a", "b"))) == [
        ("a", "x"), ("b", None), ("container.id", None), ("hostname", "h"),
    ]  # fmt: skip


def test_windows_of_the_previous_version_stay_valid():
    throttle, key = once(10), '["p","first 1 in 10 None",["r","demo","web-0"]]'
    at = {"at": START, "stamps": [], "run": "f" * 32, "before": [], "until": START + 10}
    assert Clock(throttle, PlanningMemory({key: at})).acts(9, 10) == [False, True]
    clock = Clock(throttle, PlanningMemory({key: at}))
    clock.memory.release("f" * 32)
    assert clock.acts(1) == [True]
    counting, key = count(3, 60), key.replace("first 1 in 10 None", "3 in 60")
    acted = at | {"before": [START - 2, START - 1], "stamps": []}
    assert Clock(counting, PlanningMemory({key: acted})).acts(1, 2, 3) == [False, False, True]
    clock = Clock(counting, PlanningMemory({key: acted}))
    clock.memory.release("f" * 32)
    assert clock.acts(1) == [True]


def test_slots_are_removed_with_their_windows():
    for throttle in (first(3, 10), count(2, 10)):
        clock = Clock(throttle)
        clock.acts(*range(1000))
        assert len(clock.memory._key_of_run) <= 3


def test_a_throttle_survives_a_restart_and_is_identified_by_name_and_text():
    clock = Clock(once(10))
    first = clock.at(0)
    kept = {key: window for key, window in clock.memory.changes.items() if window is not None}
    again = Clock(once(10), PlanningMemory(kept))
    again.number = 100
    assert again.acts(5) == [False]
    again.memory.release(first.run.id)
    assert again.acts(6) == [True]
    assert Clock(once(10), PlanningMemory(kept), name="other").acts(5) == [True]
    assert Clock(once(11), PlanningMemory(kept)).acts(5) == [True]


def test_the_same_event_is_a_duplicate_with_the_earlier_run():
    clock = Clock(once(10))
    first = clock.at(0, n=1)
    again = clock.at(0, n=1)
    assert (again.suppressed, again.ran, again.run.id) == ("duplicate", True, first.run.id)
    dropped = clock.at(1, n=2)
    assert dropped.suppressed == "throttle"
    assert (clock.at(1, n=2).suppressed, clock.at(1, n=2).ran) == ("duplicate", False)


def test_duplicate_is_tested_before_disabled_and_disabled_before_throttle():
    clock = Clock(once(10), mode="disabled")
    assert clock.at(0, n=1).suppressed == "mode: disabled"
    assert clock.at(0, n=1).suppressed == "duplicate"
    assert clock.at(1).suppressed == "mode: disabled"
    assert not clock.memory.windows


def test_a_silence_is_tested_after_duplicate_and_disabled():
    silences = [quiet(10)]
    clock = Clock(silences=silences)
    assert clock.at(0, n=1).suppressed == "silence: quiet"
    assert (clock.at(0, n=1).suppressed, clock.at(0, n=1).ran) == ("duplicate", False)
    assert Clock(mode="disabled", silences=silences).at(0).suppressed == "mode: disabled"


def test_a_silenced_event_does_not_count_for_a_throttle():
    clock = Clock(once(100), silences=[quiet(10)])
    assert [clock.at(second).suppressed for second in (0, 9, 10, 11)] == [
        "silence: quiet", "silence: quiet", None, "throttle",
    ]  # fmt: skip
    counting = Clock(count(2, 100), silences=[quiet(10)])
    assert counting.acts(0, 1, 2, 10, 11) == [False, False, False, False, True]


def test_a_silence_needs_its_match_and_its_conditions():
    assert Clock(silences=[quiet(10, rules=("r",))]).at(0).suppressed == "silence: quiet"
    assert Clock(silences=[quiet(10, rules=("another",))]).at(0).suppressed is None
    for truth, suppressed in ((True, "silence: quiet"), (False, None), (None, None)):
        condition = Condition("c", lambda _, truth=truth: truth)
        assert Clock(silences=[quiet(10, condition)]).at(0).suppressed == suppressed


def test_the_first_active_silence_by_name_is_reported():
    clock = Clock(silences=[quiet(20, name="b"), quiet(10, name="a"), quiet(30, name="c")])
    told = [clock.at(second).suppressed for second in (0, 10, 20, 30)]
    assert told == ["silence: a", "silence: b", "silence: c", None]


def test_a_silence_depends_only_on_the_time_of_the_event():
    clock = Clock(silences=[quiet(10)])
    assert clock.at(9.999).suppressed == "silence: quiet"
    assert clock.at(10).suppressed is None
    assert clock.at(5).suppressed == "silence: quiet"


def test_a_silence_uses_the_time_of_receipt_if_the_event_is_far_off():
    clock = Clock(silences=[quiet(1000)])
    assert clock.at(999, received=1299).suppressed == "silence: quiet"
    assert clock.at(999, received=1300).suppressed is None
    assert clock.at(1001, received=701).suppressed is None
    assert clock.at(1001, received=700).suppressed == "silence: quiet"


def test_duplicates_are_detected_per_playbook():
    memory = PlanningMemory()
    assert Clock(memory=memory, name="a").at(0).suppressed is None
    assert Clock(memory=memory, name="b").at(0).suppressed is None
    assert Clock(memory=memory, name="a").at(0).suppressed == "duplicate"


def test_a_run_that_could_not_be_written_is_forgotten():
    clock = Clock(once(10))
    first = clock.at(0, n=1)
    clock.memory.forget(first.run.id)
    assert clock.at(0, n=1).suppressed is None


def test_runs_are_sorted_by_playbook_and_their_id_depends_on_event_and_playbook():
    books = PlaybookIndex([Playbook(name, Match(), ()) for name in ("b", "c", "a")])
    event = parse_event({"rule": "r", "time": "2026-03-01T10:00:00Z"})
    planned = plan(event, books, PlanningMemory())
    assert [one.run.playbook.name for one in planned] == ["a", "b", "c"]
    assert len({one.run.id for one in planned}) == 3
    assert run_id("x", "a") == run_id("x", "a") != run_id("x", "b")


@pytest.mark.parametrize("throttle", [once(1e6, ("n",)), count(5, 1e6, ("n",))])
def test_the_memory_for_throttles_is_limited(throttle, monkeypatch):
    monkeypatch.setattr(engine.planning.throttle, "MAX_WINDOWS", 200)
    monkeypatch.setattr(engine.planning.planner, "_MAX_RUNS", 200)
    clock = Clock(throttle)
    for second in range(1000):
        clock.at(second)
    memory = clock.memory
    assert len(memory.windows) <= 200
    assert len(memory._seen) <= 200
    assert len(memory._key_of_run) <= 200
    assert sum(window is not None for window in memory.changes.values()) <= 200
    assert clock.at(1001, n=1000).suppressed == "throttle"


def test_a_long_value_does_not_fill_the_memory_for_throttles():
    clock = Clock(once(1e6, ("cmd",)))
    long, other = "x" * 100_000, "x" * 99_999 + "y"
    assert clock.acts(0, 1, cmd=long) == [True, False]
    assert clock.acts(2, 3, cmd=other) == [True, False]
    assert max(map(len, clock.memory.windows)) <= 1_000


def test_windows_that_are_over_are_removed_first(monkeypatch):
    monkeypatch.setattr(engine.planning.throttle, "MAX_WINDOWS", 200)
    clock = Clock(once(1e6, ("n",)))
    short = Clock(once(1, ("n",)), clock.memory, name="short")
    clock.at(0, n="kept")
    for second in range(1000):
        short.at(second)
    assert clock.at(1000, n="kept", other=1).suppressed == "throttle"


def test_the_number_of_stamps_is_limited_by_count_if_every_run_releases_its_slot():
    clock = Clock(count(3, 1e6))
    for second in range(300):
        planned = clock.at(second)
        clock.at(second)
        if planned.suppressed is None:
            clock.memory.release(planned.run.id)
    (window,) = clock.memory.windows.values()
    assert len(window.get("stamps", [])) + len(window.get("before", [])) < 10
