"""What README and docs/ show is loaded and run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from docs.generate import pages
from engine.actions.registry import load_actions
from engine.cli.command_group import cli
from engine.language.folder import Files
from engine.model.own_identity import OwnIdentity
from engine.preview.test_cases import read_cases, run_case
from tests.support.playbooks import new_loader

from docs import actions_reference

ROOT = Path(__file__).parents[2]
HELP = ["-h", "--help"]
"""As the group of commands has it. click keeps the first help option of a command for all later contexts."""
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        ROOT / "playbooks/README.md",
        ROOT / "rules/README.md",
    ]
)
# The pages of folders with a place of their own: only their links are tested here.
LINKED = [*PAGES, *sorted(ROOT.glob("examples/**/*.md")), *sorted(ROOT.glob("kustomize/**/*.md"))]
BLOCK_OF_YAML = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)")
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
        if page.name != "tutorial.md"  # test_tutorial.py runs its commands in a folder of their own
        for language, text in BLOCK.findall(page.read_text())
        if language == "sh"
        for line in text.splitlines()
        if line.startswith("tiercel ") and line.split()[1] in OFFLINE and "--server" not in line
    }
    return sorted(line for line in lines if not re.search(r"[A-Z]{3,}|[|<>]", line))


@pytest.mark.parametrize(
    "text",
    [
        block
        for block in blocks("yaml")
        if "apiVersion: tiercel" in block.values[0] and not block.id.startswith("tutorial.md")
    ],
)
def test_a_playbook_on_a_page_loads_without_a_warning_and_its_tests_pass(text):
    files = Files("", {"example.yaml": text.encode()})
    found = new_loader().load(files)
    cases, findings = read_cases(files, found)
    assert (found.findings, findings) == ((), [])
    assert bool(cases) is ("kind: PlaybookTest" in text)
    for case in cases:
        assert run_case(case, OwnIdentity()).differences == ()


@pytest.mark.parametrize("line", commands())
def test_a_command_on_a_page_runs(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(cli, shlex.split(line)[1:], prog_name="tiercel")
    assert done.exit_code == 0, done.stderr
    assert done.stdout


def test_every_command_on_a_page_has_the_options_that_it_uses():
    lines = {
        re.split(r"\s+[#|<>]|;", line.strip())[0]
        for page in LINKED
        for language, text in BLOCK.findall(page.read_text())
        if language == "sh"
        for line in re.sub(r"\\\n\s*", "", text).splitlines()
        if line.strip().startswith("tiercel ")
    }
    assert len(lines) > 40
    for line in sorted(lines):
        command, arguments = cli, shlex.split(line)[1:]
        while isinstance(command, click.Group):
            name, *arguments = arguments
            command = command.get_command(click.Context(command), name)
            assert command, line
        try:
            command.make_parser(click.Context(command, help_option_names=HELP)).parse_args(
                arguments
            )
        except click.UsageError as error:
            raise AssertionError(f"{line}: {error.message}") from error


@pytest.mark.parametrize("file", LINKED, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_to_a_file_or_a_heading_leads_somewhere(file):
    broken = []
    for path, heading in LINK.findall(file.read_text()):
        page = file.parent / path if path else file
        if not page.exists() or (heading and heading not in headings(page)):
            broken.append(f"{path}#{heading}")
    assert broken == []


def headings(page):
    """The anchors that a code host makes of the headings of a page."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.fixture(scope="module")
def generated():
    """The pages that docs/generate.py makes: file and text."""
    return pages()


def test_what_the_pages_say_of_the_code_is_current(generated):
    old = [file.name for file, text in generated.items() if file.read_text() != text]
    assert not old, "python docs/generate.py"


def test_the_pages_that_are_generated_are_those_of_the_code_and_the_shipped_playbooks(generated):
    made = [str(file.relative_to(ROOT / "docs")) for file in generated]
    actions = [f"actions/{name}.md" for name in sorted(load_actions())]
    parts = ["metrics.md", "language.md", "notifications.md", "response-library.md"]
    assert made == ["actions.md", *actions, *parts]
    there = sorted(f"actions/{file.name}" for file in ROOT.glob("docs/actions/*.md"))
    assert there == sorted(actions), "python docs/generate.py"
    assert f"[{len(actions)} actions](docs/actions.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("action", load_actions().values(), ids=lambda action: action.name)
def test_the_dry_run_on_the_page_of_an_action_shows_that_it_does_something(action):
    event, previewed = actions_reference.dry_run(action)
    assert previewed.results[0].state in ("planned", "held"), previewed.results[0].message
    if action.undoable:
        assert actions_reference.undo_intents(previewed.run, event)


def shape(value):
    """What keys there are, and how they lie within one another; of a list, its first item."""
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if key not in ("body", "headers")}
    return None


def test_the_json_on_the_page_of_the_language_is_that_of_the_commands(tmp_path):
    text = (ROOT / "docs/language.md").read_text()
    checked, planned = (json.loads(b) for language, b in BLOCK.findall(text) if language == "json")
    (tmp_path / "a.yaml").write_text("kind: Playbok\n")
    found = CliRunner().invoke(cli, ["check", "-o", "json", str(tmp_path)])
    assert shape(checked) == shape(json.loads(found.stdout))
    ask = [str(ROOT / "playbooks"), str(ROOT / "playbooks/events/vistatech.json")]
    line = json.loads(CliRunner().invoke(cli, ["plan", "-o", "json", *ask]).stdout)
    (run,) = line["runs"]
    both = [step for step in run["steps"] if step["calls"]] + run["steps"]
    requests = next(step["requests"] for step in run["steps"] if step["requests"])
    run["steps"] = [{**both[0], "requests": requests}]
    assert shape(planned) == shape(line)


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


def pipelines():
    return [
        yaml.safe_load(text) for text in BLOCK_OF_YAML.findall((ROOT / "docs/ci.md").read_text())
    ]


def items(value, key):
    """Every value that stands behind the key, however deep."""
    if isinstance(value, dict):
        yield from ([value[key]] if key in value else [])
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, (dict, list)):
            yield from items(inner, key)


def test_the_pipelines_on_a_page_use_what_the_action_and_the_hooks_have():
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    hooks = {hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    steps = [step for all_of_them in items(pipelines(), "steps") for step in all_of_them]
    ours = [step["with"].keys() for step in steps if step.get("uses", "").startswith("tiercel/")]
    assert ours
    assert all(keys <= action["inputs"].keys() for keys in ours)
    assert {*items(pipelines(), "id")} == hooks


def test_the_commands_of_the_pipelines_on_a_page_are_ours():
    lines = [
        *items(pipelines(), "run"),
        *(one for script in items(pipelines(), "script") for one in script),
    ]
    given = [line.partition(" > ")[0] for line in lines if line.startswith("tiercel ")]
    assert len(given) > 3
    for line in given:
        _, name, *arguments = shlex.split(line)
        command = cli.get_command(None, name)
        command.make_parser(click.Context(command, help_option_names=HELP)).parse_args(arguments)
