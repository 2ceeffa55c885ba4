"""Falco's rules files come to the rules that Falco itself would have in force."""

from __future__ import annotations

import textwrap

import pytest
from engine.falco.catalogue import FOLDER, catalogue, table
from engine.falco.rule import SUGGESTED, fields_of
from engine.falco.rules_file import read_rules
from rules.refresh_catalogue import refresh

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
    """What files of the given texts come to; they are read in this order."""

    def read(*texts):
        files = []
        for n, text in enumerate(texts):
            file = tmp_path / f"{n}.yaml"
            file.write_text(textwrap.dedent(text))
            files.append(str(file))
        return read_rules(files)

    return read


@pytest.mark.parametrize(
    ("output", "fields"),
    [
        ("a %proc.name b %fd.name.", {"proc.name", "fd.name"}),
        ("%proc.aname[2] %ka.uri.param[command]", {"proc.aname[2]", "ka.uri.param[command]"}),
        ("%k8s.pod.label[app.kubernetes.io/name]", {"k8s.pod.label[app.kubernetes.io/name]"}),
        ("%20proc.name", {"proc.name"}),
        ("%tolower(proc.name) %toupper( %b64(fd.name))", {"proc.name", "fd.name"}),
        ('%join(", a.b", proc.name, proc.aname[2]) x.y', {"proc.name", "proc.aname[2]"}),
        ("%container.info 100 % %tolower(", set()),
    ],
)
def test_the_fields_that_an_output_prints(output, fields):
    assert set(fields_of(output)) == fields


def test_a_rule_is_what_its_last_definition_says(read):
    rules = read(RULE, RULE.replace("%fd.name", "%proc.name").replace("WARNING", "info")).rules
    assert rules["R"].printed == {"proc.name"}
    assert rules["R"].priority_name == "Informational"
    assert rules["R"].tags == {"filesystem"}
    assert rules["R"].fields >= SUGGESTED


@pytest.mark.parametrize(
    "change",
    [
        "- {rule: R, append: true, output: 'by %user.name', tags: [users]}",
        "- {rule: R, output: 'by %user.name', tags: [users], override: {output: append, tags: append}}",
    ],
)
def test_what_is_appended_is_added(read, change):
    found = read(RULE, change)
    assert found.rules["R"].printed == {"fd.name", "user.name"}
    assert found.rules["R"].tags == {"filesystem", "users"}
    assert found.findings == ()


def test_what_is_replaced_is_gone(read):
    change = """\
        - rule: R
          output: by %user.name
          priority: Critical
          enabled: no
          override: {output: replace, priority: replace, enabled: replace}
        """
    rule = read(RULE, change).rules["R"]
    assert (rule.printed, rule.priority_name, rule.enabled) == ({"user.name"}, "Critical", False)


@pytest.mark.parametrize(("word", "enabled"), [("false", False), ("no", False), ("On", True)])
def test_an_item_with_enabled_alone_is_a_switch(read, word, enabled):
    rule = read(RULE, f"- rule: R\n  enabled: {word}\n").rules["R"]
    assert (rule.enabled, rule.printed) == (enabled, {"fd.name"})


def test_a_rule_that_falco_ships_can_be_changed_without_its_file(read):
    found = read("""\
        - {rule: Terminal shell in container, enabled: false}
        - {rule: Create Privileged Pod, append: true, output: '%ka.verb'}
        """)
    assert not found.rules["Terminal shell in container"].enabled
    assert found.rules["Create Privileged Pod"].source == "k8s_audit"
    assert {"ka.verb", "ka.user.name"} <= found.rules["Create Privileged Pod"].printed
    assert found.findings == ()


def test_falcos_own_file_replaces_what_the_catalogue_knows_of_it(tmp_path):
    (tmp_path / "falco_rules.yaml").write_text(RULE)
    assert set(read_rules([str(tmp_path)]).rules) == {"R"}


EMPTY = "- {list: l, items: []}\n"
MACRO = "- {macro: m, condition: %s}\n"


@pytest.mark.parametrize(
    ("items", "never"),
    [
        ("- {list: x, items: []}", False),  # m is defined nowhere
        (MACRO % "(never_true)", True),
        (MACRO % "(evt.num=0)", True),
        (MACRO % "not always_true", True),
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
def test_a_rule_whose_condition_can_never_hold_is_known(read, items, never):
    rule = RULE.replace("evt.type = open", "spawned and m and not user.name in (a, b)")
    assert read(items, rule).rules["R"].never is never


def test_falcos_configuration_selects_and_adds(read):
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
    assert rules["R"].printed == {"fd.name", "proc.cwd", "fd.rip", "custom"}
    assert not rules["Terminal shell in container"].enabled


def test_what_falco_would_refuse_is_told_at_its_place(tmp_path):
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
    told = [(finding.where.line, finding.what) for finding in found.findings]
    assert told == [
        (1, "the rule has no output and no desc and no priority"),
        (3, "there is no macro `m` before it to change"),
        (4, "there is no rule `B` before it to change"),
        (5, "an item is a rule, a macro or a list"),
        (7, "`override` does not say how `items` changes"),
    ]
    assert {finding.severity for finding in found.findings} == {"warning"}


def test_macros_and_lists_of_falcos_own_file_can_be_changed_without_it(read):
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
def test_whatever_a_file_holds_the_rest_is_read(read, text):
    assert "R" in read(RULE, text).rules


def test_a_file_that_is_no_yaml_is_an_error(read):
    (finding,) = read(RULE, "- rule: [").findings
    assert (finding.severity, finding.code) == ("error", "yaml-syntax")


def test_the_catalogue_has_what_falco_and_its_plugins_ship():
    rules = catalogue()
    assert len(rules) == 242
    assert rules["Terminal shell in container"].where.file == "falco_rules.yaml"
    sources = {rule.source for rule in rules.values()}
    assert sources == {"syscall", "k8s_audit", "aws_cloudtrail", "okta", "github", "gcp_auditlog"}


def test_the_catalogue_is_made_from_rules_files(tmp_path):
    (tmp_path / "x_rules.yaml").write_text(RULE)
    refreshed = tmp_path / "x.tsv"
    assert refresh("upstream 1234", refreshed, [str(tmp_path / "x_rules.yaml")]) == 1
    assert refreshed.read_text().splitlines() == [
        "# upstream 1234",
        "rule\tpriority\tsource\ttags\toutput_fields\tenabled\tfile",
        "R\tWarning\tsyscall\tfilesystem\tfd.name\ttrue\tx_rules.yaml",
    ]


def test_a_table_of_the_catalogue_is_written_as_it_was_read():
    file = FOLDER / "falco_rules.tsv"
    origin = file.read_text().splitlines()[0].removeprefix("# ")
    rules = [r for r in catalogue().values() if f"\t{r.where.file}\n" in file.read_text()]
    assert table(rules, origin) == file.read_text()
