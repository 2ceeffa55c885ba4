"""Actions in other packages: the example package, and plugins that cannot be used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engine.actions.plugins import PluginError, load_plugins
from engine.actions.registry import REGISTRY, load_actions

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "action-plugin"
NOTE = """\
from tiercel import Pod, action

@action("note.write", effect="mark")
def write(pod: Pod, *, text: str) -> str:
    \"\"\"Write a note.

    text: the note.
    \"\"\"
    return text
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of a copy of the example package, and the environment in which it is installed."""
    folder = tmp_path_factory.mktemp("plugin")
    source, target = folder / "source", folder / "site-packages"
    shutil.copytree(EXAMPLE, source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--disable-pip-version-check", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*command, str(source)], check=True, timeout=300)
    paths = os.pathsep.join([str(target), str(ROOT)])
    return source, {**os.environ, "PYTHONPATH": paths, "NO_COLOR": "1"}


def test_an_installed_action_has_documentation_schema_rights_and_plans(installed):
    folder, environment = installed
    script = """
import json, sys
from click.testing import CliRunner
from engine.cli.command_group import cli
commands = [["check", "playbooks", "--strict"], ["test", "playbooks"], ["rbac", "playbooks"],
            ["actions", "evidence.record"], ["schema"]]
done = [CliRunner().invoke(cli, command) for command in commands]
print(json.dumps([[one.exit_code, one.output] for one in done]))
"""
    command = [sys.executable, "-P", "-c", script]
    found = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    check, test, rbac, actions, schema = json.loads(found.stdout)
    assert [one[0] for one in (check, test, rbac, actions, schema)] == [0] * 5, found.stdout
    assert "configmaps" in rbac[1]
    assert "30d" in actions[1]
    assert "what the ConfigMap contains" in actions[1]
    assert '"evidence.record"' in json.dumps(json.loads(schema[1]))


@pytest.fixture
def run_contract(installed, control_plane, tmp_path):
    """Return a function that runs the tests of the package on the API server."""
    folder, environment = installed
    kubeconfig = control_plane.kubeconfig(control_plane.admin_token, tmp_path / "admin.json")
    command = [sys.executable, "-P", "-m", "pytest", "tests", "-q", "-p", "no:cacheprovider", "-rf"]
    command += ["--import-mode=importlib", "--tiercel-kubeconfig", str(kubeconfig)]

    def run(path=None):
        paths = os.pathsep.join([*([str(path)] if path else []), environment["PYTHONPATH"]])
        return subprocess.run(
            command, cwd=folder, env={**environment, "PYTHONPATH": paths},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    return run


def test_an_installed_action_fulfils_the_contract(run_contract):
    found = run_contract()
    assert found.returncode == 0, found.stdout + found.stderr
    assert "7 passed" in found.stdout


def test_the_contract_suite_finds_faults_of_an_action(run_contract, tmp_path):
    package = EXAMPLE / "tiercel_evidence"
    text = (package / "evidence_record.py").read_text()
    faulty = text.replace('("get", "configmaps")', '("get", "configmaps"), ("get", "secrets")')
    faulty = faulty.replace('    require_managed(found, f"configmap {pod.namespace}/{name}")\n', "")
    faulty = faulty.replace("short_digest(10, context.run", "short_digest(10, text")
    shutil.copytree(package, tmp_path / package.name)
    (tmp_path / package.name / "evidence_record.py").write_text(faulty)
    found = run_contract(tmp_path)
    failed = {
        line.partition("::test_")[2].partition("[")[0]
        for line in found.stdout.splitlines()
        if line.startswith("FAILED")
    }
    assert failed == {
        "a_dry_run_changes_nothing_and_the_declared_rights_are_exactly_those_used",
        "an_object_of_the_same_name_that_is_not_of_the_engine_is_not_changed",
        "a_hostile_value_ends_in_a_refusal_or_in_the_calls_of_a_harmless_one",
    }, found.stdout


def plugin(folder, module, text, name="broken-thing"):
    """Write a distribution with one module into a folder that is on the path."""
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[tiercel.actions]\n{module} = {module}\n")
    (folder / f"{module}.py").write_text(text)


BROKEN = {
    "raises": ("1 / 0", "ZeroDivisionError: division by zero"),
    "import": ("import no_such_module", "No module named 'no_such_module'"),
    "nothing": ("", "its module does not register an action with @action"),
    "type": (NOTE.replace("text: str)", "text: bytes)"), "the parameter `text` has the type"),
    "no type": (NOTE.replace("text: str)", "text)"), "the parameter `text` has no type"),
    "unknown type": (NOTE.replace("text: str)", "text: 'Nope')"), "name 'Nope' is not defined"),
    "argument": (NOTE.replace("pod: Pod", "deployment"), "positional parameter `deployment`"),
    "more": (NOTE.replace("text: str)", "text: str, **more)"), "cannot have *args or **kwargs"),
    "effect": (NOTE.replace('"mark"', '"destroy"'), "the effect 'destroy' is not one of"),
    "needs": (NOTE.replace('"mark"', '"mark", needs={"pods"}'), "needs is a set of rights like"),
    "name": (NOTE.replace("note.write", "Note"), "is like thing.verb, not 'Note'"),
    "collision": (
        NOTE.replace("note.write", "pod.delete"),
        "engine.actions.pod_delete.delete_pod already has this name",
    ),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_plugin_that_cannot_be_used_registers_nothing_and_is_named(
    tmp_path, monkeypatch, text, message
):
    before = dict(load_actions())
    plugin(tmp_path, f"a_good_{tmp_path.name}", NOTE.replace("note.write", "good.note"), "a-good")
    plugin(tmp_path, f"broken_{tmp_path.name}", text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError) as error:
        load_plugins(REGISTRY)
    said = str(error.value)
    assert message in said
    assert said.startswith("the plugin broken-thing 1.2 (entry point broken_")
    assert said.endswith("pip uninstall broken-thing")
    assert dict(REGISTRY) == before
    assert "\n" not in said


def test_a_command_stops_with_the_name_of_the_plugin(tmp_path):
    plugin(tmp_path, "broken", "1 / 0")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ended = subprocess.run(
        [sys.executable, "-m", "engine", "actions"],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("tiercel actions: the plugin broken-thing 1.2")
