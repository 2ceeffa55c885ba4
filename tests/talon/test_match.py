from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.talon.reference import acting, alert, imported, rule, talon_acts

NAMES = st.sampled_from(["R", "S", "R*", "R?"])
TAGS = st.sampled_from(["network", "shell", "t1059"])
EXACT_VALUES = ["v", "w", "443", "1.5", "true"]
DIFFERENT_VALUES = ["<nil>", "1000660000", "1.00066e+09", "1.5e+07", "0.00001", "1e-05"]
EVENT_VALUES = [
    "v",
    "",
    "<NA>",
    443,
    1.5,
    True,
    "443",
    None,
    1000660000,
    15e6,
    1e-5,
    "1000660000",
    "<nil>",
]
FIELDS = st.sampled_from(["a.x", "b.y[2]"])
PRIORITY = st.builds(
    "{}{}".format,
    st.sampled_from(["", "=", ">=", ">", "<=", "<"]),
    st.sampled_from(["Emergency", "warning", "Notice", "Debug"]),
)


def rules_with(values):
    entry = st.lists(
        st.builds("{}{}{}".format, FIELDS, st.sampled_from(["=", "!="]), st.sampled_from(values)),
        min_size=1,
        max_size=3,
    ).map(", ".join)
    tags = st.lists(TAGS, min_size=1, max_size=2, unique=True).map(", ".join)
    match = st.fixed_dictionaries(
        {},
        optional={
            "rules": st.lists(NAMES, min_size=1, max_size=3),
            "priority": PRIORITY,
            "source": st.sampled_from(["syscall", "k8s_audit"]),
            "tags": st.lists(tags, min_size=1, max_size=3),
            "output_fields": st.lists(entry, min_size=1, max_size=3),
        },
    )
    return st.lists(st.tuples(match, st.booleans()), min_size=1, max_size=4).map(
        lambda each: [
            rule(f"r{n}", match=match, **({} if goes_on else {"continue": False}))
            for n, (match, goes_on) in enumerate(each)
        ]
    )


def events(values, *, complete):
    fields = {"a.x": values, "b.y[2]": values}
    return st.builds(
        alert,
        rule=st.sampled_from(["R", "S", "R*", "RR"]),
        priority=st.sampled_from(["Emergency", "Critical", "Warning", "Notice", "Debug"]),
        source=st.sampled_from(["syscall", "k8s_audit"]),
        tags=st.lists(TAGS, unique=True),
        output_fields=st.fixed_dictionaries(
            fields if complete else {}, optional={} if complete else fields
        ),
    )


QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(rules_with(EXACT_VALUES), events(st.sampled_from(["v", "w", "443", "true"]), complete=True))
def test_for_an_event_with_all_fields_the_playbooks_act_exactly_like_talon(rules, event):
    assert acting(imported(rules), event) == set(talon_acts(rules, event))


@QUICK
@given(
    rules_with(EXACT_VALUES + DIFFERENT_VALUES),
    events(st.sampled_from(EVENT_VALUES), complete=False),
)
def test_the_playbooks_never_act_if_talon_does_not(rules, event):
    assert acting(imported(rules), event) <= set(talon_acts(rules, event))


@pytest.mark.parametrize(
    ("priority", "event_priority", "acts"),
    [
        (">=Warning", "Warning", True), (">=Warning", "Critical", True), (">=Warning", "Notice", False),
        ("Warning", "Warning", True), ("Warning", "Critical", False), (">Warning", "Warning", False),
        (">Warning", "Error", True), ("<=Notice", "Notice", True), ("<=Notice", "Warning", False),
        ("<Notice", "Notice", False), ("<Notice", "Debug", True), (">Emergency", "Emergency", False),
    ],
)  # fmt: skip
def test_a_priority_is_compared_with_its_operator(priority, event_priority, acts):
    conversion = imported([rule(match={"priority": priority})])
    assert bool(acting(conversion, alert(priority=event_priority))) is acts


def test_entries_of_tags_are_alternatives_and_all_tags_of_an_entry_are_required():
    conversion = imported([rule(match={"tags": ["network, shell", "t1059"]})])
    assert acting(conversion, alert(tags=["network", "shell"]))
    assert acting(conversion, alert(tags=["t1059"]))
    assert not acting(conversion, alert(tags=["network"]))
    assert not acting(conversion, alert())


def test_a_number_equals_its_text():
    conversion = imported([rule(match={"output_fields": ["fd.rport=443"]})])
    assert conversion.findings == ()
    assert acting(conversion, alert(output_fields={"fd.rport": 443}))
    assert acting(conversion, alert(output_fields={"fd.rport": "443"}))
    assert not acting(conversion, alert(output_fields={"fd.rport": 80}))
    assert not acting(conversion, alert())


@pytest.mark.parametrize(
    ("entry", "value", "talon", "code"),
    [
        ("user.uid=1.00066e+09", 1000660000, True, None),
        ("user.uid=1000660000", 1000660000, False, "not-carried"),
        ("user.uid!=1000660000", 1000660000, True, "means-else"),
        ("user.uid=999999", 999999, True, None),
        ("fd.num=18446744073670260079", 18446744073670260079, False, "means-else"),
        ("ka.req.pod.containers.image=nginx", ["nginx"], False, "not-carried"),
        ("ka.req.pod.containers.image!=nginx", ["nginx"], True, "means-else"),
        ("ka.req.pod.containers.image=[nginx]", ["nginx"], True, "not-carried"),
        ("ka.req.pod.containers.image!=[nginx]", ["nginx"], False, "not-carried"),
        ("k8s.pod.name=<nil>", None, True, "not-carried"),
        ("k8s.pod.name!=<nil>", None, False, "means-else"),
        ("k8s.pod.name!=<nil>", "<nil>", False, "means-else"),
    ],
)
def test_a_value_that_go_prints_differently_is_reported(entry, value, talon, code):
    rules = [rule(match={"rules": ["R"], "output_fields": [entry]})]
    event = alert(output_fields={entry.partition("=")[0].rstrip("!"): value})
    assert bool(talon_acts(rules, event)) is talon
    conversion = imported(rules)
    codes = [finding.code for finding in conversion.findings]
    assert (code in codes) if code else (codes == [])
    assert len(acting(conversion, event)) <= talon


def test_not_equal_on_a_missing_field_is_reported_and_does_not_act():
    rules = "- rule: r\n  match:\n    output_fields:\n      - k8s.ns.name!=kube-system, k8s.ns.name!=falco\n"
    rules += (
        "  actions: [{action: m, actionner: 'kubernetes:label', parameters: {labels: {a: b}}}]\n"
    )
    conversion = imported(rules)
    (finding,) = conversion.findings
    assert str(finding.where) == "rules0.yaml:4:9"
    assert finding.severity == "warning"
    assert "in Talon, `!=` is true for an event without `k8s.ns.name`" in finding.what
    assert "notIn: [kube-system, falco]" in conversion.playbooks["r"]
    assert acting(conversion, alert(output_fields={"k8s.ns.name": "demo"}))
    assert not acting(conversion, alert(output_fields={"k8s.ns.name": "falco"}))
    assert not acting(conversion, alert())


def test_alternatives_of_exclusions_are_reported_because_they_exclude_nothing():
    entries = ["k8s.ns.name!=a", "k8s.ns.name!=b"]
    conversion = imported([rule(match={"output_fields": entries})])
    (reported,) = [finding for finding in conversion.findings if "exclude nothing" in finding.what]
    assert reported.hint == "k8s.ns.name!=a, k8s.ns.name!=b"
    assert acting(conversion, alert(output_fields={"k8s.ns.name": "a"}))


def test_a_star_in_a_rule_name_is_a_literal_character():
    conversion = imported([rule(match={"rules": ["Read /etc/*"]})])
    assert acting(conversion, alert("Read /etc/*"))
    assert not acting(conversion, alert("Read /etc/shadow"))


def test_a_reference_to_a_value_is_kept_as_text():
    conversion = imported(
        [rule("${x}", match={"output_fields": ["proc.cmdline=echo ${HOME} $${x}"]})]
    )
    assert acting(conversion, alert(output_fields={"proc.cmdline": "echo ${HOME} $${x}"}))


def test_a_rule_after_a_terminal_rule_acts_only_on_the_other_events():
    first = rule("first", match={"output_fields": ["a!=1"]}, **{"continue": False})
    conversion = imported([first, rule("second", match={"rules": ["R"]})])
    assert acting(conversion, alert(output_fields={"a": "1"})) == {"second"}
    assert acting(conversion, alert(output_fields={"a": "2"})) == {"first"}
    # Talon runs only the first rule. Its playbook does not act on a missing field, and the second must not act.
    assert acting(conversion, alert()) == set()


@pytest.mark.parametrize("text", ["<nil>", "<NA>", ""])
def test_a_rule_after_a_terminal_rule_with_not_absent_does_not_act_on_a_missing_field(text):
    first = rule("first", match={"output_fields": [f"a!={text}"]}, **{"continue": False})
    rules = [first, rule("second", match={"rules": ["R"]})]
    assert talon_acts(rules, alert()) == ["first"]
    assert acting(imported(rules), alert()) == set()


def test_an_event_without_the_field_of_a_terminal_rule_is_handled_by_the_next_rule():
    first = rule("first", match={"output_fields": ["a=1"]}, **{"continue": False})
    conversion = imported([first, rule("second", match={"rules": ["R"]})])
    assert acting(conversion, alert()) == {"second"}
    assert acting(conversion, alert(output_fields={"a": 1})) == {"first"}


@pytest.mark.parametrize(
    "match",
    [
        {"rule": ["R"]},
        {"rules": "R"},
        {"priority": "Wurning"},
        {"priority": ">=Info"},
        {"tags": ["a,,b"]},
        {"output_fields": ["proc.cmdline=a,b"]},
        {"output_fields": ["k8s.ns.name"]},
        {"output_fields": ["a!=b=c"]},
        {"output_fields": ["k8s.pod.name=<NA>"]},
        {"output_fields": {"a": "b"}},
        ["R"],
    ],
)
def test_a_playbook_with_a_lost_condition_has_mode_dry_run(match):
    conversion = imported([rule(match=match)])
    assert [f.severity for f in conversion.findings if f.severity == "error"]
    assert "  mode: dryRun\n" in conversion.playbooks["r"]
    assert acting(conversion, alert()) == set()


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ({"output_fields": ["proc.cmdline=a=b"]}, "Talon ignores `proc.cmdline=a=b`"),
        ({"output_fields": ["proc.cmdline!=a!b"]}, "Talon ignores `proc.cmdline!=a!b`"),
        ({"output_fields": ["a=b , c=d"]}, "the space in `a=b `"),
        ({"output_fields": ["k8s.pod.name!=<NA>"]}, "becomes `exists: true`"),
        ({"source": "syscalls"}, "`syscalls` becomes `syscall`"),
        ({"priority": ">="}, "has no priority name"),
        ({"rules": []}, "an empty `rules` does not exclude any event"),
        ({}, "matches every event"),
    ],
)
def test_a_part_that_works_differently_is_reported(match, message):
    conversion = imported([rule(match=match)])
    assert {finding.severity for finding in conversion.findings} == {"warning"}
    assert any(message in finding.what for finding in conversion.findings)
    assert "mode" not in conversion.playbooks["r"]
