"""The tutorial, followed step by step: its files are saved, its commands run, and its output is real."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from click.testing import CliRunner
from engine.cli.command_group import cli

PAGE = (Path(__file__).parents[2] / "docs/tutorial.md").read_text()
STEP = re.compile(r"`(my-playbooks/[^`]+)`[^`]*```(?:json|yaml)\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"```sh\n(tiercel .*?)\n```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


def test_the_files_and_commands_of_the_tutorial_give_the_output_that_it_shows(
    tmp_path, monkeypatch
):
    files = STEP.findall(PAGE)
    assert [name for name, _ in files] == [
        "my-playbooks/events/shell.json",
        "my-playbooks/mark-shells.yaml",
        "my-playbooks/mark-shells.test.yaml",
    ]
    for name, text in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    commands = COMMAND.findall(PAGE)
    assert {line.split()[1] for line, _ in commands} == {
        "check",
        "explain",
        "plan",
        "test",
        "replay",
    }
    for line, shown in commands:
        done = CliRunner().invoke(cli, shlex.split(line)[1:], prog_name="tiercel")
        assert done.exit_code == 0, done.output
        assert shown.strip("\n") in done.stdout
