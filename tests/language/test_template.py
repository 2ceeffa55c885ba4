from __future__ import annotations

import pytest
from engine.event import parse
from engine.language.report import Findings
from engine.language.source import Document
from engine.language.template import LONGEST, Facts, TemplateError, compile_template
from engine.language.values import put_in
from hypothesis import given
from hypothesis import strategies as st

ALERT = {
    "rule": "Shell %priority",
    "priority": "warning",
    "time": "2026-03-01T10:00:00.500Z",
    "hostname": "worker-1",
    "tags": ["a", "b"],
    "output": "it says",
    "output_fields": {
        "k8s.pod.name": "web-0",
        "k8s.pod.name.log": "one field",
        "proc.aname[2]": "sh",
        "k8s.pod.label[app.kubernetes.io/name]": "web",
        "a.b": "<NA>",
        "proc.pid": 18446744073709551615,
        "is.open": True,
        "thread.cpu": 1.5,
        "thread.all": 2.0,
        "ka.list": ["x", 1, None, [True]],
        "ka.object": {"k": "v"},
        "with space.x": "yes",
        "null.null": None,
        "empty.list": [],
        "again.again": "%rule %{rule} %%",
    },
}
STEPS = {"pod.isolate": ("done", "cut"), "mark": ("failed", "no")}
FACTS = Facts("isolate", "0123", "done", STEPS)


def render(text, escape=None, alert=ALERT):
    return compile_template(text, tuple(STEPS)).render(parse(alert), FACTS, escape)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plain", "plain"), ("", ""), ("%", "%"), ("5% %1 %. % a", "5% %1 %. % a"), ("%%rule", "%rule"),
        ("%rule", "Shell %priority"), ("%priority", "Warning"), ("%time", "2026-03-01T10:00:00.5Z"),
        ("%hostname %source", "worker-1 syscall"), ("%tags", "a, b"), ("%output", "it says"),
        ("%playbook", "isolate"), ("%run.id %run.outcome", "0123 done"),
        ("%steps.pod.isolate.state: %steps.mark.message", "done: no"),
        ("%k8s.pod.name", "web-0"), ("%k8s.pod.name.", "web-0."), ("%k8s.pod.name/x", "web-0/x"),
        ("%k8s.pod.name.log", "one field"), ("%{k8s.pod.name}.log", "web-0.log"),
        ("%proc.aname[2]x", "shx"), ("%k8s.pod.label[app.kubernetes.io/name]", "web"),
        ("%{with space.x}", "yes"), ("%k8s.pod.name-1", "web-0-1"), ("%{rule}s", "Shell %prioritys"),
        ("%a.b %null.null %no.such %empty.list", "<NA> <NA> <NA> <NA>"),
        ("%proc.pid", "18446744073709551615"), ("%is.open", "true"), ("%thread.cpu", "1.5"),
        ("%thread.all", "2"), ("%ka.list", "x, 1, <NA>, true"), ("%ka.object", '{"k":"v"}'),
        ("%again.again", "%rule %{rule} %%"),
    ],
)  # fmt: skip
def test_a_template_becomes_what_the_event_says(text, said):
    assert render(text) == said


@pytest.mark.parametrize(
    "text",
    [
        "%nothing", "%k8s", "%{}", "%{rule", "%{", "%Rule", "%steps.other.state", "%steps.mark.answer",
        "%steps.mark", "%run.other", "a %rulez b",
    ],
)  # fmt: skip
def test_a_word_that_is_none_is_an_error(text):
    with pytest.raises(TemplateError):
        compile_template(text, tuple(STEPS))


def test_what_an_event_lacks_is_absent():
    bare = {"rule": "r"}
    assert render("%priority %hostname %tags %output", alert=bare) == "<NA> <NA> <NA> <NA>"
    assert render("%time", alert=bare) == "2000-01-01T00:00:00Z"


def test_a_long_value_is_cut_and_the_rest_of_the_text_stays():
    fields = {"a.long": "x" * 200_000, "a.fits": "y" * LONGEST}
    said = render("<%a.long|%a.fits>", alert={"rule": "r", "output_fields": fields})
    assert said == f"<{'x' * (LONGEST - 1)}…|{'y' * LONGEST}>"
    assert LONGEST == 4096


def test_only_what_the_event_says_is_escaped():
    assert render("<%a.x>", str.upper, {"rule": "r", "output_fields": {"a.x": "b<"}}) == "<B<>"


def test_a_list_nested_as_deep_as_an_event_may_be_renders():
    value = ["x"]
    for _ in range(98):
        value = [value]
    assert render("%a.b", alert={"rule": "r", "output_fields": {"a.b": value}}) == "x"


@given(st.text(max_size=40))
def test_any_text_is_a_template_or_an_error(text):
    try:
        template = compile_template(text)
    except TemplateError:
        return
    template.render(parse(ALERT), FACTS)


@given(st.text(max_size=60))
def test_what_an_event_says_is_replaced_once(text):
    said = render("%a.b", alert={"rule": "r", "output_fields": {"a.b": text}})
    assert said == (text if text not in ("", "<NA>") else "<NA>")


def put(data, **values):
    report = Findings(Document("a.yaml", data))
    return put_in(data, values, (), report), [f.code for f in report.found]


def test_values_are_put_into_strings():
    assert put("a-${env}-${db.host}", env="prod", db={"host": "h"}) == ("a-prod-h", [])
    assert put({"k": ["${n}", "${n}s"]}, n=5) == ({"k": [5, "5s"]}, [])
    assert put("${map}", map={"a": [1]}) == ({"a": [1]}, [])
    assert put("${on} is ${on}", on=True) == ("true is true", [])
    assert put("$${env} $env $", env="x") == ("${env} $env $", [])


def test_a_value_is_not_looked_into_again():
    assert put("${a}", a="${b}", b="x") == ("${b}", [])
    assert put("${a}!", a="${b}", b="x") == ("${b}!", [])


def test_a_missing_value_is_told_where_it_is_wanted():
    for text in ("${a}", "x${a}", "${b.c}", "${b.d.e}", "${", "${}"):
        assert put(text, b={"d": 1})[1] == ["missing-value"]
    assert put("x${b}", b={"d": 1})[1] == ["wrong-type"]
