"""The GitHub Action and the pre-commit hooks of the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"] if "run" in step}
VISTATECH = "playbooks/events/vistatech.json"


def run(name, tmp_path, **environment):
    """A step's script as GitHub runs it, in this repository."""
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]["run"]]
    return subprocess.run(
        command, cwd=ROOT, env=own | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", STEPS)
def test_no_input_is_ever_part_of_a_script(name):
    assert "${{" not in STEPS[name]["run"]
    given = re.findall(r"inputs\.(\w+)", str(STEPS[name].get("env")))
    assert set(given) <= set(ACTION["inputs"])


@pytest.mark.parametrize("name", ["Check", "Test"])
def test_the_shipped_playbooks_pass(name, tmp_path):
    done = run(name, tmp_path, PLAYBOOKS="playbooks/")
    assert done.returncode == 0, done.stderr


def test_a_hostile_folder_name_is_a_folder_name(tmp_path):
    done = run("Check", tmp_path, PLAYBOOKS="--help; touch gone")
    assert done.returncode == 1
    assert not (ROOT / "gone").exists()


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hooks_command_runs(hook):
    command = [sys.executable, "-m", "engine", *hook["entry"].split()[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(hook["files"], "playbooks/a/b.yaml")
