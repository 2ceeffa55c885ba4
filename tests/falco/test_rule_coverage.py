"""`check --coverage` lists which playbooks answer which Falco rules."""

from __future__ import annotations

import json

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
        ("a", "enforce", "mark"), ("b", "dryRun", "none"), ("c", "notify", "notify"),
    ]  # fmt: skip
    # without disabled rules, and without the rules of Falco's own file, which was not given
    assert found["unanswered"] == ["Audited", "File written"]
    text = coverage(tmp_path, "--rules", str(tmp_path / "own")).stdout
    assert "mark     Shell opened a, b (dryRun), c (notify)\n" in text
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
