"""`check` warns of the parts of a playbook that no event of Falco's rules can match."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.falco import compatibility
from engine.falco.catalogue import catalogue
from engine.falco.fields import field_named

PLAYBOOK = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: p}
spec:
  match: %s
  conditions:
    - {field: k8s.ns.name, in: [demo]}
%s
  throttle: {once: 10m, key: [%s]}
  actions: [{action: pod.annotate, with: {annotations: {a: "%s"}}}]
"""
RULES = """\
- rule: Shell opened
  desc: d
  condition: evt.type = open
  output: a shell (%proc.name %user.uid %user.name)
  priority: NOTICE
  tags: [shell, container]
- rule: File written
  desc: d
  condition: evt.type = write
  output: a file (%fd.name)
  priority: ERROR
  tags: [filesystem]
- rule: Audited
  desc: d
  condition: ka.verb = get
  output: a call (%ka.user.name %ka.target.namespace)
  priority: WARNING
  source: k8s_audit
- rule: Off
  desc: d
  condition: evt.type = open
  output: off (%proc.name)
  priority: WARNING
  enabled: false
- rule: Template
  desc: d
  condition: evt.type = open and never_true
  output: off (%proc.name)
  priority: WARNING
"""


def check_command(*arguments):
    return CliRunner().invoke(cli, ["check", *arguments])


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return the warnings of a playbook as (line, code, message with hint); rules: with RULES or without."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/own.yaml").write_text(RULES)

    def check(match, conditions="", key="k8s.pod.name", text="x", *, rules=True):
        lines = "\n".join(f"    - {condition}" for condition in conditions.split("\n") if condition)
        (tmp_path / "p.yaml").write_text(PLAYBOOK % (match, lines, key, text))
        given = ["--rules", "rules"] if rules else []
        done = check_command("p.yaml", *given, "-o", "json")
        assert done.exit_code == 0, done.output
        return [
            (f["line"], f["code"], f"{f['message']} ({f['hint']})") for f in json.loads(done.stdout)
        ]

    return check


def codes(findings):
    return [code for _, code, _ in findings]


@pytest.mark.parametrize("rules", [True, False])
def test_a_playbook_that_matches_the_rules_has_no_warnings(check, rules):
    name = "Shell opened" if rules else "Terminal shell in container"
    conditions = (
        "{field: proc.name, equals: bash}\n{jsonPath: \"$.output_fields['user.uid']\", equals: 0}"
    )
    match = f'{{rules: ["{name}"], tags: [shell], sources: [syscall], priority: notice}}'
    assert check(match, conditions, text="%proc.name %container.id %rule %%", rules=rules) == []


def test_an_unknown_rule_is_reported_with_the_most_similar_name(check):
    ((line, code, what),) = check('{rules: ["Shell opend", "File written"]}')
    assert (line, code) == (5, "unknown-rule")
    assert "`Shell opend`" in what
    assert "(Shell opened)" in what


def test_a_glob_that_matches_no_rule_is_reported(check):
    assert codes(check('{rules: ["Shel? *", "Zhell*"]}')) == ["unknown-rule"]


def test_the_warning_about_a_shipped_rule_outside_the_given_files_names_its_file(check):
    ((_, code, what),) = check('{rules: ["Create Privileged Pod"]}')
    assert code == "unknown-rule"
    assert "k8s_audit_rules.yaml" in what


def test_rules_of_falcos_own_file_are_known_without_the_file(check):
    assert (
        check('{rules: ["Terminal shell in container", "Falco internal: syscall event drop"]}')
        == []
    )


def test_without_rules_files_only_a_name_similar_to_a_shipped_rule_is_reported(check):
    match = '{rules: ["Terminal shel in container", "My own rule", "Terminal shell in container"]}'
    ((_, code, what),) = check(match, "{field: customer, equals: a}", rules=False)
    assert code == "unknown-rule"
    assert "Terminal shell in container" in what


@pytest.mark.parametrize("name", ["Off", "Template"])
def test_a_rule_that_never_sends_events_is_reported(check, name):
    assert codes(check(f'{{rules: ["{name}", "Shell opened"]}}')) == ["disabled-rule"]


def test_a_rule_that_is_shipped_disabled_is_reported_if_it_is_the_only_rule(check):
    off = next(
        rule.name for rule in catalogue().values() if not rule.enabled and rule.source == "syscall"
    )
    assert codes(check(f'{{rules: ["{off}"]}}', rules=False)) == ["disabled-rule"]
    both = f'{{rules: ["{off}", "Terminal shell in container"]}}'
    assert check(both, rules=False) == []


@pytest.mark.parametrize(
    ("key", "has"),
    [
        ("sources: [k8s_audit]", "source syscall"),
        ("priority: error", "priority Notice"),
        ("tags: [network]", "tags [container, shell]"),
        ("tags: {all: [shell, network]}", "tags"),
        ("tags: {none: [shell]}", "tags"),
    ],
)
def test_a_key_that_excludes_all_rules_is_reported(check, key, has):
    ((line, code, what),) = check(f'{{rules: ["Shell opened"], {key}}}')
    assert (line, code) == (5, "never-matches")
    assert has in what


def test_a_key_that_excludes_one_rule_is_reported_at_that_rule(check):
    ((_, code, what),) = check('{rules: ["Shell opened", "File written"], priority: error}')
    assert code == "never-matches"
    assert "priority Notice" in what


def test_a_tag_that_no_rule_has_is_reported(check):
    assert codes(check("{tags: [mitre_nothing]}")) == ["never-matches"]
    assert check("{tags: [mitre_nothing]}", rules=False) == []


@pytest.mark.parametrize(
    ("condition", "lines"),
    [
        ("{field: fd.name, equals: a}", [8]),
        ("{jsonPath: \"$.output_fields['fd.name']\", equals: a}", [8]),
        ("not: {field: fd.name, equals: a}", [8]),
        ("all: [{field: proc.name, equals: a}, {field: fd.name, equals: a}]", [8]),
        ("any: [{field: fd.sip, equals: a}, {field: fd.name, equals: a}]", [8, 8]),
        ("any: [{field: proc.name, equals: a}, {field: fd.name, equals: a}]", []),
        ("{field: fd.name, exists: false}", []),
        ("{field: customer, equals: a}", []),
    ],
)
def test_a_condition_on_a_field_that_the_rule_does_not_print_is_reported(check, condition, lines):
    found = check('{rules: ["Shell opened"]}', condition)
    assert [(line, code) for line, code, _ in found] == [(n, "unprinted-field") for n in lines]


def test_a_field_that_one_of_the_rules_prints_is_accepted(check):
    assert check('{rules: ["Shell opened", "File written"]}', "{field: fd.name, equals: a}") == []


def test_the_hint_for_a_mistyped_field_is_the_right_field(check):
    ((_, _, what),) = check('{rules: ["Shell opened"]}', "{field: proc.nam, equals: a}")
    assert "(proc.name)" in what


def test_fields_that_falco_adds_to_syscall_events_are_not_in_plugin_events(check):
    found = check('{rules: ["Audited"]}')
    assert [(line, code) for line, code, _ in found] == [
        (7, "unprinted-field"),
        (9, "unprinted-field"),
    ]


def test_throttle_keys_and_templates_are_checked(check):
    found = check('{rules: ["Shell opened"]}', key="fd.name, customer", text="%fd.name %{fd.name}")
    assert [(line, code) for line, code, _ in found] == [
        (9, "unprinted-field"),
        (10, "unprinted-field"),
    ]
    assert "<NA>" in found[1][2]


@pytest.mark.parametrize(
    ("condition", "reported"),
    [
        ('{field: user.uid, equals: "0"}', True),
        ('{field: user.uid, in: [1, "0"]}', False),
        ('{field: user.uid, in: ["1", "0"]}', True),
        ("{field: user.uid, equals: true}", True),
        ("{field: user.uid, equals: root}", True),
        ("{field: fd.sport, startswith: '44'}", True),
        ("{field: proc.name, gt: 5}", True),
        ("{field: proc.name, in: [1, bash]}", False),
        ("{field: 'proc.aname[2]', equals: 5}", True),
        ("{field: ct.readonly, equals: true}", True),
        ("{field: ka.req.pod.host_network, notEquals: false}", True),
        ("{field: 'ka.req.pod.containers.privileged', intersects: [true]}", True),
        ("{jsonPath: \"$.output_fields['ct.readonly']\", equals: true}", True),
        ("{field: s3.bytes, equals: '7'}", True),
        ("{field: k8smeta.pod.uid, equals: 7}", True),
        ("{field: container.privileged, equals: 1}", True),
        ("{field: evt.is_open_write, exists: true}", False),
        ("{field: evt.rawarg.fd, equals: 7}", False),
        ("{field: customer, equals: 7}", False),
        ("{field: user.uid, equals: 0}", False),
        ('any: [{not: {field: fd.sport, notEquals: "443"}}]', True),
        ('{field: container.privileged, equals: "true"}', True),
        ("{field: container.privileged, equals: true}", False),
        ("{field: ka.response.code, equals: 200}", True),
        ('{field: ka.response.code, equals: "200"}', False),
        ('{field: proc.name, equals: "7"}', False),
    ],
)
def test_an_operand_of_another_type_than_the_field_is_reported(check, condition, reported):
    found = check("{rules: [My own]}", condition, rules=False)
    assert codes(found) == (["quoted-number"] if reported else [])


@pytest.mark.parametrize(
    ("field", "near"),
    [
        ("k8s.pod.nam", "k8s.pod.name"),
        ("proc.cmdlin", "proc.cmdline"),
        ("prc.aname[2]", "proc.aname[2]"),
        ("ka.req.pod.containers.image.repositry", "ka.req.pod.containers.image.repository"),
        ("k8smeta.pod.naem", "k8smeta.pod.name"),
        ("container.image.respository", "container.image.repository"),
        ("proc.name[2]", "proc.name"),
        ("acme.tenant", None),
    ],
)
def test_a_field_that_falco_does_not_have_is_reported_in_every_place(check, field, near):
    for match in (
        "{tags: [shell]}",
        '{rules: ["Terminal *"]}',
        '{rules: ["My own"]}',
        "{sources: [x]}",
    ):
        conditions = (
            f"{{field: '{field}', exists: false}}\n"
            f"any: [{{jsonPath: \"$.output_fields['{field}']\", equals: a}}, {{field: customer, exists: true}}]"
        )
        found = check(match, conditions, key=f"'{field}'", text=f"x %{{{field}}}", rules=False)
        assert [(line, code) for line, code, _ in found] == [
            (line, "unknown-field") for line in (8, 9, 10, 11)
        ]
        assert all(f"`{field}`" in what and f"({near})" in what for _, _, what in found)


def test_fields_that_other_components_add_are_accepted(check):
    fields = (
        "static.cluster", "cluster", "evt.arg.flags", "proc.aname[2]", "proc.aname_2", "evt.time.iso8601",
        "k8s.pod.label[app.kubernetes.io/name]", "k8s.ns.label.team", "ka.uri.param[command]",
        "jevt.value[/a/b]", "json.value[/x]", "k8smeta.ns.labels", "docker.action", "falco.version",
        "k8s.deployment.name", "proc.env[HOME]", "fd.types", "ka.req.pod.containers.image[0]",
    )  # fmt: skip
    conditions = "\n".join(f"{{field: '{field}', exists: false}}" for field in fields)
    assert check("{tags: [shell]}", conditions, rules=False) == []


def test_a_field_that_a_given_rule_prints_is_known(check, tmp_path):
    (tmp_path / "rules").mkdir(exist_ok=True)
    rule = "- {rule: T, desc: d, condition: x, output: '%acme.tenant', priority: INFO}\n"
    (tmp_path / "rules/acme.yaml").write_text(
        f"{rule}---\nappend_output: [{{extra_fields: [acme.zone]}}]\n"
    )
    read = "{field: acme.tenant, exists: true}\n{field: acme.zone, equals: a}"
    assert check("{rules: [T]}", read) == []


def test_a_field_in_a_template_that_also_names_a_step_is_checked(tmp_path):
    (tmp_path / "p.yaml").write_text(
        "apiVersion: tiercel.dev/v1\nkind: Playbook\nmetadata: {name: p}\nspec:\n"
        "  match: {rules: [R]}\n  throttle: {once: 1m}\n  actions:\n"
        "    - {action: pod.label, name: mark, with: {labels: {a: b}}}\n"
        '    - {action: kubernetes.event, with: {message: "%steps.mark.state %k8s.pod.nam %rule"}}\n'
    )
    done = check_command(str(tmp_path / "p.yaml"), "-o", "json")
    found = [(f["line"], f["code"], f["hint"]) for f in json.loads(done.stdout)]
    assert found == [(9, "unknown-field", "k8s.pod.name")]


@pytest.mark.parametrize(
    ("path", "reported"),
    [
        ("$.output_fields.proc.name", True),
        ("$.output_fields['proc']['name']", True),
        ("$.output_fields['proc.name']", False),
        ("$.output_fields['ka.user.groups'][0]", False),
        ("$.output_fields.acme.name", False),
    ],
)
def test_a_path_that_splits_a_field_name_is_reported(check, path, reported):
    found = check("{rules: [X]}", f'{{jsonPath: "{path}", in: [a]}}', rules=False)
    assert [(line, code) for line, code, _ in found] == ([(8, "unknown-field")] if reported else [])
    assert not reported or "$.output_fields['proc.name']" in found[0][2]


def test_one_unknown_source_or_tag_in_a_list_is_reported(check):
    names = 'rules: ["Shell opened", "File written"]'
    ((_, code, what),) = check(f"{{{names}, sources: [syscall, syscal]}}")
    assert (code, "(syscall)" in what) == ("never-matches", True)
    ((_, code, what),) = check(f"{{{names}, tags: [shell, filesystem, filesystm, acme]}}")
    assert (code, "(filesystem)" in what) == ("never-matches", True)
    assert check("{sources: [internal]}") == []


def test_a_key_that_excludes_all_rules_does_not_hide_unprinted_fields(check):
    found = check('{rules: ["Shell opened"], tags: [soc]}', "{field: fd.name, equals: a}")
    assert codes(found) == ["never-matches", "unprinted-field"]


def test_the_number_of_searches_for_similar_words_is_limited(check, monkeypatch):
    searched = []
    monkeypatch.setattr(compatibility, "nearest_field", searched.append)
    conditions = "\n".join(f"{{field: proc.x{n}, exists: true}}" for n in range(300))
    assert len(check("{tags: [a]}", conditions, rules=False)) == 300
    assert len(searched) == 200


def test_a_syntax_error_in_a_rules_file_is_reported_at_its_location(check, tmp_path):
    check("{everything: true}")
    (tmp_path / "rules/broken.yaml").write_text("\n- rule: [\n")
    done = check_command("p.yaml", "--rules", "rules")
    assert done.exit_code == 1
    assert "rules/broken.yaml:3:1: error" in done.output


def test_an_empty_folder_of_rules_is_a_usage_error(check, tmp_path):
    check("{everything: true}")
    (tmp_path / "none").mkdir()
    done = check_command("p.yaml", "--rules", "none")
    assert done.exit_code == 2
    assert "none" in done.output


def test_a_silence_is_checked(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "apiVersion: tiercel.dev/v1\nkind: Silence\nmetadata: {name: s}\nspec:\n"
        "  match: {rules: [Terminal shel in container]}\n"
        "  until: 2100-01-01T00:00:00Z\n  owner: me\n  comment: c\n"
    )
    done = check_command(str(tmp_path / "s.yaml"), "-o", "json")
    assert [f["code"] for f in json.loads(done.stdout)] == ["unknown-rule"]


def test_a_long_field_name_is_looked_up_in_linear_time():
    def seconds(length):
        started = time.process_time()
        for _ in range(20):
            assert field_named("a." * length) is None
        return time.process_time() - started

    assert field_named("proc.aname[2]" + "a." * 400_000) is field_named("proc.aname[2]")
    assert seconds(20_000) < 100 * seconds(100)  # 40,000 times if each prefix is looked up
