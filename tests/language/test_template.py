from __future__ import annotations

import re
from re import _constants as codes
from re import _parser

import pytest
from engine.language import substitution, template
from engine.language.findings import Findings
from engine.language.substitution import read_values, substitute
from engine.language.template import (
    MAX_NAMES,
    MAX_VALUE,
    TemplateContext,
    TemplateError,
    compile_template,
)
from engine.language.yaml_source import Document, read
from engine.model.event import parse_event
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
        "cluster": "blue",
        "Rule": "a field",
        "run.other": "another field",
        "rule": "hidden by the word",
        "again.again": "%rule %{rule} %%",
    },
}
STEPS = {"pod.isolate": ("done", "cut"), "mark": ("failed", "no")}
ANSWERS = {
    "mark": {
        "id": 7,
        "state": "open",
        "items": [{"id": "a"}],
        "the id": "x",
        "a-b": [1, 2],
        "o": {"k": None},
    },
    "pod.isolate": [{"answer": {"x": "deep"}}],
}
CONTEXT = TemplateContext("isolate", "0123", "done", STEPS, answers=ANSWERS)


def render(text, escape=None, alert=ALERT):
    return compile_template(text, tuple(STEPS)).render(parse_event(alert), CONTEXT, escape)


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
        ("%again.again", "%rule %{rule} %%"), ("in %{cluster}: %{Rule}", "in blue: a field"),
        ("%{nothing} %{run.other} %{run.id}", "<NA> another field 0123"),
        ("%steps.mark.answer.id/%steps.mark.answer.state", "7/open"),
        ("%steps.mark.answer.items[0].id.", "a."), ("%{steps.mark.answer['the id']}-", "x-"),
        ("%{steps.mark.answer.a-b}", "1, 2"), ("%steps.pod.isolate.answer[0].answer.x", "deep"),
        ("%steps.mark.answer.no.such %steps.mark.answer.items[9]", "<NA> <NA>"),
        ("%steps.mark.answer.id.x %steps.mark.answer.o.k %steps.mark.answer[0]", "<NA> <NA> <NA>"),
        ("%{steps.mark.state}", "failed"), ("%cluster.x[%proc.aname[2]", "<NA>[sh"),
    ],
)  # fmt: skip
def test_a_template_renders_values_of_the_event(text, said):
    assert render(text) == said


@pytest.mark.parametrize(
    "text",
    [
        "%nothing", "%k8s", "%{}", "%{rule", "%{", "%Rule", "%steps.other.state", "%steps.mark.answer",
        "%steps.other.answer.id", "%{steps.other.answer.id}", "%steps.mark", "%run.other",
        "a %rulez b", "%{steps.other.state}", "%{a{b}", "%cluster",
    ],
)  # fmt: skip
def test_an_unknown_word_is_an_error(text):
    with pytest.raises(TemplateError):
        compile_template(text, tuple(STEPS))


def test_a_preview_renders_a_part_of_an_answer_that_it_does_not_know_as_its_name():
    template = compile_template("n-%steps.mark.answer.items[0].id", tuple(STEPS))
    context = TemplateContext(steps=STEPS, planned={"mark"})
    assert template.render(parse_event(ALERT), context) == "n-steps.mark.answer.items[0].id"
    assert template.fields == ()


def test_a_missing_value_renders_as_absent():
    bare = {"rule": "r"}
    assert render("%priority %hostname %tags %output", alert=bare) == "<NA> <NA> <NA> <NA>"
    assert render("%time", alert=bare) == "2000-01-01T00:00:00Z"


def test_only_long_values_are_truncated():
    fields = {"a.long": "x" * 200_000, "a.fits": "y" * MAX_VALUE}
    said = render("<%a.long|%a.fits>", alert={"rule": "r", "output_fields": fields})
    assert said == f"<{'x' * (MAX_VALUE - 1)}…|{'y' * MAX_VALUE}>"
    assert MAX_VALUE == 4096


def test_only_values_are_escaped():
    assert render("<%a.x>", str.upper, {"rule": "r", "output_fields": {"a.x": "b<"}}) == "<B<>"


def test_a_deeply_nested_list_renders():
    value = ["x"]
    for _ in range(98):
        value = [value]
    assert render("%a.b", alert={"rule": "r", "output_fields": {"a.b": value}}) == "x"


def test_a_long_list_is_rendered_only_up_to_the_limit():
    shown = []

    class Item(str):
        __slots__ = ()

        def __len__(self):
            shown.append(1)
            return super().__len__()

    event = parse_event({"rule": "r"})
    event.fields["a.b"] = [Item("x")] * 100_000
    said = compile_template("%a.b").render(event, CONTEXT)
    assert len(said) == MAX_VALUE
    assert said.startswith("x, x")
    assert len(shown) < 2 * MAX_VALUE


def test_the_number_of_names_in_a_template_is_limited():
    compile_template("%a.b " * MAX_NAMES)
    with pytest.raises(TemplateError):
        compile_template("%a.b " * MAX_NAMES + "%rule")


def test_the_length_of_a_name_is_limited():
    longest = "a." * 499 + "ab"
    assert compile_template(f"%{{{longest}}}").fields == (longest,)
    for name in (f"{longest}c", "a." * 400_000 + "b", "steps" + ".answer.a" * 100_000):
        for text in (f"%{name}", f"%{{{name}}}"):
            with pytest.raises(TemplateError, match="too long"):
                compile_template(text)


def test_the_fields_of_a_template_are_the_names_that_are_not_words():
    text = "%rule %{cluster} %a.b %run.id %steps.mark.state %{rule}"
    assert compile_template(text, tuple(STEPS)).fields == ("cluster", "a.b")


def crossing(tree, before=None):
    """Return the literals of an expression that an unbounded repeat after them can also match."""
    for code, value in tree:
        inner = value[2] if code is codes.MAX_REPEAT and value[1] is codes.MAXREPEAT else ()
        while len(inner) == 1 and inner[0][0] is codes.SUBPATTERN:
            inner = inner[0][1][-1]
        one = len(inner) == 1 and inner[0][0] in (codes.IN, codes.NOT_LITERAL)
        letters = re.compile(_class_of(inner)) if one else None
        if before is not None and letters and letters.fullmatch(before):
            yield before
        for part in value if isinstance(value, tuple) else ():
            for branch in part if isinstance(part, list) else [part]:
                if isinstance(branch, _parser.SubPattern):
                    yield from crossing(branch, before)
        before = chr(value) if code is codes.LITERAL else None


def _class_of(inner):
    """Return the expression of one character of a parsed set or its negation."""
    code, value = inner[0]
    if code is codes.NOT_LITERAL:
        return f"[^{re.escape(chr(value))}]"
    words = {codes.NEGATE: lambda _: "^", codes.LITERAL: lambda c: re.escape(chr(c))}
    words[codes.RANGE] = lambda ends: "-".join(re.escape(chr(end)) for end in ends)
    return f"[{''.join(words[kind](part) for kind, part in value)}]"


@pytest.mark.parametrize("module", [template, substitution], ids=["template", "values"])
def test_the_text_between_delimiters_ends_at_the_next_delimiter(module):
    """Otherwise each unclosed delimiter would scan the rest of the text."""
    assert list(crossing(_parser.parse(r"%(a(?:\[[^]]*])*)"))) == ["["]
    assert list(crossing(_parser.parse(module._REFERENCE.pattern))) == []


@given(st.text(max_size=40))
def test_any_text_is_a_template_or_an_error(text):
    try:
        template = compile_template(text)
    except TemplateError:
        return
    template.render(parse_event(ALERT), CONTEXT)


@given(st.text(max_size=60))
def test_a_rendered_value_is_not_evaluated_again(text):
    said = render("%a.b", alert={"rule": "r", "output_fields": {"a.b": text}})
    assert said == (text if text not in ("", "<NA>") else "<NA>")


def put(data, **values):
    findings = Findings(Document("a.yaml", data))
    return substitute(data, values, (), findings), [f.code for f in findings.entries]


def test_values_are_substituted_in_strings():
    assert put("a-${env}-${db.host}", env="prod", db={"host": "h"}) == ("a-prod-h", [])
    assert put({"k": ["${n}", "${n}s"]}, n=5) == ({"k": [5, "5s"]}, [])
    assert put("${map}", map={"a": [1]}) == ({"a": [1]}, [])
    assert put("${on} is ${on}", on=True) == ("true is true", [])
    assert put("$${env} $env $", env="x") == ("${env} $env $", [])


def test_a_substituted_value_is_not_substituted_again():
    assert put("${a}", a="${b}", b="x") == ("${b}", [])
    assert put("${a}!", a="${b}", b="x") == ("${b}!", [])


def test_a_missing_value_is_reported_where_it_is_used():
    for text in ("${a}", "x${a}", "${b.c}", "${b.d.e}", "${", "${}"):
        assert put(text, b={"d": 1})[1] == ["missing-value"]
    assert put("x${b}", b={"d": 1})[1] == ["wrong-type"]


@pytest.mark.parametrize("text", ["shop-${a}", "${a}", "${b}", "${b.x}", "${c}"])
def test_a_value_with_null_is_reported_where_it_is_used(text):
    assert put(text, a=None, b={"x": None, "y": "z"}, c=[None])[1] == ["missing-value"]
    assert put("${b.y}", b={"x": None, "y": "z"}) == ("z", [])


def test_values_cannot_refer_to_values():
    text = b"a: x\nb: ['in-${a}', '$${a}', $a]\nc: ${\n"
    (document,), _ = read(text, "values.yaml")
    given, found = read_values(document)
    assert given == {"a": "x", "b": ["in-${a}", "${a}", "$a"], "c": "${"}
    assert [(f.code, f.where.line, f.where.column) for f in found] == [
        ("bad-value", 2, 5), ("bad-value", 3, 4),
    ]  # fmt: skip
