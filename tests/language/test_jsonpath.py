from __future__ import annotations

import pytest
from engine.language import jsonpath
from engine.language.jsonpath import (
    STEPS,
    STEPS_PER_VALUE,
    UNKNOWN,
    PathError,
    compile_path,
)
from hypothesis import given, settings
from hypothesis import strategies as st

ALERT = {
    "rule": "r",
    "tags": ["a", "b", "c"],
    "output_fields": {
        "proc.name": "curl",
        "proc.aname[2]": "sh",
        "n": 5,
        "list": [{"k": 1, "v": "x"}, {"k": 2, "v": "y"}, {"k": "2"}, {"v": None}],
    },
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$.rule", "r"),
        ("$.output_fields['proc.name']", "curl"),
        ("$['output_fields']['proc.aname[2]']", "sh"),
        ("$.tags[0]", "a"),
        ("$.tags[-1]", "c"),
        ("$.tags[7]", None),
        ("$.tags.x", None),
        ("$.no.such", None),
        ("$.rule.x[0]", None),
        ("$.tags[*]", ["a", "b", "c"]),
        ("$.tags[1:]", ["b", "c"]),
        ("$.tags[::2]", ["a", "c"]),
        ("$.no[*]", []),
        ("$..k", [1, 2, "2"]),
        ("$.output_fields.list[*].v", ["x", "y", None]),
        ("$.output_fields.list[?(@.k == 1)].v", ["x"]),
        ("$.output_fields.list[?(@.k != 1)].k", [2]),
        ("$.output_fields.list[?(@.k >= 1 & @.v == 'y')].k", [2]),
        ("$.output_fields.list[?(@.k < 'z')].k", ["2"]),
        ("$.output_fields.list[?(@.v)].k", [1, 2]),
    ],
)
def test_a_path_finds_one_value_or_a_list(path, found):
    assert compile_path(path)(ALERT) == found


@pytest.mark.parametrize(
    "path",
    [
        "", "rule", "$.", "$[", "$..", "$.a[?(@.b =~ '(a+)+$')]", "$.a + 1", "$.a * $.b",
        "$.a.`len`", "$.a.`sub(/x/, y)`", "$.a.`parent`", "$.a[::0]", "$.a[?(@.b == $.c)]",
        "$.a where b", "$.a | $.b", "$.a[?(@.b == true & @.c =~ 'x')]", "$." + "a." * 600 + "a",
        "$.a[\\`this\\`]", "$.a.`sorted`", "$" + "[?(@" * 100,
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_a_bad_path(path):
    with pytest.raises(PathError):
        compile_path(path)


@settings(max_examples=150)
@given(st.text(alphabet="$.[]*?@()'=~!<>&|`,:+-01ab ", max_size=20))
def test_any_text_is_a_path_or_a_bad_one(text):
    try:
        find = compile_path("$" + text)
    except PathError:
        return
    find(ALERT)


@pytest.fixture
def taken(monkeypatch):
    """The steps that evaluations take, one number each."""
    numbers = []

    class Counted(jsonpath._Steps):
        def __init__(self, value):
            super().__init__(value)
            numbers.append(0)

        def take(self, number):
            numbers[-1] += number
            super().take(number)

    monkeypatch.setattr(jsonpath, "_Steps", Counted)
    return numbers


def large(size):
    deep = {"b": 1}
    for _ in range(90):
        deep = {"a": deep, "b": 1}
    return {"a": [deep] + [{"a": {"a": 1}, "b": [1, 2]} for _ in range(size)]}


@pytest.mark.parametrize(
    "path",
    [
        "$..*..*..*..*", "$..a..a..a..a", "$..[*]..[?(@.a == 1)]", "$..[?(@.a)]..[?(@.b)]",
        "$..a[?(@.b[?(@.c)])]", "$..*" + ".*" * 27,
    ],
)  # fmt: skip
def test_a_path_over_a_large_hostile_alert_takes_a_linear_number_of_steps(path, taken):
    for size in (1_000, 8_000):
        assert compile_path(path)(large(size)) is not UNKNOWN
    assert taken[1] < 9 * taken[0] + STEPS


@pytest.mark.parametrize("path", ["$..*[?(@..*[?(@..x==1)])]", "$..*[?(@..*)]", "$..[?(@..c)]..x"])
def test_an_evaluation_ends_as_unknown_after_a_bounded_number_of_steps(path, taken):
    value = [{"c": 1} for _ in range(500)]
    for _ in range(85):
        value = {"a": value}
    assert compile_path(path)(value) is UNKNOWN
    values = 85 + 1 + 500 + 500
    assert taken[0] <= STEPS + STEPS_PER_VALUE * values + values


def test_a_name_or_index_that_is_given_twice_finds_its_value_once():
    value = {"a": {"a": ["x"]}}
    assert compile_path("$['a','a']['a','a'][0,0]")(value) == ["x"]


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("$..*[?(@..*[?(@..*[?(@..*[?(@..x==1)])])])]", "filters within one another"),
        ("$" + "..a" * 5, "times `..`"),
        ("$" + ".a" * 33, "parts"),
        ("$.a[?(@.b" + ".c" * 32 + " == 1)]", "parts"),
    ],
)
def test_a_path_is_bounded_when_it_is_loaded(path, what):
    with pytest.raises(PathError, match=what):
        compile_path(path)
