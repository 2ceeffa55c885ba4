"""The template of a playbook repository: its playbooks, its overlays, and its workflow."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.gitops import life

OVERLAYS = ("dev", "staging", "prod")
PLAYBOOKS = life.TEMPLATE / "playbooks"
WORKFLOW = yaml.safe_load((life.TEMPLATE / ".github/workflows/playbooks.yml").read_text())
STEPS = WORKFLOW["jobs"]["playbooks"]["steps"]


def tiercel(*arguments):
    done = CliRunner().invoke(cli, [str(it) for it in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    life.needs()
    folder = tmp_path_factory.mktemp("template")
    (folder / "mirror").mkdir()
    return life.Repository.start(folder / "team", life.Mirror(folder / "mirror"))


@pytest.fixture(scope="module", params=OVERLAYS)
def rendered(request, repository):
    """The name of an overlay and its objects."""
    return request.param, repository.render(request.param)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_playbooks_pass_with_the_values_of_each_overlay(overlay):
    values = life.TEMPLATE / "overlays" / overlay / "values.yaml"
    assert "0 errors, 0 warnings" in tiercel("check", "--values", values, PLAYBOOKS)
    assert "100 % covered" in tiercel("test", "--values", values, PLAYBOOKS)


def test_every_file_of_the_template_that_a_cluster_needs_names_the_released_version():
    referred = {
        found
        for path in life.TEMPLATE.rglob("*")
        if path.is_file()
        for found in re.findall(
            r"(?:\?ref=|--branch |tiercel@)v([\d.]+\d)|# v([\d.]+\d)$",
            path.read_text(),
            re.MULTILINE,
        )
    }
    ours = {first for first, _ in referred if first}
    assert ours == {life.version()}


def test_an_overlay_renders_with_the_playbooks_of_the_repository_and_no_others(
    rendered, repository
):
    overlay, objects = rendered
    carried = life.one(objects, "ConfigMap", life.PLAYBOOKS)
    listed = yaml.safe_load(repository.read("playbooks/kustomization.yaml"))
    names = set(listed["configMapGenerator"][0]["files"])
    assert carried["data"].keys() == {*names, "REVISION"}
    assert carried["data"]["values.yaml"] == repository.read(f"overlays/{overlay}/values.yaml")
    assert carried["data"]["REVISION"] == repository.revision
    assert carried["metadata"]["namespace"] == "tiercel"
    stateful_set = life.one(objects, "StatefulSet", "tiercel")
    assert "tiercel.dev/revision" not in stateful_set["spec"]["template"]["metadata"]["labels"]


def test_only_dev_plans(rendered):
    overlay, objects = rendered
    [container] = life.one(objects, "StatefulSet", "tiercel")["spec"]["template"]["spec"][
        "containers"
    ]
    [dry_run] = [it["value"] for it in container["env"] if it["name"] == "TIERCEL_DRY_RUN"]
    assert dry_run == ("true" if overlay == "dev" else "false")


def test_the_digest_on_a_desk_is_that_of_the_mounted_files(rendered, repository, tmp_path):
    overlay, objects = rendered
    mount = life.Mount(
        tmp_path / "mount", life.files(life.one(objects, "ConfigMap", life.PLAYBOOKS))
    )
    values = repository.folder / "overlays" / overlay / "values.yaml"
    desk = tiercel("digest", "--values", values, repository.folder / "playbooks")
    assert tiercel("digest", mount.folder) == desk


def test_the_workflow_pins_actions_by_commit_and_uses_what_our_action_has():
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert [one for one in used if not re.search(r"@[0-9a-f]{40}$", one)] == [
        "tiercel/tiercel@COMMIT"
    ]
    [ours] = [step for step in STEPS if step.get("uses", "").startswith("tiercel/")]
    action = yaml.safe_load((life.ROOT / "action.yml").read_text())
    assert ours["with"].keys() <= action["inputs"].keys()
    for path in (ours["with"]["playbooks"], ours["with"]["events"]):
        assert (life.TEMPLATE / path).exists()
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not [step for step in STEPS if "${{" in step.get("run", "")]


def run_step(name, repository, folder, **environment):
    """Run the script of a step of the workflow in a folder, as GitHub does."""
    [script] = [step["run"] for step in STEPS if step.get("name") == name]
    given = repository.environment | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(life.ROOT),
    } | environment  # fmt: skip
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(
        command,
        cwd=folder,
        env=given,
        capture_output=True,
        text=True,
        timeout=life.GUARD,
        check=False,
    )


def test_the_workflow_checks_and_renders_each_overlay(repository, tmp_path):
    folder = tmp_path / "clone"
    shutil.copytree(repository.folder, folder)
    shutil.rmtree(folder / "overlays/staging")
    (folder / "overlays/prod/values.yaml").write_text("quarantineFor: soon\n")
    done = run_step("Check and render each overlay", repository, folder)
    assert done.returncode == 1
    assert done.stdout.count("5 cases passed") == 1, done.stderr  # dev
    assert "protectedNamespaces" in done.stdout + done.stderr
    # A broken overlay is found when it is rendered.
    shutil.rmtree(folder / "overlays/prod")
    (folder / "playbooks/values.yaml").unlink()
    done = run_step("Check and render each overlay", repository, folder)
    assert done.returncode == 1
    assert "playbooks/values.yaml: no such file" in done.stderr


def test_the_workflow_compares_with_the_branch_that_the_pull_request_merges_into(
    repository, tmp_path
):
    folder = tmp_path / "clone"
    address = "https://github.com/example/reactions"
    repository.git("clone", "--quiet", "--depth", "1", repository.folder.as_uri(), str(folder))
    repository.mirror.redirect(address, repository.folder)
    done = run_step(
        "Fetch the branch to compare with",
        repository,
        folder,
        BASE="main",
        REPOSITORY=address,
        TOKEN="t",
    )
    assert done.returncode == 0, done.stderr
    text = (folder / "playbooks/quarantine-shells.yaml").read_text()
    (folder / "playbooks/quarantine-shells.yaml").write_text(
        text.replace("Terminal shell in container", "Never")
    )
    [ours] = [step["with"] for step in STEPS if step.get("uses", "").startswith("tiercel/")]
    arguments = (
        "replay",
        "-o",
        "markdown",
        "--against",
        ours["against"],
        "--",
        "playbooks/",
        ours["events"],
    )
    done = subprocess.run(
        [sys.executable, "-m", "engine", *arguments], cwd=folder, capture_output=True, text=True,
        env={**repository.environment, "PYTHONPATH": str(life.ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "pod.isolate" in done.stdout
    assert "no longer act" in done.stdout
