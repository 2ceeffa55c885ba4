"""What README and docs/ show is loaded and run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from docs.generate import page
from engine.language.folder import Files
from engine.language.load import Loader

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        ROOT / "playbooks/README.md",
        ROOT / "rules/README.md",
    ]
)
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
OFFLINE = ("check", "plan", "explain", "replay", "test", "actions", "schema", "digest")


def blocks(language):
    return [
        pytest.param(text, id=f"{page.name}-{number}")
        for page in PAGES
        for number, (found, text) in enumerate(BLOCK.findall(page.read_text()))
        if found == language
    ]


def commands():
    """The commands of the pages that need no cluster and change nothing."""
    lines = {
        line.partition("   #")[0].strip()
        for page in PAGES
        for language, text in BLOCK.findall(page.read_text())
        if language == "sh"
        for line in text.splitlines()
        if line.startswith("tiercel ") and line.split()[1] in OFFLINE and "--server" not in line
    }
    return sorted(line for line in lines if not re.search(r"[A-Z]{3,}|[|<>]", line))


@pytest.mark.parametrize(
    "text", [b for b in blocks("yaml") if "apiVersion: tiercel" in b.values[0]]
)
def test_a_playbook_on_a_page_loads_without_a_warning(text):
    found = Loader().load(Files("", {"example.yaml": text.encode()}))
    assert found.findings == ()


@pytest.mark.parametrize("line", commands())
def test_a_command_on_a_page_runs(line):
    command = [sys.executable, "-m", "engine", *shlex.split(line)[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_link_to_a_file_leads_somewhere(file):
    broken = [link for link in LINK.findall(file.read_text()) if not (file.parent / link).exists()]
    assert broken == []


def test_the_page_of_the_actions_is_current():
    assert (ROOT / "docs/actions.md").read_text() == page()


def test_every_dependency_has_a_reason():
    pyproject = (ROOT / "pyproject.toml").read_text()
    told = (ROOT / "docs/dependencies.md").read_text()
    listed = re.search(r"\ndependencies = \[(.*?)\]", pyproject, re.DOTALL)[1]
    names = re.findall(r'"([a-z0-9-]+)', listed)
    assert [name for name in names if name not in told] == []


def test_every_make_target_of_the_pages_exists():
    makefile = (ROOT / "Makefile").read_text()
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert {"run", "test"} <= named
    assert named <= known
