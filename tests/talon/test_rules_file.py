from __future__ import annotations

import json
import re

import pytest
import yaml
from engine.actions.registry import load_actions
from engine.talon.actionners import ACTIONNERS
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.counting import calls
from tests.talon.reference import LABEL, imported, loaded, rule

BLOCK = {"action": "Kill", "actionner": "kubernetes:terminate"}


def spec(conversion, name="r"):
    loaded(conversion)
    return yaml.safe_load(conversion.playbooks[name])["spec"]


def test_plain_words_of_yaml_1_1_are_text():
    conversion = imported(
        "- rule: r\n  match: {rules: [yes, 010]}\n  actions:\n  - action: a\n"
        "    actionner: kubernetes:label\n    parameters: {labels: {x: yes, off: 010, z: n}}\n"
    )
    assert spec(conversion)["match"] == {"rules": ["yes", "010"]}
    assert spec(conversion)["actions"][0]["with"]["labels"] == {"x": "yes", "off": "010", "z": "n"}
    assert conversion.findings == ()


def test_a_number_or_boolean_in_a_text_field_is_kept_as_written():
    conversion = imported(
        "- rule: &name 1.10\n  description: 1e3\n"
        "  match: {rules: [1.10, 0x1F, True, *name, 7], source: 2.0, tags: [1.50]}\n"
        "  actions: [{action: 3.0, actionner: kubernetes:label, parameters: {labels: {a: b}}}]\n"
    )
    found = spec(conversion, "1-10")
    rules = ["1.10", "0x1F", "True", "7"]
    assert found["match"] == {"rules": rules, "sources": ["2.0"], "tags": {"any": ["1.50"]}}
    assert (found["description"], found["actions"][0]["name"]) == ("1e3", "3-0")


LONG = "A description of many words that is folded over several lines of the file of rules. " * 3


@pytest.mark.parametrize(
    ("given", "indicator"),
    [
        ("short", ""),
        (LONG, ">-"),
        (f"{LONG}\n", ">-"),
        ("one\n\n- two: ${x}\n  three #\n", "|-"),
        ("%x: y # z", ""),
        ("bell \a\nnext", '"'),
        ("two  spaces " * 20, '"'),
    ],
)  # fmt: skip
def test_a_description_stays_readable(given, indicator):
    conversion = imported([rule(description=given, match={"rules": ["R"]})])
    text = conversion.playbooks["r"]
    (line,) = (line for line in text.splitlines() if line.startswith("  description:"))
    assert line.partition(": ")[2].startswith(indicator)
    assert max(map(len, text.splitlines())) <= 100 or indicator == '"'
    assert loaded(conversion)["r"].description == given.strip()


@given(st.text(st.characters(max_codepoint=0xD7FF), min_size=1, max_size=300))
def test_a_description_is_kept(given):
    conversion = imported([rule(description=given, match={"rules": ["R"]})])
    assert loaded(conversion)["r"].description == given.strip()


def test_hints_recommend_only_actions_of_this_version():
    rules = [
        rule(name, match={"rules": ["R"]}, notifiers=["smtp", "webhook", "loki"])
        | {
            "actions": [
                {"action": "a", "actionner": name, "parameters": {"command": "$x", "file": "f"}}
            ]
        }
        for name in ACTIONNERS
    ]
    for finding in imported(rules).findings:
        named = re.findall(
            r"(?<![\w.])(?:pod|node|resource|notify|http)\.[a-z]+", finding.hint or ""
        )
        assert set(named) <= load_actions().keys(), finding


def test_an_action_block_is_overridden_by_later_files_and_by_the_rule():
    first = [
        BLOCK | {"parameters": {"grace_period_seconds": 5, "ignore_daemonsets": True}},
        rule(match={"rules": ["R"]})
        | {"actions": [{"action": "Kill", "parameters": {"ignore_standalone_pods": True}}]},
    ]
    second = [{"action": "Kill", "ignore_errors": True, "parameters": {"grace_period_seconds": 2}}]
    conversion = imported(first, second)
    (step,) = spec(conversion)["actions"]
    assert step["with"] == {"grace": 2, "skipKinds": ["DaemonSet"]}
    assert step["onFailure"] == "continue"
    assert conversion.findings == ()


def test_lists_in_parameters_are_extended_and_mappings_are_merged():
    block = {
        "action": "Cut", "actionner": "kubernetes:networkpolicy", "parameters": {"allow_cidr": ["10.0.0.0/8"]},
    }  # fmt: skip
    mark = LABEL | {"parameters": {"labels": {"a": "1", "b": "1"}}}
    own = [
        {"action": "Cut", "parameters": {"allow_cidr": ["192.168.0.0/16"]}},
        {"action": "Mark", "parameters": {"labels": {"b": "2"}}},
    ]
    cut, marked = spec(imported([block, mark, rule() | {"actions": own}]))["actions"]
    assert cut["with"]["allow"]["cidrs"] == ["10.0.0.0/8", "192.168.0.0/16"]
    assert marked["with"] == {"labels": {"a": "1", "b": "2"}}


def test_a_value_of_another_type_is_ignored_and_reported():
    block = BLOCK | {"parameters": {"grace_period_seconds": 5}}
    later = [BLOCK | {"parameters": {"grace_period_seconds": "9"}}]
    conversion = imported([block, rule() | {"actions": [{"action": "Kill"}]}], later)
    assert spec(conversion)["actions"][0]["with"]["grace"] == 5
    assert any("has another type" in finding.what for finding in conversion.findings)


def test_a_repeated_rule_is_extended_and_keeps_the_earlier_priority():
    again = {"rule": "r", "match": {"rules": ["S"]}, "dry_run": True}
    conversion = imported([rule(match={"rules": ["R"], "priority": ">=Error"})], [again])
    found = spec(conversion)
    assert found["match"] == {"rules": ["R", "S"], "priority": "Error"}
    assert found["mode"] == "dryRun"
    (finding,) = conversion.findings
    assert finding.severity == "warning"
    assert finding.where.file == "rules1.yaml"
    assert "Talon drops the earlier one" in finding.what


def test_names_are_unique_labels():
    names = [
        "Read /etc/shadow!",
        "read etc shadow",
        "read-etc-shadow-2",
        "values",
        "???",
        "x" * 90,
        "été",
    ]
    conversion = imported([rule(name) for name in names])
    assert list(conversion.playbooks) == [
        "read-etc-shadow", "read-etc-shadow-2", "read-etc-shadow-2-2", "values-rule", "rule", "x" * 50, "t",
    ]  # fmt: skip
    loaded(conversion)


def test_unknown_keys_are_reported_at_their_location():
    text = f"- rule: r\n  mach: {{rules: [R]}}\n  actions: [{json.dumps(LABEL)}]\n- Rule: s\n"
    found = {str(f.where): f for f in imported(text).findings}
    assert (found["rules0.yaml:2:3"].what, found["rules0.yaml:2:3"].hint) == (
        "Talon ignores the unknown key `mach`", "match",
    )  # fmt: skip
    assert found["rules0.yaml:4:3"].hint == "rule"


def test_only_the_first_document_is_converted():
    first, second = ([rule(name, match={"rules": ["R"]})] for name in "ab")
    conversion = imported(f"{json.dumps(first)}\n---\n{json.dumps(second)}\n")
    assert list(conversion.playbooks) == ["a"]
    assert [str(finding.where) for finding in conversion.findings] == ["rules0.yaml:3:1"]


@pytest.mark.parametrize(
    "text",
    [
        b"- rule: [",
        b"- rule: r\n  rule: s\n",
        b"- rule: r\n  continue: yes\n",
        b"- !!python/object:os.system x\n",
        b"[" * 200_000,
        b"- rule: " + b"x" * (2 << 20),
        b"- &a [1]\n" + b"".join(b"- &a%d [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n" % n for n in range(9)),
        b"\xff\xfe\x00",
        b"- rule: \x07\n",
    ],
    ids=["syntax", "twice", "trap", "tag", "deep", "long", "aliases", "utf-16", "bell"],
)  # fmt: skip
def test_an_invalid_or_hostile_file_gives_findings_and_bounded_work(text):
    found = []
    assert calls(lambda: found.append(imported(text))) < 20_000
    (conversion,) = found
    assert conversion.playbooks == {}
    assert conversion.findings


def test_an_invalid_override_gives_no_playbooks():
    conversion = imported([rule()], "- action: Mark\n  parameters: {\n")
    assert conversion.playbooks == {}
    assert conversion.findings[0].where.file == "rules1.yaml"


@pytest.mark.parametrize("text", ["", "{}", "rules: []", "7", "[7, null, [], {}]"])
def test_a_file_with_another_structure_gives_no_playbook(text):
    assert imported(text).playbooks == {}


def test_a_block_in_many_rules_is_limited_by_the_total_size():
    long = {
        "actionner": "kubernetes:annotation",
        "parameters": {"annotations": {"a": "x" * 200_000}},
    }
    rules = [rule(f"r{n}") | {"actions": [{"action": "Mark"}]} for n in range(400)]
    conversion = imported([LABEL | long, *rules])
    assert conversion.too_large


def test_the_work_for_many_terminal_rules_is_linear():
    rules = [rule(f"r{n}", match={"source": f"s{n}"}, **{"continue": False}) for n in range(400)]
    found = []
    half, full = (
        calls(lambda many=many: found.append(imported(rules[:many]))) for many in (200, 400)
    )
    assert full < 3 * half
    limited = [f for f in found[1].findings if "only the first are excluded" in f.what]
    assert len(limited) > 150


TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["${x}", "%rule", "%%", "- a", "y", "010", "1:30", "~", "a: b", "#", "\x85", "\U0001f600"]
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**70), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


MATCH = st.fixed_dictionaries(
    {},
    optional={
        "rules": st.lists(TEXTS, max_size=3),
        "output_fields": st.lists(
            st.builds("{}{}{}".format, TEXTS, st.sampled_from(["=", "!="]), TEXTS), max_size=2
        ),
    },
)
LABELS = st.dictionaries(st.one_of(TEXTS, st.just("a")), TEXTS, min_size=1, max_size=2)
KEYS = st.sampled_from(["match", "actions", "notifiers", "continue", "dry_run", "other"])


@settings(max_examples=40, deadline=None)
@given(TEXTS, MATCH, LABELS, VALUES, KEYS)
def test_the_playbooks_of_any_file_are_valid(text, match, labels, anything, key):
    good = rule(text, description=text, match=match)
    odd = good | {"rule": "odd", key: anything}
    marked = good | {"rule": "marked", "actions": [LABEL | {"parameters": {"labels": labels}}]}
    named = good | {"rule": "named", "actions": [LABEL | {"action": text, "description": text}]}
    loaded(imported(yaml.safe_dump([good, odd, marked, named], allow_unicode=True)))
    loaded(imported(yaml.safe_dump([good, anything])))
    loaded(imported(yaml.safe_dump([rule() | {"actions": [LABEL | {"parameters": anything}]}])))
