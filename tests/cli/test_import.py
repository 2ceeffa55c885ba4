from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.talon.actionners import ACTIONNERS

PAGE = (Path(__file__).parents[2] / "docs/migrate-from-talon.md").read_text()
BLOCKS = dict(
    zip(("rules", "playbook"), re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL), strict=True)
)
MESSAGES = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1]
CONVERTIBLE = """\
- rule: r
  match: {rules: [R]}
  actions: [{action: Mark, actionner: "kubernetes:label", parameters: {labels: {a: b}}}]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.yaml").write_text(BLOCKS["rules"])
    (tmp_path / "good.yaml").write_text(CONVERTIBLE)
    return tmp_path


def tiercel(*arguments, stdin=None):
    return CliRunner().invoke(cli, arguments, stdin, prog_name="tiercel", catch_exceptions=False)


def test_the_example_of_the_page_gives_the_result_on_the_page():
    result = tiercel("import", "talon", "rules.yaml")
    assert result.stdout == BLOCKS["playbook"]
    assert result.stderr == MESSAGES
    assert result.exit_code == 1


def test_the_page_names_every_actionner_with_its_action():
    rows = {row for row in PAGE.splitlines() if row.startswith("| `")}
    missing = [
        name
        for name, actionner in ACTIONNERS.items()
        if not any(f"`{name}`" in row and f"`{actionner.action}`" in row for row in rows)
    ]
    assert missing == []


def test_a_complete_conversion_exits_0_and_loads(folder):
    result = tiercel("import", "talon", "good.yaml")
    assert (result.exit_code, result.stderr) == (
        0, "1 playbook, 0 errors, 0 warnings.\n",
    )  # fmt: skip
    (folder / "p.yaml").write_text(result.stdout)
    assert tiercel("check", "p.yaml").exit_code == 0


def test_warnings_change_the_exit_code_only_with_strict(folder):
    (folder / "good.yaml").write_text(CONVERTIBLE + "  notifiers: [k8sevents]\n")
    assert tiercel("import", "talon", "good.yaml").exit_code == 0
    assert tiercel("import", "talon", "good.yaml", "--strict").exit_code == 3
    assert tiercel("import", "talon", "rules.yaml", "--strict").exit_code == 1


def test_out_writes_one_file_per_playbook_and_does_not_overwrite(folder):
    (folder / "good.yaml").write_text(CONVERTIBLE + CONVERTIBLE.replace("rule: r", "rule: s"))
    result = tiercel("import", "talon", "good.yaml", "--out", "mine/deep")
    assert (result.exit_code, result.stdout) == (0, "mine/deep/r.yaml\nmine/deep/s.yaml\n")
    assert tiercel("check", "mine").exit_code == 0
    (folder / "mine/deep/s.yaml").unlink()
    (folder / "mine/deep/r.yaml").write_text("edited")
    again = tiercel("import", "talon", "good.yaml", "--out", "mine/deep")
    assert again.exit_code == 2
    assert "mine/deep/r.yaml already exists" in again.stderr
    assert not (folder / "mine/deep/s.yaml").exists()
    assert (folder / "mine/deep/r.yaml").read_text() == "edited"
    assert tiercel("import", "talon", "good.yaml", "--out", "mine/deep", "--force").exit_code == 0
    assert "kind: Playbook" in (folder / "mine/deep/r.yaml").read_text()


def test_json_has_playbooks_and_findings():
    result = tiercel("import", "talon", "rules.yaml", "-o", "json")
    found = json.loads(result.stdout)
    assert [playbook["name"] for playbook in found["playbooks"]] == ["shell-in-a-container"]
    assert [(f["line"], f["severity"]) for f in found["findings"]] == [
        (11, "warning"), (15, "error"), (18, "warning"),
    ]  # fmt: skip
    assert result.exit_code == 1


def test_invalid_yaml_gives_no_playbook_and_a_missing_file_is_a_usage_error(folder):
    (folder / "good.yaml").write_text("- rule: [\n")
    result = tiercel("import", "talon", "good.yaml", "--out", "mine")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("good.yaml:2:1: error:")
    assert not (folder / "mine").exists()
    missing = tiercel("import", "talon", "none.yaml")
    assert (missing.exit_code, missing.stderr.splitlines()[0]) == (
        2,
        "none.yaml: No such file or directory",
    )


def test_a_dash_reads_stdin():
    assert "name: r\n" in tiercel("import", "talon", "-", stdin=CONVERTIBLE).stdout
