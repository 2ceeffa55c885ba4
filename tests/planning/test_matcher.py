"""Which playbooks match an event."""

from __future__ import annotations

import inspect
import sys

import pytest
from engine.language.conditions import compile_condition
from engine.language.findings import Findings
from engine.language.yaml_source import Document
from engine.model.event import parse_event
from engine.model.playbook import Condition, Match, Playbook
from engine.planning.matcher import PlaybookIndex


def names(match, *conditions, **alert):
    found = PlaybookIndex([Playbook("p", match, (), conditions=conditions)])
    event = parse_event({"rule": "Write below etc", **alert})
    assert found.matching(event) == found.matching(event)
    return [playbook.name for playbook in found.matching(event)]


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        (("Write below etc",), True),
        (("Write below",), False),
        (("Write below *",), True),
        (("*etc",), True),
        (("Write ????? etc",), True),
        (("write below etc",), False),
        (("W[a-z]*",), False),
        (("*", "Write below etc"), True),
        (None, True),
    ],
)
def test_a_rule_is_exact_or_a_glob_of_star_and_question_mark(rules, wanted):
    assert names(Match(rules=rules)) == (["p"] if wanted else [])


def test_a_glob_needs_linear_time_for_any_rule_name():
    slow = Match(rules=("*a*a*a*a*a*a*a*a*b",))
    assert names(slow, rule="a" * 200_000) == []


def test_a_line_break_is_part_of_a_rule_name():
    assert names(Match(rules=("Write*",)), rule="Write\nbelow") == ["p"]
    assert names(Match(rules=("Write",)), rule="Write\n") == []


@pytest.mark.parametrize(("host", "wanted"), [("worker-1", True), ("master", False), (None, False)])
def test_a_hostname_is_exact_or_a_glob(host, wanted):
    assert names(Match(hostnames=("worker-*", "w")), hostname=host) == (["p"] if wanted else [])


@pytest.mark.parametrize("host", [None, "", "<NA>"])
def test_an_absent_hostname_never_matches(host):
    assert names(Match(hostnames=("*", "<NA>")), hostname=host) == []


def test_an_event_without_tags_matches_only_tags_none():
    assert names(Match(tags_none=frozenset({"test"}))) == ["p"]
    assert names(Match(tags_any=frozenset({"test"}))) == []
    assert names(Match(tags_all=frozenset({"test"}))) == []


def test_an_unknown_condition_does_not_match():
    for truth, wanted in ((True, ["p"]), (False, []), (None, [])):
        condition = Condition("c", lambda _, truth=truth: truth)
        assert names(Match(), condition) == wanted


def test_invented_rule_names_do_not_fill_the_cache():
    found = PlaybookIndex([Playbook("p", Match(rules=("a*",)), ())])
    for number in range(10_050):
        assert len(found.matching(parse_event({"rule": f"a{number}"}))) == 1
    assert len(found._finds) <= 10_000


def test_long_rule_names_do_not_fill_the_memory():
    found = PlaybookIndex([Playbook("p", Match(rules=("a*",)), ()), Playbook("q", Match(), ())])
    for number in range(50):
        event = parse_event({"rule": f"{'ab'[number % 2]}{number}{'x' * 100_000}"})
        for _ in range(2):
            assert len(found.matching(event)) == 2 - number % 2
    assert sum(map(len, found._finds)) < 50 * 1_000


def keyed(key, truth, asked=None):
    def holds(_):
        if asked is not None:
            asked.append(key)
        return truth

    return Condition(key, holds, key=key)


@pytest.mark.parametrize("truth", [True, False, None])
def test_a_shared_condition_is_evaluated_once(truth):
    asked: list[str] = []
    shared = [keyed("shared", truth, asked) for _ in range(8)]
    own = [keyed(f"own-{n}", truth=n != 3, asked=asked) for n in range(8)]
    found = PlaybookIndex(
        Playbook(f"p{n}", Match(), (), conditions=(own[n], shared[n])) for n in range(8)
    )
    wanting = [playbook.name for playbook in found.matching(parse_event({"rule": "r"}))]
    assert wanting == ([f"p{n}" for n in range(8) if n != 3] if truth else [])
    assert asked.count("shared") == 1
    assert len(asked) == (9 if truth else 1)


def test_all_and_any_of_the_same_conditions_are_different_conditions():
    told = [
        compile_condition({word: [field("a"), field("b")]}, (), Findings(Document("a.yaml", None)))
        for word in ("any", "all")
        for _ in range(4)
    ]
    found = PlaybookIndex(
        Playbook(f"p{n}", Match(), (), conditions=(condition,)) for n, condition in enumerate(told)
    )
    event = parse_event({"rule": "r", "output_fields": {"a": "x", "b": "y"}})
    assert [playbook.name for playbook in found.matching(event)] == ["p0", "p1", "p2", "p3"]


def test_nested_shared_conditions_do_not_recurse_deeply():
    shared = [keyed(f"k{n}", truth=True) for n in range(200)]
    found = PlaybookIndex(
        Playbook(f"p{n:03}", Match(), (), conditions=tuple(shared[:n])) for n in range(200)
    )
    event, before = parse_event({"rule": "r"}), sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert len(found.matching(event)) == 200
    finally:
        sys.setrecursionlimit(before)


def field(name):
    return {"field": name, "equals": "x"}
