"""The GitHub Action and the pre-commit hooks of the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"] if "run" in step}
VISTATECH = "playbooks/events/vistatech.json"


def run(name, tmp_path, **environment):
    """Run the script of a step in this repository, as GitHub does."""
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]["run"]]
    return subprocess.run(
        command, cwd=ROOT, env=own | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", STEPS)
def test_inputs_are_not_part_of_scripts(name):
    assert "${{" not in STEPS[name]["run"]
    given = re.findall(r"inputs\.(\w+)", str(STEPS[name].get("env")))
    assert set(given) <= set(ACTION["inputs"])


PINNED = re.compile(r"@[0-9a-f]{40}$")


def uses():
    """Yield what the action and the documentation use from other repositories."""
    yield from re.findall(r"uses: (\S+)", (ROOT / "action.yml").read_text())
    yield from re.findall(r"uses: (\S+)", (ROOT / "docs/ci.md").read_text())


def test_third_party_actions_and_images_are_pinned():
    theirs = [one for one in uses() if not one.startswith("tiercel/")]
    assert len(theirs) > 3
    assert all(PINNED.search(one) for one in theirs)
    images = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    images += re.findall(r"image: (\S+)", (ROOT / "docs/ci.md").read_text())
    images = [image for image in images if image != "base"]  # a stage of the Dockerfile
    assert len(images) == 2
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", image) for image in images)


def test_image_and_action_install_only_pinned_packages():
    def pins(file):
        blocks = re.findall(
            r"^\S+==\S+ \\\n(?: +--hash=\S+(?: \\)?\n)+", (ROOT / file).read_text(), re.MULTILINE
        )
        return {re.split("[=[]", block)[0]: block.replace(" \\", "") for block in blocks}

    run, every = pins("requirements-run.txt"), pins("requirements.txt")
    assert run.items() <= every.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    direct = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    assert {re.match(r"[\w-]+", one)[0].lower() for one in direct} <= run.keys()
    for text in ((ROOT / "Dockerfile").read_text(), STEPS["Install"]["run"]):
        for line in text.splitlines():
            if "pip install" in line:
                assert "python -I -m pip" in line.replace('"$TARGET/bin/python"', "python")
                assert "--require-hashes" in line or "--no-deps --no-build-isolation" in line


@pytest.mark.parametrize("name", ["pip", "venv", "ensurepip", "engine", "sitecustomize"])
def test_modules_of_a_pull_request_are_not_imported(name, tmp_path):
    """The install fails, because it cannot download anything here. The modules of the workspace are not used."""
    for folder in (tmp_path, tmp_path / name):
        folder.mkdir(exist_ok=True)
    body = f"open({str(tmp_path / 'ran')!r}, 'w')"
    (tmp_path / f"{name}.py").write_text(body)
    (tmp_path / name / "__init__.py").write_text(body)
    (tmp_path / name / "__main__.py").write_text(body)
    own = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path), "SOURCE": str(ROOT), "TARGET": str(tmp_path / "target"),
        "GITHUB_PATH": str(tmp_path / "path"), "PIP_NO_INDEX": "1", "PYTHONPATH": str(tmp_path),
    }  # fmt: skip
    script = STEPS["Install"]["run"].replace("-m venv", "-m venv --without-pip")
    for text in (script, "tiercel check playbooks"):
        subprocess.run(
            ["bash", "-c", text],
            cwd=tmp_path,
            env=own if text is script else {k: v for k, v in own.items() if k != "PYTHONPATH"},
            capture_output=True,
            check=False,
        )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["Check", "Test"])
def test_shipped_playbooks_pass(name, tmp_path):
    done = run(name, tmp_path, PLAYBOOKS="playbooks/")
    assert done.returncode == 0, done.stderr


def test_hostile_folder_name_is_not_interpreted(tmp_path):
    done = run("Check", tmp_path, PLAYBOOKS="--help; touch gone")
    assert done.returncode == 1
    assert not (ROOT / "gone").exists()


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_command_of_a_hook_runs(hook):
    command = [sys.executable, "-m", "engine", *hook["entry"].split()[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(hook["files"], "playbooks/a/b.yaml")
