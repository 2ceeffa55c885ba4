from __future__ import annotations

import subprocess
import sys

import pytest
from engine.language import jsonpath
from engine.language.conditions import compile_conditions
from engine.language.findings import Findings, TooManyFindingsError
from engine.language.jsonpath import (
    BASE_STEPS,
    STEPS_PER_VALUE,
    UNKNOWN,
    PathError,
    compile_path,
)
from engine.language.yaml_source import Document
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
def test_a_path_finds_a_value_or_a_list(path, found):
    assert compile_path(path)(ALERT) == found


@pytest.mark.parametrize(
    "path",
    [
        "", "rule", "$.", "$[", "$..", "$.a[?(@.b =~ '(a+)+$')]", "$.a + 1", "$.a * $.b",
        "$.a.`len`", "$.a.`sub(/x/, y)`", "$.a.`parent`", "$.a[::0]", "$.a[?(@.b == $.c)]",
        "$.a where b", "$.a | $.b", "$.a[?(@.b == true & @.c =~ 'x')]", "$." + "a." * 600 + "a",
        "$.a[\\`this\\`]", "$.`this`", "$.a.`this`.b", "$.a.`sorted`", "$" + "[?(@" * 100,
    ],
)  # fmt: skip
def test_a_feature_that_is_not_allowed_is_a_path_error(path):
    with pytest.raises(PathError):
        compile_path(path)


def test_long_paths_count_as_large_expressions():
    path = "$.a[?(" + " & ".join(f"@.b=={n}" for n in range(90)) + ")]"
    paths = [{"jsonPath": f"{path}.c{n}", "exists": True} for n in range(200)]
    with pytest.raises(TooManyFindingsError):
        compile_conditions(paths, ("c",), Findings(Document("a.yaml", None)))
    singular = [{"jsonPath": f"$.a{n}" + ".b" * 30, "exists": True} for n in range(1_000)]
    assert compile_conditions(singular, ("c",), Findings(Document("a.yaml", None)))


SEGMENTS = [
    ".a", ".a_b", ".nullx", ".null", ".where", ".contains", ".True", "['a.b']", '["x y"]', "['*']",
    "['null']", "['a,b']", "['a[2]']", "['ü']", "['\\n']", "[0]", "[-3]", "[12]",
]  # fmt: skip


@settings(max_examples=80)
@given(st.lists(st.sampled_from(SEGMENTS), max_size=5))
def test_singular_paths_have_the_same_keys_as_in_jsonpath_ng(segments):
    text = "$" + "".join(segments)
    keys = jsonpath._read_singular(text)
    assert keys is None or keys == jsonpath._singular_keys(jsonpath._parse(text))


def test_singular_paths_do_not_import_jsonpath_ng():
    code = (
        "import sys; from engine.language.jsonpath import compile_path;"
        """ compile_path("$.output_fields['json.value'].a[-1].b"); """
        "sys.exit('jsonpath_ng' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@settings(max_examples=80)
@given(st.text(alphabet="$.[]*?@()'=~!<>&|`,:+-01ab ", max_size=20))
def test_any_text_is_a_path_or_a_path_error(text):
    try:
        find = compile_path("$" + text)
    except PathError:
        return
    find(ALERT)


@pytest.fixture
def taken(monkeypatch):
    """The number of steps of each evaluation."""
    numbers = []

    class Counted(jsonpath._StepBudget):
        def __init__(self, value):
            super().__init__(value)
            numbers.append(0)

        def take(self, number):
            numbers[-1] += number
            super().take(number)

    monkeypatch.setattr(jsonpath, "_StepBudget", Counted)
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
    for size in (250, 2_000):
        assert compile_path(path)(large(size)) is not UNKNOWN
    assert taken[1] < 9 * taken[0] + BASE_STEPS


@pytest.mark.parametrize("path", ["$..*[?(@..*[?(@..x==1)])]", "$..*[?(@..*)]", "$..[?(@..c)]..x"])
def test_an_evaluation_that_exceeds_its_budget_is_unknown(path, taken):
    value = [{"c": 1} for _ in range(500)]
    for _ in range(85):
        value = {"a": value}
    assert compile_path(path)(value) is UNKNOWN
    values = 85 + 1 + 500 + 500
    assert taken[0] <= BASE_STEPS + STEPS_PER_VALUE * values + values


def test_a_repeated_name_or_index_finds_its_value_once():
    value = {"a": {"a": ["x"]}}
    assert compile_path("$['a','a']['a','a'][0,0]")(value) == ["x"]


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("$..*[?(@..*[?(@..*[?(@..*[?(@..x==1)])])])]", "nested filters"),
        ("$" + "..a" * 5, "`..` at most"),
        ("$" + ".a" * 33, "segments"),
        ("$.a[?(@.b" + ".c" * 32 + " == 1)]", "segments"),
    ],
)
def test_the_size_of_a_path_is_limited_when_it_is_compiled(path, what):
    with pytest.raises(PathError, match=what):
        compile_path(path)
