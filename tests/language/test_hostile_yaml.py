"""``check`` refuses hostile YAML with one clear finding."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.language.findings import MAX_ERRORS
from engine.language.folder import Files

from tests.support.playbooks import new_loader

HEAD = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: a}
spec:
  match: {rules: [R]}
"""
GOOD = HEAD + "  actions: [{action: pod.label, with: {labels: {a: b}}}]\n"
BODY = (
    "  actions:\n    - action: http.request\n      with:\n        url: https://h\n        body:\n"
)
TEST = "apiVersion: tiercel.dev/v1\nkind: PlaybookTest\nmetadata: {name: t}\nspec:\n"


def bomb(indent=""):
    """Return a billion laughs: nine nested lists of nine aliases."""
    lines = [f"{indent}l0: &l0 [x, x]"]
    lines += [f"{indent}l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(lines) + "\n"


def check(folder, **files):
    """Return the findings of a folder with these files. `.yaml` is added to their names."""
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / f"{name}.yaml").write_bytes(raw)
    result = CliRunner().invoke(cli, ["check", "-o", "json", str(folder)], catch_exceptions=False)
    found = [(f["file"].rpartition("/")[2], f["code"]) for f in json.loads(result.stdout)]
    assert result.exit_code == (1 if found else 0)
    return found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a", bomb()),
        ("a", HEAD + BODY + bomb(" " * 10)),
        ("values", bomb()),
        ("t", TEST + bomb("  ")),
        ("a", "l0: &l0 {a: 1}\n" + "l1: &l1 {<<: [" + "*l0, " * 60_000 + "]}\n"),
    ],
    ids=["document", "with", "values", "test", "merge"],
)
def test_a_billion_laughs_is_refused(tmp_path, name, text):
    found = check(tmp_path, **({"ok": GOOD} | {name: text}))
    assert found == [(f"{name}.yaml", "yaml-limit")]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "a: ["])
@pytest.mark.parametrize("name", ["a", "values"])
def test_deep_nesting_is_refused(tmp_path, name, opening):
    text = opening * (200_000 // len(opening))
    ((file, code),) = check(tmp_path, **({"ok": GOOD} | {name: text}))
    assert (file, code) in ((f"{name}.yaml", "yaml-limit"), (f"{name}.yaml", "yaml-syntax"))


@pytest.mark.parametrize("name", ["a", "values", "kustomization"])
def test_a_huge_file_is_not_read(tmp_path, name):
    with (tmp_path / f"{name}.yaml").open("wb") as file:
        file.truncate(1 << 40)  # a sparse file, larger than the memory
    found = check(tmp_path, ok=GOOD)
    limit = [(f"{name}.yaml", "yaml-limit")]
    assert found == ([] if name == "kustomization" else limit)


@pytest.mark.parametrize(
    "value",
    ['!!python/object/apply:os.system "touch owned"', "!!binary aGk=", "!secret x"],
)
def test_a_tag_does_not_create_an_object(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    assert check(tmp_path, a=GOOD + f"  description: {value}\n") == [("a.yaml", "yaml-syntax")]
    assert not (tmp_path / "owned").exists()


def test_a_hundred_thousand_documents_are_refused(tmp_path):
    assert check(tmp_path, a="---\na\n" * 100_001) == [("a.yaml", "yaml-limit")]


def test_a_hundred_thousand_keys_are_refused(tmp_path):
    text = "".join(f"k{n}: \n" for n in range(100_000))
    assert check(tmp_path, a=text) == [("a.yaml", "yaml-limit")]


def test_only_the_first_of_thousands_of_unknown_keys_are_reported(tmp_path):
    text = GOOD + "".join(f"  k{n}: \n" for n in range(20_000))
    assert check(tmp_path, a=text) == [
        *[("a.yaml", "unknown-key")] * MAX_ERRORS,
        ("a.yaml", "too-many-mistakes"),
    ]


def test_thousands_of_steps_are_refused(tmp_path):
    text = HEAD + "  actions:\n" + "    - action: pod.lable\n" * 10_000
    found = check(tmp_path, a=text)
    assert ("a.yaml", "bad-value") in found
    assert ("a.yaml", "too-many-mistakes") in found
    assert len(found) == MAX_ERRORS + 1


@pytest.mark.parametrize(
    "content",
    [
        GOOD.encode() + b"\0",
        GOOD.encode() + b"# \xff\n",
        GOOD.encode() + b"# \xed\xa0\x80\n",
        GOOD.encode("utf-16"),
        GOOD.encode("utf-16-le"),
        GOOD.encode("utf-32"),
        GOOD.encode() + b"# \x1b[2J\n",
    ],
    ids=["NUL", "not UTF-8", "surrogate", "UTF-16", "UTF-16 without BOM", "UTF-32", "escape"],
)
def test_bytes_that_are_not_text_are_reported(tmp_path, content):
    assert check(tmp_path, a=content) == [("a.yaml", "yaml-syntax")]


def test_a_byte_order_mark_at_the_start_is_allowed(tmp_path):
    assert check(tmp_path, a="\ufeff" + GOOD) == []


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ("v: " + "x" * 900_000, '  description: "' + "${v}" * 1_000 + '"\n'),
        (
            "v: [" + "x, " * 90_000 + "]",
            "  conditions:\n" + '    - {field: a, in: "${v}"}\n' * 1_000,
        ),
    ],
    ids=["text", "list"],
)
def test_the_size_of_substituted_values_is_limited(tmp_path, values, line):
    assert check(tmp_path, a=GOOD + line, values=values) == [("a.yaml", "yaml-limit")]


@pytest.mark.parametrize(
    "line",
    [
        '  conditions: [{field: a, glob: "' + "[" * 500_000 + '"}]\n',
        '  conditions: [{field: a, regex: "' + "(" * 500_000 + '"}]\n',
        '  finally: [{action: kubernetes.event, with: {message: "' + "%{" * 400_000 + '"}}]\n',
        '  throttle: {once: 1m, key: ["' + "?*" * 400_000 + '"]}\n',
    ],
    ids=["glob", "regex", "template", "name"],
)
def test_a_long_value_is_refused_with_a_short_message(tmp_path, line):
    assert len(check(tmp_path, a=GOOD + line)) == 1


def test_a_rule_name_that_is_too_long_for_a_glob_is_refused(tmp_path):
    text = GOOD.replace("[R]", '["' + "?*" * 400_000 + '"]')
    assert check(tmp_path, a=text) == [("a.yaml", "bad-value")]


def test_at_most_a_thousand_yaml_findings_are_reported(tmp_path):
    findings = check(tmp_path, a="a: [" + ", ".join(["!x 1"] * 2_000) + "]\n")
    assert len(findings) == 1_001
    assert findings[-1] == ("a.yaml", "yaml-limit")


def test_more_than_a_thousand_documents_are_refused(tmp_path):
    assert check(tmp_path, a="a\n---\n" * 1_001) == [("a.yaml", "yaml-limit")]


@pytest.mark.parametrize(
    "rest",
    [
        "  actions:\n" + "    - {action: pod.labl}\n" * 900,
        "  actions:\n" + '    - {action: pod.label, with: {labels: {"b ad": "%x"}}}\n' * 900,
        "  conditions:\n"
        + '    - {field: f, regex: "a(b"}\n' * 900
        + "  actions: [{action: pod.delete}]\n",
    ],
)
def test_the_number_of_errors_per_document_is_limited(rest):
    found = new_loader().load(
        Files(
            "",
            {
                "p.yaml": (HEAD + rest).encode(),
                "q.yaml": GOOD.replace("name: a", "name: good").encode(),
            },
        )
    )
    assert len(found.errors) == MAX_ERRORS + 1
    assert found.errors[-1].code == "too-many-mistakes"
    assert [playbook.name for playbook in found.playbooks] == ["good"]


@pytest.mark.parametrize(
    "rest",
    [
        "  conditions:\n"
        + "    - {field: f, exists: true}\n" * 1001
        + "  actions: [{action: pod.delete}]\n",
        "  actions:\n"
        + "".join(f"    - {{action: pod.delete, name: n{n}}}\n" for n in range(1001)),
    ],
)
def test_very_long_lists_are_refused(rest):
    (error,) = new_loader().load(Files("", {"p.yaml": (HEAD + rest).encode()})).errors
    assert error.code == "bad-value"
    assert "more than 1,000" in error.what


def test_a_long_list_of_operands_is_allowed():
    operands = ", ".join(f"v{n}" for n in range(50_000))
    text = f"{HEAD}  conditions: [{{field: f, in: [{operands}]}}]\n  actions: [{{action: pod.delete}}]\n"
    assert not new_loader().load(Files("", {"p.yaml": text.encode()})).errors
