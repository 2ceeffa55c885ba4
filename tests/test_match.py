"""Which playbooks want an event."""

from __future__ import annotations

import pytest
from engine.event import parse
from engine.match import Playbooks
from engine.playbook import Condition, Match, Playbook


def names(match, *conditions, **alert):
    found = Playbooks([Playbook("p", match, (), conditions=conditions)])
    event = parse({"rule": "Write below etc", **alert})
    assert found.wanting(event) == found.wanting(event)
    return [playbook.name for playbook in found.wanting(event)]


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


def test_a_glob_is_linear_in_what_an_attacker_names_a_rule():
    slow = Match(rules=("*a*a*a*a*a*a*a*a*b",))
    assert names(slow, rule="a" * 200_000) == []


def test_a_rules_newline_is_part_of_its_name():
    assert names(Match(rules=("Write*",)), rule="Write\nbelow") == ["p"]
    assert names(Match(rules=("Write",)), rule="Write\n") == []


@pytest.mark.parametrize(("host", "wanted"), [("worker-1", True), ("master", False), (None, False)])
def test_a_hostname_is_exact_or_a_glob_and_an_absent_one_never_matches(host, wanted):
    assert names(Match(hostnames=("worker-*", "w")), hostname=host) == (["p"] if wanted else [])


def test_tags_of_an_event_without_any_hold_only_for_none():
    assert names(Match(tags_none=frozenset({"test"}))) == ["p"]
    assert names(Match(tags_any=frozenset({"test"}))) == []
    assert names(Match(tags_all=frozenset({"test"}))) == []


def test_a_condition_that_is_unknown_does_not_hold():
    for truth, wanted in ((True, ["p"]), (False, []), (None, [])):
        condition = Condition("c", lambda _, truth=truth: truth)
        assert names(Match(), condition) == wanted


def test_names_that_nobody_ships_do_not_fill_the_memory():
    found = Playbooks([Playbook("p", Match(rules=("a*",)), ())])
    for number in range(10_050):
        assert len(found.wanting(parse({"rule": f"a{number}"}))) == 1
    assert len(found._selects) <= 10_000
