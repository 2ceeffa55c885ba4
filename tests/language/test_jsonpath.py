from __future__ import annotations

import time

import pytest
from engine.language.jsonpath import PathError, compile_path
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


@pytest.mark.parametrize(
    "path", ["$..*..*..*", "$..a..a..a..a", "$..[*]..[?(@.a == 1)]", "$..[?(@.a)]..[?(@.b)]"]
)
def test_a_path_over_a_big_hostile_alert_takes_linear_time(path):
    def seconds(size):
        deep = {"b": 1}
        for _ in range(90):
            deep = {"a": deep, "b": 1}
        alert = {"a": [deep] + [{"a": {"a": 1}, "b": [1, 2]} for _ in range(size)]}
        find = compile_path(path)
        began = time.process_time()
        find(alert)
        return time.process_time() - began

    seconds(100)
    assert seconds(16_000) < 20 * max(seconds(2_000), 0.005)
