from __future__ import annotations

import pytest
from engine.language.yaml_source import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, MAX_FINDINGS, read
from hypothesis import given, settings
from hypothesis import strategies as st


def data(text):
    documents, findings = read(text.encode(), "a.yaml")
    assert not findings
    (document,) = documents
    return document.data


def reported(text):
    content = text if isinstance(text, bytes) else text.encode()
    return [(f.code, f.where.line, f.where.column) for f in read(content, "a.yaml")[1]]


@given(st.binary(max_size=200))
def test_reading_bytes_never_raises(content):
    read(content, "a.yaml")


@settings(max_examples=100)
@given(st.text(alphabet="ab01:-?[]{}&*!|>'\"%#,<\n\t ~ye\\\ufeff\0\u2028", max_size=60))
def test_reading_text_never_raises(text):
    documents, findings = read(text.encode(), "a.yaml")
    for place in [f.where for f in findings]:
        assert place.line >= 1
        assert place.column >= 1
    for document in documents:
        for path in document.values:
            assert document.at(path).line <= text.count("\n") + text.count("\u2028") + 2


def test_plain_scalars_follow_yaml_1_2():
    text = (
        "[1, -2, 0x1F, 1.5, 1e3, true, False, ~, null, text, 2026-12-24T00:00:00Z, x86_64, <<, =]"
    )
    assert data(text) == [
        1, -2, 31, 1.5, 1000.0, True, False, None, None, "text", "2026-12-24T00:00:00Z", "x86_64",
        "<<", "=",
    ]  # fmt: skip


def test_quoted_and_block_scalars_are_text():
    assert data("a: '1'\nb: \"yes\"\nc: |\n  on\nd: ''") == {
        "a": "1", "b": "yes", "c": "on\n", "d": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    "word",
    [
        "yes", "No", "ON", "off", "y", "N", "010", "-07", "1:30", "0_1", "8_443", "1_0.5", "0x1_F",
        "-0x1F", "0o17", "0b101", "1_0e3", ".inf", "-.INF", ".nan",
    ],
)  # fmt: skip
def test_a_plain_word_with_different_meanings_is_a_trap(word):
    assert reported(f"a: {word}") == [("yaml-trap", 1, 4)]
    assert reported(f"a: [x, {word}]") == [("yaml-trap", 1, 8)]
    assert reported(f"a: '{word}'") == []
    assert reported(f"b: 1\n{word}: x") == [("yaml-trap", 2, 1)]


@pytest.mark.parametrize(
    "word", ["true", "yess", "0", "0.5", "10", "1:75", "a:b", "::1", "o", "0x1F", "1_a", "+.x"]
)
def test_a_plain_word_with_one_meaning_is_not_a_trap(word):
    assert reported(f"a: {word}") == []


def test_on_as_a_parameter_of_an_action_is_not_a_trap():
    assert reported("spec:\n  with: {on: pod}") == []
    assert reported("spec:\n  on: pod") == [("yaml-trap", 2, 3)]


def test_every_key_and_value_has_its_place():
    documents, _ = read(b"a:\n  - b: [1, x]\n---\n\nc: d\n", "f.yaml")
    first, second = documents
    assert str(first.at(("a", 0, "b"), key=True)) == "f.yaml:2:5"
    assert str(first.at(("a", 0, "b", 1))) == "f.yaml:2:12"
    assert str(first.at(("a", 0, "nothing", "there"))) == "f.yaml:2:5"
    assert str(second.at(("c",))) == "f.yaml:5:4"


def test_a_duplicate_key_is_reported_at_the_second_key():
    assert reported("a: 1\nb: {c: 1, c: 2}\na: 3") == [
        ("duplicate-key", 2, 11),
        ("duplicate-key", 3, 1),
    ]


def test_a_key_that_is_not_text_is_reported():
    assert reported("? [a]\n: b") == [("wrong-type", 1, 3)]


def test_own_keys_take_precedence_over_merged_keys_and_earlier_merges_over_later_ones():
    text = "- &a {x: 1, w: 1}\n- &b {x: 2, z: 2}\n- {w: 3, <<: [*a, *b]}"
    assert data(text)[2] == {"x": 1, "w": 3, "z": 2}


def test_an_own_key_before_the_merge_keeps_its_place():
    text = b"- &a {x: [p, q]}\n-\n  x: [r, s]\n  <<: *a\n"
    (document,), _ = read(text, "f")
    assert document.data[1] == {"x": ["r", "s"]}
    assert document.at((1, "x")).line == 3
    assert document.at((1, "x", 1)).line == 3


def test_a_second_merge_key_is_a_duplicate_key():
    text = "- &a {x: 1}\n- &b {x: 2}\n- <<: *a\n  <<: *b\n  w: 3\n"
    assert reported(text) == [("duplicate-key", 4, 3)]


def test_a_merge_of_a_value_that_is_not_a_mapping_is_reported():
    assert reported("a: {<<: [1]}") == [("wrong-type", 1, 9)]


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object:os.system x", "!foo {a: 1}", "a: !!binary aGk=", "!!set [a]", "!foo a: b",
        'a: !!int "8443"', "a: !!int 8443", "!!bool yes: b", "a: !!null x", "a: ! 1", "!!str {a: 1}",
        "a: !!seq x",
    ],
)  # fmt: skip
def test_tags_with_different_meanings_are_not_allowed(text):
    assert [code for code, *_ in reported(text)] == ["yaml-syntax"]


def test_a_tag_can_declare_text():
    assert data("!!map {a: !!str 010, b: !!str yes, !!str 8_443: !!seq [!!str 'x']}") == {
        "a": "010", "b": "yes", "8_443": ["x"],
    }  # fmt: skip


@pytest.mark.parametrize("letter", ["\x85", "\u2028", "\u2029"])
def test_a_line_break_of_yaml_1_1_is_a_trap_and_does_not_start_a_line(letter):
    text = f"a: 1  # é only watched{letter}b: 2\nc: yes\nd: 'x{letter}y'\n"
    documents, findings = read(text.encode(), "f")
    assert [(f.code, f.where.line, f.where.column) for f in findings] == [
        ("yaml-trap", 1, 23), ("yaml-trap", 3, 6), ("yaml-trap", 2, 4),
    ]  # fmt: skip
    assert documents[0].data == {"a": 1, "c": "yes", "d": "x y"}
    assert data(f'a: "\\u{ord(letter):04x}"') == {"a": letter}


def test_a_byte_order_mark_inside_a_file_is_reported():
    text = "a: 1\r\n\ufeff---\r\nb: 2\ufeff\r\n"
    documents, findings = read(b"\xef\xbb\xbf" + text.encode(), "f")
    assert [(f.code, f.where.line, f.where.column) for f in findings] == [
        ("yaml-syntax", 2, 1), ("yaml-syntax", 3, 5),
    ]  # fmt: skip
    assert [document.data for document in documents] == [{"a": 1}, {"b": 2}]


def test_a_control_character_is_reported_at_its_place():
    assert reported("a: 1\nb: é\x07\nc: yes\n") == [("yaml-syntax", 2, 5)]
    assert reported("\0" * 5_000) == [("yaml-syntax", 1, 1)]


def test_the_number_of_findings_about_characters_is_limited():
    found = reported("\u2028\n" * 200_000)
    assert len(found) == MAX_FINDINGS
    assert found[-1] == ("yaml-limit", MAX_FINDINGS, 1)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("spec:\n  mode: dryRun\n\u00a0\u00a0match: x\n", (3, 1)),
        ("spec:\n  - action: a\n  -\u00a0action: b\n", (3, 3)),
        ("a: \u00a0b\n", (1, 4)),
        ("a: b\u200b\n", (1, 4)),
    ],
)
def test_a_character_that_looks_like_a_space_is_reported(text, place):
    assert ("yaml-trap", *place) in reported(text) or ("yaml-syntax", *place) in reported(text)
    assert any("like a space" in f"{f.what} {f.hint}" for f in read(text.encode(), "f")[1])


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a:\n  text: %rule happened\n", 2, "quote"),
        ("a: @team\n", 1, "quote"),
        ("a: `x`\n", 1, "quote"),
        ("a: b: c\n", 1, "quote a text that contains `: `"),
        ("a: *nothing\n", 1, "there is no anchor &nothing before the alias *nothing"),
        ("a: &x 1\nb: &x [2]\n", 2, "there are two anchors of this name"),
        ("a: &x 1\n---\nb: *x\n", 3, "no anchor &x before the alias *x"),
        ("a: *\n", 1, "quote a text that begins with *"),
        ("a: b\n \u00a0 c: d\n", 2, "U+00A0, which looks like a space"),
    ],
)
def test_a_syntax_error_comes_with_a_hint(text, line, says):
    (finding,) = read(text.encode(), "f")[1]
    assert (finding.code, finding.where.line) == ("yaml-syntax", line)
    assert says in f"{finding.what} ({finding.hint})"


def test_an_empty_value_among_the_parameters_of_an_action_is_a_trap():
    text = "spec:\n  with:\n  actions: [{with: {labels: {team: , old: null, none: ~}}}]\n"
    assert reported(text) == [("yaml-trap", 3, 36)]


def test_the_documents_before_a_syntax_error_are_read():
    documents, findings = read(b"a: yes\n---\nb: [1\n---\nc: 2\n", "f")
    assert [document.data for document in documents] == [{"a": "yes"}]
    assert [f.code for f in findings] == ["yaml-syntax", "yaml-trap"]


def test_the_message_for_a_tab_says_to_use_spaces():
    (finding,) = read(b"a:\n\tb: 1\n", "f")[1]
    assert (finding.code, finding.where.line, finding.hint) == (
        "yaml-syntax", 2, "indent YAML with spaces",
    )  # fmt: skip


def test_text_that_is_not_utf_8_is_reported_at_its_place():
    assert reported(b"a: b\nc: \xff\n") == [("yaml-syntax", 2, 4)]
    assert data("\ufeffa: 1") == {"a": 1}


def test_text_over_a_limit_is_refused_before_it_is_composed():
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for text in (
        "[" * 200_000,
        "{a: " * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1),
        "- x\n" * 100_001,
        bomb,
        "&a [*a]",
        "#" * (MAX_BYTES + 1),
    ):
        documents, findings = read(text.encode(), "f")
        assert not documents
        assert [f.code for f in findings] == ["yaml-limit"]


def test_text_just_below_the_limits_is_read():
    assert data("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert data("a: &a [1, 2]\nb: *a")["b"] == [1, 2]
    assert data("9" * MAX_DIGITS) == int("9" * MAX_DIGITS)


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, "1e999", "-1e999"])
def test_a_number_that_is_too_large_is_reported(number):
    assert reported(f"a: {number}") == [("bad-value", 1, 4)]


def test_empty_documents_are_left_out():
    assert read(b"", "f") == ([], [])
    assert read(b"---\n---\n# nothing\n", "f") == ([], [])
