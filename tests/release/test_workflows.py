"""The workflows of this project and of the template: valid, pinned, and with the least permissions."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.cluster import build
from tests.cluster.fixtures import require

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted(
    [
        *ROOT.glob(".github/workflows/*.yml"),
        *ROOT.glob("examples/*/.github/workflows/*.yml"),
    ]
)
every_workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)


def actionlint(*files):
    """Return what actionlint reports."""
    require("actionlint")
    command = [
        str(build.find("actionlint")),
        "-no-color",
        "-shellcheck=",
        "-pyflakes=",
        *map(str, files),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


def test_there_are_workflows_for_ci_and_for_a_release():
    assert {"ci.yml", "release.yml", "playbooks.yml"} <= {file.name for file in WORKFLOWS}


@every_workflow
def test_actionlint_reports_nothing(file):
    assert actionlint(file) == ""


def test_actionlint_reports_an_unknown_context_and_an_injection(tmp_path):
    text = (ROOT / ".github/workflows/release.yml").read_text()
    (tmp_path / "a.yml").write_text(text.replace("env.IMAGE", "env2.IMAGE"))
    assert "undefined variable" in actionlint(tmp_path / "a.yml")
    (tmp_path / "b.yml").write_text(
        "on: pull_request\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n"
        "      - run: echo ${{ github.event.pull_request.title }}\n"
    )
    assert "potentially untrusted" in actionlint(tmp_path / "b.yml")


@every_workflow
def test_every_action_is_pinned_by_its_commit(file):
    used = re.findall(r"uses: (\S+)(.*)", file.read_text())
    assert used
    for action, comment in used:
        own = action == "tiercel/tiercel@COMMIT"  # the README of the template replaces it
        assert own or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r"  # v\d+\.\d+\.\d+", comment), (action, comment)


@every_workflow
def test_the_permissions_of_each_job_are_explicit(file):
    workflow = yaml.safe_load(file.read_text())
    assert workflow.get("permissions") is not None
    for name, job in workflow["jobs"].items():
        permissions = job.get("permissions", workflow["permissions"])
        assert permissions not in ("write-all", "read-all"), name
        if name == "test":
            assert set(permissions.values()) == {"read"}


def test_no_shell_command_contains_an_expression():
    """An expression in ``run`` is text that the shell executes. Values come from variables."""
    for file in WORKFLOWS:
        for name, job in yaml.safe_load(file.read_text())["jobs"].items():
            for step in job["steps"]:
                assert "${{" not in step.get("run", ""), (file.name, name, step)


def release_jobs():
    return yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]


def test_packages_and_image_have_a_provenance_and_the_image_a_signature():
    jobs = release_jobs()
    assert "make packages sbom" in str(jobs["packages"]["steps"])
    for name in ("image", "release"):
        steps = jobs[name]["steps"]
        assert any("attest-build-provenance@" in step.get("uses", "") for step in steps), name
        assert jobs[name]["permissions"]["id-token"] == "write"
    assert "sign --yes" in jobs["image"]["steps"][-1]["run"]


def test_the_job_that_runs_development_dependencies_can_only_read():
    for name, job in release_jobs().items():
        runs_make = any(re.search(r"\bmake\b", step.get("run", "")) for step in job["steps"])
        writes = "write" in job["permissions"].values()
        assert not (runs_make and writes), name


def test_a_tag_that_is_not_the_version_of_the_changelog_publishes_nothing():
    jobs = release_jobs()
    assert "GITHUB_REF_NAME" in str(jobs["packages"]["steps"])
    assert "needs" not in jobs["packages"]
    assert jobs["image"]["needs"] == "packages"
    assert jobs["release"]["needs"] == ["packages", "image"]
    assert "gh release create" in jobs["release"]["steps"][-1]["run"]


def test_cosign_of_the_release_is_the_version_under_test():
    version = build.COMPONENTS["cosign"].version
    assert f"cosign/v3/cmd/cosign@{version}" in str(release_jobs()["image"]["steps"])
