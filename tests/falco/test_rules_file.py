"""The rules read from Falco's rules files are those that Falco would have in force."""

from __future__ import annotations

import json
import textwrap

import pytest
from engine.falco import rules_file
from engine.falco.condition import ConstantEvaluator
from engine.falco.rule import SUGGESTED_FIELDS
from engine.falco.rules_file import read_rules

RULE = """\
- rule: R
  desc: d
  condition: evt.type = open
  output: opened %fd.name
  priority: WARNING
  tags: [filesystem]
"""


@pytest.fixture
def read(tmp_path):
    """Read files with the given texts, in this order."""

    def read(*texts):
        files = []
        for n, text in enumerate(texts):
            file = tmp_path / f"{n}.yaml"
            file.write_text(textwrap.dedent(text))
            files.append(str(file))
        return read_rules(files)

    return read


def test_the_last_definition_of_a_rule_is_used(read):
    rules = read(RULE, RULE.replace("%fd.name", "%proc.name").replace("WARNING", "info")).rules
    assert rules["R"].output_fields == {"proc.name"}
    assert rules["R"].priority_name == "Informational"
    assert rules["R"].tags == {"filesystem"}
    assert rules["R"].event_fields >= SUGGESTED_FIELDS


def test_override_appends_the_keys_that_it_names(read):
    found = read(
        RULE,
        "- {rule: R, output: 'by %user.name', tags: [users], override: {output: append, tags: append}}",
    )
    assert found.rules["R"].output_fields == {"fd.name", "user.name"}
    assert found.rules["R"].tags == {"filesystem", "users"}
    assert found.findings == ()


def test_append_reads_only_the_condition(read):
    change = (
        "- {rule: R, append: true, condition: and never_true, output: 'by %user.name',"
        " tags: [users], priority: DEBUG, enabled: false}"
    )
    found = read(RULE, change)
    rule = found.rules["R"]
    assert (rule.output_fields, rule.tags, rule.priority_name, rule.enabled, rule.never_true) == (
        {"fd.name"}, {"filesystem"}, "Warning", True, True,
    )  # fmt: skip
    assert found.findings == ()
    (finding,) = read(RULE, "- {rule: R, append: true, tags: [users]}").findings
    assert "condition and exceptions" in finding.what


def test_override_replaces_the_keys_that_it_names(read):
    change = """\
        - rule: R
          output: by %user.name
          priority: Critical
          enabled: no
          override: {output: replace, priority: replace, enabled: replace}
        """
    rule = read(RULE, change).rules["R"]
    assert (rule.output_fields, rule.priority_name, rule.enabled) == (
        {"user.name"},
        "Critical",
        False,
    )


@pytest.mark.parametrize(("word", "enabled"), [("false", False), ("no", False), ("On", True)])
def test_an_item_without_condition_output_desc_and_priority_enables_or_disables_the_rule(
    read, word, enabled
):
    others = "tags: [other], source: syscall, exceptions: []"
    found = read(RULE, f"- {{rule: R, enabled: {word}, {others}}}")
    rule = found.rules["R"]
    assert (rule.enabled, rule.output_fields, rule.tags) == (enabled, {"fd.name"}, {"filesystem"})
    assert found.findings == ()
    found = read(RULE, "- {rule: R, tags: [other]}")
    assert (found.rules["R"].output_fields, found.rules["R"].tags) == ({"fd.name"}, {"filesystem"})
    assert [finding.code for finding in found.findings] == ["bad-rules-file"]


@pytest.mark.parametrize(
    "item",
    [
        "{rule: R, desc: d, condition: x, output: '%ka.verb', priority: INFO, source: k8s_audit}",
        "{rule: R, condition: or x, append: true, source: k8s_audit}",
        "{rule: R, output: '%ka.verb', override: {output: append}, source: k8s_audit}",
    ],
)
def test_an_item_with_another_source_is_refused(read, item):
    found = read(RULE, f"- {item}")
    assert (found.rules["R"].source, found.rules["R"].output_fields) == ("syscall", {"fd.name"})
    (finding,) = found.findings
    assert (finding.code, finding.hint) == ("bad-rules-file", "source: syscall")


def test_an_item_can_repeat_the_source(read):
    audited = (
        "- {rule: A, desc: d, condition: x, output: '%ka.verb', priority: INFO, source: k8s_audit}"
    )
    changes = """\
        - {rule: A, condition: or y, append: true, source: k8s_audit}
        - {rule: A, condition: or z, append: true}
        - {rule: A, output: '%ka.uri', override: {output: append}, source: k8s_audit}
        """
    found = read(audited, changes)
    assert (found.rules["A"].output_fields, found.findings) == ({"ka.verb", "ka.uri"}, ())


def test_override_defines_a_missing_macro_or_list(tmp_path):
    text = """\
        - {macro: m, condition: never_true, override: {condition: replace}}
        - {list: l, items: [], override: {items: append}}
        - {rule: R, desc: d, condition: m or proc.name in (l), output: o, priority: INFO}
        """
    (tmp_path / "falco_rules.yaml").write_text(textwrap.dedent(text))
    found = read_rules([str(tmp_path)])
    assert (found.rules["R"].never_true, found.findings) == (True, ())


def test_a_mistake_in_override_changes_nothing(read):
    change = "- {rule: R, output: '%user.name', tags: [x], override: {output: append}}"
    found = read(RULE, change)
    assert (found.rules["R"].output_fields, len(found.findings)) == ({"fd.name"}, 1)


def test_nested_lists_and_macros_are_evaluated_once_each():
    spent = []
    lists = {f"l{n}": [f"l{n - 1}"] * 2 for n in range(1, 23)} | {"l0": []}
    assert not ConstantEvaluator({}, lists, spent.append).can_be_true("proc.name in (l22)")
    assert sum(spent) < 100
    spent.clear()
    macros = {f"m{n}": f"m{n - 1} or m{n - 1}" for n in range(1, 41)} | {"m0": "never_true"}
    assert not ConstantEvaluator(macros, {}, spent.append).can_be_true("m40")
    assert sum(spent) < 1_000


@pytest.mark.parametrize(
    ("items", "line"),
    [
        ("- {macro: a, condition: &long '%s'}\n" + "- {macro: a, append: true, condition: *long}\n" * 90, None),
        ("- {list: a, items: &long [%s]}\n" + "- {list: a, append: true, items: *long}\n" * 90, None),
        ("- {macro: m, condition: &a '%s'}\n" + RULE.replace("%", "").replace("evt.type = open", "*a"), 2),
        ("- {rule: a, desc: d, condition: x, output: '%s', priority: INFO}\n", 1),
        ("customRules:\n" + "  a.yaml: &long '- {list: a, items: [%s]}'\n", 2),
    ],
)  # fmt: skip
def test_the_work_limit_is_an_error_at_its_location(tmp_path, monkeypatch, items, line):
    text = items % ("x, " * 1_000)
    monkeypatch.setattr(rules_file, "MAX_WORK", len(text) + 2_000)
    (tmp_path / "falco_rules.yaml").write_text(text)
    (finding,) = read_rules([str(tmp_path)]).findings
    assert (finding.severity, finding.code) == ("error", "bad-rules-file")
    assert finding.where.line > 1 if line is None else finding.where.line == line


def test_a_shipped_rule_can_be_changed_without_its_file(read):
    found = read("""\
        - {rule: Terminal shell in container, enabled: false}
        - {rule: Create Privileged Pod, output: '%ka.verb', override: {output: append}}
        """)
    assert not found.rules["Terminal shell in container"].enabled
    assert found.rules["Create Privileged Pod"].source == "k8s_audit"
    assert {"ka.verb", "ka.user.name"} <= found.rules["Create Privileged Pod"].output_fields
    assert found.findings == ()


def test_falcos_own_file_replaces_its_rules_in_the_catalogue(tmp_path):
    (tmp_path / "falco_rules.yaml").write_text(RULE)
    assert set(read_rules([str(tmp_path)]).rules) == {"R"}


EMPTY = "- {list: l, items: []}\n"
MACRO = "- {macro: m, condition: %s}\n"


@pytest.mark.parametrize(
    ("items", "never_true"),
    [
        ("- {list: x, items: []}", False),  # m is not defined
        (MACRO % "(never_true)", True),
        (MACRO % "(evt.num=0)", True),
        (MACRO % "not always_true", True),
        (MACRO % "not (k8s_audit_always_true)", True),
        (MACRO % "k8s_audit_never_true", True),
        (MACRO % "(jevt.rawtime=0)", True),
        (MACRO % "not jevt.rawtime exists", True),
        (MACRO % "not (json.rawtime exists)", True),
        (MACRO % "evt.num < 0", True),
        (MACRO % "evt.num<1", True),
        (MACRO % "evt.num <= 0", True),
        (MACRO % "evt.num == -1", True),
        (MACRO % "not evt.num != 0", True),
        (MACRO % "not evt.num >= 1", True),
        (MACRO % "evt.num <= 1", False),
        (MACRO % "evt.num < 100", False),
        (MACRO % "evt.num > 5", False),
        (MACRO % "evt.rawres < 0", False),
        (MACRO % "proc.name in ()", True),
        (MACRO % "(never_true)" + "- {macro: m, condition: or fd.num > 3, append: true}", False),
        (
            MACRO % "proc.name = a"
            + "- {macro: m, condition: (never_true), override: {condition: replace}}",
            True,
        ),
        (EMPTY + MACRO % "proc.name in (l)", True),
        (EMPTY + "- {list: k, items: [l]}\n" + MACRO % "not proc.name in (k)", False),
        (EMPTY + "- {list: l, items: [a], append: true}\n" + MACRO % "proc.name in (l)", False),
        (MACRO % "(m and never_true)", True),
        (MACRO % "(m or m)", False),
        (MACRO % "'(((never_true'", True),
        (MACRO % "'proc.cmdline contains \"and never_true\"'", False),
    ],
)
def test_a_condition_that_is_always_false_is_found(read, items, never_true):
    rule = RULE.replace("evt.type = open", "spawned and m and not user.name in (a, b)")
    assert read(items, rule).rules["R"].never_true is never_true


def test_falco_yaml_selects_rules_and_adds_fields(read):
    configuration = """\
        priority: notice
        rules:
          - disable: {rule: "*"}
          - enable: {tag: filesystem}
          - disable: {rule: S}
        append_output:
          - match: {source: syscall}
            extra_output: "%proc.cwd"
            extra_fields: [fd.rip, {custom: "%proc.name x"}]
          - match: {source: k8s_audit}
            extra_fields: [ka.verb]
        """
    other = RULE.replace("rule: R", "rule: S")
    low = RULE.replace("rule: R", "rule: Low").replace("WARNING", "DEBUG")
    rules = read(RULE, other, low, configuration).rules
    enabled = {name for name, rule in rules.items() if rule.enabled and "filesystem" in rule.tags}
    assert enabled & {"R", "S", "Low"} == {"R"}
    assert rules["R"].output_fields == {"fd.name", "proc.cwd", "fd.rip", "custom"}
    assert not rules["Terminal shell in container"].enabled


def test_an_item_that_falco_refuses_is_reported_at_its_location(tmp_path):
    file = tmp_path / "falco_rules.yaml"
    text = """\
        - rule: A
          condition: x
        - {macro: m, append: true, condition: y}
        - {rule: B, output: z, override: {output: append}}
        - {}
        - {list: l, items: [a]}
        - {list: l, items: [b], override: {condition: replace}}
        """
    file.write_text(textwrap.dedent(text))
    found = read_rules([str(file)])
    reported = [(finding.where.line, finding.what) for finding in found.findings]
    assert reported == [
        (1, "the rule has no desc and no output and no priority"),
        (3, "there is no earlier macro `m` to change"),
        (4, "there is no earlier rule `B` to change"),
        (5, "an item is a rule, a macro or a list"),
        (7, "`override` does not say how `items` changes"),
    ]
    assert {finding.severity for finding in found.findings} == {"warning"}


def test_macros_and_lists_of_falcos_own_file_can_be_changed_without_the_file(read):
    change = "- {macro: user_known_x, append: true, condition: or proc.name = a}"
    assert read(change, "- {list: l, items: [a], override: {items: append}}").findings == ()


@pytest.mark.parametrize(
    "text",
    [
        "- {rule: R, append: true, tags: 5, output: {a: 1}}",
        "- {rule: [R], condition: [x], output: 5, desc: {}, priority: [1]}",
        "- {rule: R, override: 7, output: a}",
        "- {list: l, items: {a: b}}",
        "append_output: {a: 1}\nrules: [1, {enable: 5}]\npriority: [x]",
        "append_output: [{match: 5, extra_fields: 7, extra_output: [a]}]",
        "falco: 5",
        "text",
    ],
)
def test_an_item_with_wrong_types_does_not_stop_the_rest(read, text):
    assert "R" in read(RULE, text).rules


EMBEDDED = """\
- rule: Embedded
  desc: d
  condition: x
  output: "%fd.name"
  priority: INFO
- {rule: Bad}
"""


@pytest.mark.parametrize(
    ("around", "line", "column"),
    [
        ("falco: {json_output: true}\ncustomRules:\n  a.yaml: |-\n%s", 9, 9),
        ("falco:\n  customRules:\n    a.yaml: |\n%s", 9, 9),
        ("kind: HelmRelease\nspec: {values: {customRules: {a: %s}}}", 2, 34),
        ("kind: ConfigMap\ndata:\n  a.yaml: |\n%s", 9, 9),
        ("kind: List\nitems:\n- kind: ConfigMap\n  data:\n    a.yml: |\n%s", 11, 9),
        ("kind: Rulesfile\nspec:\n  inlineRules: |-\n%s", 9, 9),
        ("kind: Rulesfile\nspec:\n  inlineRules:\n%s", 9, 9),
    ],
)
def test_rules_inside_another_document_are_read(read, around, line, column):
    text = json.dumps(EMBEDDED) if "{a: %s" in around else textwrap.indent(EMBEDDED, " " * 6)
    found = read(around % text)
    assert found.rules["Embedded"].output_fields == {"fd.name"}
    (finding,) = found.findings
    assert (finding.where.line, finding.where.column) == (line, column)


def test_a_syntax_error_in_an_embedded_text_has_its_location_in_the_file(read):
    (finding,) = read("customRules:\n  a.yaml: |\n    - rule: R\n      x: [\n").findings
    assert (finding.code, finding.severity, finding.where.line) == ("yaml-syntax", "error", 5)


@pytest.mark.parametrize(
    "text",
    [
        "rule: R\ncondition: x\n",
        "apiVersion: apps/v1\nkind: Deployment\n",
        "kind: ConfigMap\ndata: {note: hello}\n",
        "customRules: {}\n",
    ],
)
def test_a_mapping_without_rules_is_reported(read, text):
    (finding,) = read(text).findings
    assert (finding.code, finding.severity) == ("bad-rules-file", "warning")
    assert "no Falco rules" in finding.what


def test_a_file_that_is_not_yaml_is_an_error(read):
    (finding,) = read(RULE, "- rule: [").findings
    assert (finding.severity, finding.code) == ("error", "yaml-syntax")
