"""The wheel and the source distribution: built, complete, and usable in an empty environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
PLAYBOOK = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: mark}
spec:
  match: {rules: [Terminal shell in container]}
  actions: [{action: pod.label, with: {labels: {seen: "true"}}}]
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a folder with the files that Git knows."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


def build(source, folder):
    """Build the wheel and the source distribution of a release into a folder, and return it."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}
    subprocess.run(
        command, cwd=source, env=environment, check=True, capture_output=True, timeout=120
    )
    return folder


@pytest.fixture(scope="module")
def packages(source, tmp_path_factory):
    """Return the folder of the wheel and the source distribution."""
    return build(source, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def tiercel(request, packages, tmp_path_factory):
    """Return the command of an environment with only this package, beside the dependencies of this one."""
    [package] = packages.glob("*.whl" if request.param == "wheel" else "*.tar.gz")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    [site] = folder.glob("lib/python*/site-packages")
    pip = [
        sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet",
        "--no-deps", "--no-index", "--no-build-isolation",
    ]  # fmt: skip
    dependencies = Path(pytest.__file__).parents[1]
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    subprocess.run([*pip, str(package)], check=True, timeout=120)
    # the editable installation of this checkout must not hide the installed package
    environment = {"PATH": os.environ["PATH"], "PYTHONSAFEPATH": "1"}

    def run(*arguments):
        command = [str(folder / "bin" / "tiercel"), *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False,
            timeout=60,
        )  # fmt: skip

    return run


def test_the_installed_command_has_the_version_of_the_changelog(tiercel):
    done = tiercel("--version")
    assert done.stdout.strip().endswith(f" {VERSION}"), done.stderr


def test_the_installed_command_checks_a_playbook(tiercel, tmp_path):
    (tmp_path / "mark.yaml").write_text(PLAYBOOK)
    done = tiercel("check", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "1 playbook" in done.stdout


def test_the_packages_have_what_they_need_and_nothing_private(packages):
    [wheel], [sdist] = packages.glob("*.whl"), packages.glob("*.tar.gz")
    in_wheel = zipfile.ZipFile(wheel).namelist()
    with tarfile.open(sdist) as archive:
        in_sdist = [name.partition("/")[2] for name in archive.getnames()]
    assert {name.partition("/")[0] for name in in_wheel} == {
        "engine",
        "tiercel",
        f"tiercel-{VERSION}.dist-info",
    }
    assert {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"} <= set(in_sdist)
    assert "engine/cli/command_group.py" in in_sdist
    for name in (*in_wheel, *in_sdist):
        assert not re.search(
            r"(^|/)(\.venv|__pycache__|\.ci|\.git|node_modules|.*\.db)(/|$)", name
        ), name


def test_the_packages_of_one_commit_are_equal_in_each_build(source, packages, tmp_path):
    for file in source.rglob("*.py"):
        os.utime(file, (1_000_000_000, 1_000_000_000))  # a clone has other times
    again = build(source, tmp_path)
    for first in packages.iterdir():
        assert (again / first.name).read_bytes() == first.read_bytes(), first.name
