"""`check --coverage` lists which playbooks answer which Falco rules."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli

RULES = """\
- rule: Shell opened
  desc: d
  condition: evt.type = open
  output: a shell (%proc.name)
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
  output: a call (%ka.user.name)
  priority: WARNING
  source: k8s_audit
- rule: Off
  desc: d
  condition: evt.type = open
  output: off (%proc.name)
  priority: WARNING
  enabled: false
"""


def coverage(tmp_path, *arguments):
    files = {"enforce": "a", "dryRun": "b", "notify": "c", "disabled": "d"}
    for mode, name in files.items():
        (tmp_path / f"{name}.yaml").write_text(
            "apiVersion: tiercel.dev/v1\nkind: Playbook\n"
            f"metadata: {{name: {name}}}\nspec:\n  mode: {mode}\n"
            "  match: {rules: ['Shell *', 'Off'], tags: [shell], priority: notice}\n"
            "  conditions: [{field: k8s.ns.name, in: [demo]}]\n  throttle: {once: 1m}\n"
            "  actions: [{action: pod.label, with: {labels: {a: b}}},"
            " {action: slack.post, with: {webhook: {fromSecret: s}, text: x}}]\n"
        )
    playbooks = [str(tmp_path / f"{name}.yaml") for name in files.values()]
    return CliRunner().invoke(cli, ["check", *playbooks, "--coverage", *arguments])


def test_coverage_lists_the_rules_with_the_playbooks_that_answer_them(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/rules.yaml").write_text(RULES)
    done = coverage(tmp_path, "--rules", str(tmp_path / "own"), "-o", "json")
    found = json.loads(done.stdout)
    assert set(found) == {"findings", "rules", "unanswered"}
    (row,) = found["rules"]
    assert (row["rule"], row["effect"], row["source"]) == ("Shell opened", "mark", "syscall")
    assert [tuple(answer.values()) for answer in row["playbooks"]] == [
        ("a", "enforce", "mark", False, None),
        ("b", "dryRun", "none", False, None),
        ("c", "notify", "notify", False, None),
    ]
    # without disabled rules, and without the rules of Falco's own file, which was not given
    assert found["unanswered"] == ["Audited", "File written"]
    text = coverage(tmp_path, "--rules", str(tmp_path / "own")).stdout
    assert "mark           Shell opened a, b (dryRun), c (notify)\n" in text
    assert "2 rules that no playbook answers:\n  Audited\n  File written\n" in text


def test_coverage_without_rules_files_lists_the_rules_of_falcos_own_file_and_counts_the_others(
    tmp_path,
):
    text = coverage(tmp_path).stdout
    assert "  Terminal shell in container\n" in text
    assert " of k8s_audit_rules.yaml (--rules FILE lists them)" in text
    assert "Create Privileged Pod" not in text
    assert len(json.loads(coverage(tmp_path, "-o", "json").stdout)["unanswered"]) > 200
    assert coverage(tmp_path, "-o", "sarif").exit_code == 2


def one(tmp_path, name, actions, **spec):
    """Return what --coverage says about a playbook for the rule `Shell opened`, as JSON and as text."""
    (tmp_path / "own").mkdir(exist_ok=True)
    (tmp_path / "own/rules.yaml").write_text(RULES)
    match = {"rules": ["Shell opened"]}
    throttle = {"once": "1m"}
    spec = {"match": match, "throttle": throttle, "actions": actions} | spec
    document = {
        "apiVersion": "tiercel.dev/v1",
        "kind": "Playbook",
        "metadata": {"name": name},
        "spec": spec,
    }
    file = tmp_path / f"{name}.yaml"
    file.write_text(json.dumps(document))
    command = ["check", str(file), "--coverage", "--rules", str(tmp_path / "own")]
    found = json.loads(CliRunner().invoke(cli, [*command, "-o", "json"]).stdout)
    return found, CliRunner().invoke(cli, command).stdout


LABEL = {"action": "pod.label", "with": {"labels": {"a": "b"}}}
ISOLATE = {"action": "pod.isolate"}
ASK = {"action": "approval.wait"}
SLACK = {"action": "slack.post", "with": {"webhook": {"fromSecret": "s"}, "text": "x"}}


@pytest.mark.parametrize(
    ("actions", "effect", "asks"),
    [
        ([SLACK, ASK, ISOLATE], "disrupt", True),
        ([ISOLATE, ASK, ISOLATE | {"name": "again"}], "disrupt", False),
        ([ISOLATE, ASK, LABEL], "disrupt", False),
        ([LABEL, ASK, SLACK], "mark", False),
        ([ASK, LABEL], "mark", True),
        ([SLACK, ASK], "notify", False),
    ],
)
def test_coverage_shows_whether_the_strongest_effect_needs_an_approval(
    tmp_path, actions, effect, asks
):
    found, text = one(tmp_path, "p", actions)
    (row,) = found["rules"]
    assert (row["effect"], row["asks"]) == (effect, asks)
    assert ("p (asks)" in text) is asks


def test_a_step_of_finally_does_not_wait_for_an_approval(tmp_path):
    found, _ = one(tmp_path, "p", [ASK, SLACK], **{"finally": [LABEL]})
    assert (found["rules"][0]["effect"], found["rules"][0]["asks"]) == ("mark", False)


def test_a_disabled_playbook_is_an_answer_if_it_says_why(tmp_path):
    why = "No action,\n  because deployments do this.\n"
    found, text = one(tmp_path, "quiet", [SLACK], mode="disabled", description=why)
    (row,) = found["rules"]
    assert (row["effect"], row["playbooks"][0]["reason"]) == ("none", "deployments do this.")
    assert "none           Shell opened quiet (no action)\n" in text
    assert "no action, because\n  quiet: deployments do this.\n" in text
    for other in ("", "Nothing to do", "No action, because"):
        found, _ = one(tmp_path, "quiet", [SLACK], mode="disabled", description=other)
        assert found["rules"] == []
        assert "Shell opened" in found["unanswered"]
