from __future__ import annotations

import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from engine.cli import main
from engine.cli.command_group import cli
from tests.runtime.test_serve import kubeconfig

GOOD = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: mark}
spec:
  match: {rules: [R]}
  actions: [{action: pod.label, with: {labels: {a: "${v}"}}}]
"""
RISKY = GOOD.replace('{labels: {a: "${v}"}}', "{skipKinds: [DaemonSet]}").replace(
    "pod.label", "pod.delete"
)
EVENT = {
    "rule": "R",
    "time": "2026-03-01T10:00:00Z",
    "output_fields": {"k8s.ns.name": "demo", "k8s.pod.name": "web-0"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "a.yaml").write_text(GOOD)
    (tmp_path / "playbooks" / "values.yaml").write_text("v: b\n")
    (tmp_path / "event.json").write_text(json.dumps(EVENT))
    return tmp_path


def tiercel(*arguments, stdin=None):
    return CliRunner().invoke(cli, arguments, stdin, prog_name="tiercel", catch_exceptions=False)


def broken(folder, text="kind: Playbok\n"):
    (folder / "playbooks" / "broken.yaml").write_text(text)


@pytest.mark.usefixtures("folder")
def test_check_of_a_valid_folder_exits_0():
    result = tiercel("check")
    assert (result.exit_code, result.stdout) == (0, "1 playbook, 0 errors, 0 warnings.\n")
    assert tiercel("check", "playbooks/a.yaml").exit_code == 0


def test_an_invalid_folder_exits_1_with_the_findings(folder):
    broken(folder)
    result = tiercel("check")
    assert result.exit_code == 1
    assert "playbooks/broken.yaml:1:7: error:" in result.stdout
    planned = tiercel("plan", "event.json")
    assert (planned.exit_code, planned.stdout) == (1, "")
    assert "playbooks/broken.yaml:1:7: error:" in planned.stderr


def test_findings_in_json_have_the_documented_keys(folder):
    broken(folder)
    (finding,) = json.loads(tiercel("check", "-o", "json").stdout)
    assert finding == {
        "file": "playbooks/broken.yaml", "line": 1, "column": 7, "severity": "error",
        "code": "unknown-kind", "message": "`Playbok` is not a kind of document", "hint": "Playbook",
    }  # fmt: skip


def test_warnings_change_the_exit_code_only_with_strict(folder):
    (folder / "playbooks" / "a.yaml").write_text(RISKY)
    assert tiercel("check").exit_code == 0
    assert tiercel("check", "--strict").exit_code == 3
    broken(folder)
    assert tiercel("check", "--strict").exit_code == 1


@pytest.mark.usefixtures("folder")
def test_a_missing_folder_exits_1():
    for command in (("check", "no"), ("plan", "no", "event.json"), ("digest", "no")):
        assert tiercel(*command).exit_code == 1


@pytest.mark.usefixtures("folder")
def test_a_usage_error_exits_2():
    for command in (("plan",), ("plan", "no.json"), ("check", "-o", "xml"), ("nothing",),
                    ("actions", "pod.lable"), ("plan", "--cluster", "no", "event.json")):  # fmt: skip
        assert tiercel(*command).exit_code == 2, command


def test_values_replace_those_of_the_folder(folder):
    (folder / "other.yaml").write_text("v: c\n")
    line = json.loads(tiercel("plan", "--values", "other.yaml", "-o", "json", "event.json").stdout)
    (call,) = line["runs"][0]["steps"][0]["calls"]
    assert call["body"]["metadata"]["labels"] == {"a": "c"}
    (folder / "other.yaml").write_text("w: c\n")
    assert tiercel("check", "--values", "other.yaml").exit_code == 1


@pytest.mark.usefixtures("folder")
def test_events_are_read_from_stdin_and_invalid_lines_are_reported():
    lines = f"{json.dumps(EVENT)}\nno event\n"
    result = tiercel("plan", "-o", "json", "-", stdin=lines)
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["runs"][0]["steps"][0]["state"] == "planned"
    assert first["runs"][0]["steps"][0]["phase"] == "actions"
    assert (second["event"], second["line"], second["runs"]) == (None, 2, [])
    assert result.exit_code == 1
    assert "-:2:" in result.stderr


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n\u202egnp.exe\u2066\x00\x9b31m\u200b"


def test_a_hostile_event_prints_no_terminal_control_characters(folder):
    actions = """
    - {action: kubernetes.event, with: {message: "%proc.cmdline"}}
    - {action: pod.annotate, with: {annotations: {a: "%proc.cmdline"}}}
    - {action: pod.label, with: {labels: {a: "%proc.cmdline"}}}
    - {action: slack.post, with: {webhook: {fromSecret: s}, text: "%rule %proc.cmdline"}}
    - {action: http.request, with: {url: "https://h/%proc.cmdline", body: "%proc.cmdline"}}
"""
    head = GOOD.replace("rules: [R]", "everything: true").partition("  actions:")[0]
    (folder / "playbooks" / "a.yaml").write_text(head + "  actions:" + actions)
    fields = {"proc.cmdline": HOSTILE, "k8s.ns.name": "demo", "k8s.pod.name": "web-0"}
    named = {**fields, "k8s.pod.name": HOSTILE, "k8s.ns.name": HOSTILE, "container.id": HOSTILE}
    alerts = [
        {
            "rule": HOSTILE,
            "hostname": HOSTILE,
            "source": HOSTILE,
            "tags": [HOSTILE],
            "output_fields": f,
        }
        for f in (fields, named)
    ]
    alerts.append({"rule": "r", "priority": HOSTILE})
    result = tiercel("plan", "-", stdin=json.dumps(alerts))
    assert result.exit_code == 1
    printed = result.stdout + result.stderr
    assert "gnp.exe" in printed
    assert all(line.isprintable() for line in printed.split("\n"))


@pytest.mark.usefixtures("folder")
def test_help_lists_every_command():
    result = tiercel("--help")
    assert result.exit_code == tiercel("-h").exit_code == 0
    for name in cli.list_commands(None):
        assert f"  {name} " in result.stdout
        assert tiercel(name, "-h").exit_code == 0


def test_help_does_not_import_slow_modules():
    code = (
        "import sys; from engine.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'kubernetes','yaml','msgspec','urllib3'} & set(sys.modules)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert printed.endswith("[]\n")


def test_output_has_no_color_in_a_pipe_or_with_no_color(folder, monkeypatch):
    broken(folder)
    assert "\x1b" not in tiercel("check").stdout
    monkeypatch.setattr(
        "engine.render.text.click.echo", lambda _, *, color, **__: seen.append(color)
    )
    for value, color in (("1", False), ("", True)):
        seen = []
        monkeypatch.setenv("NO_COLOR", value)
        monkeypatch.setattr("sys.stdout", type("Terminal", (), {"isatty": lambda _: True})())
        from engine.render.text import print_document  # noqa: PLC0415 - after stdout is replaced

        print_document("x")
        assert seen == [color]


def test_the_same_set_has_the_same_digest(folder):
    first = tiercel("digest").stdout
    assert len(first.strip()) == 64
    (folder / "playbooks" / "values.yaml").write_text("v: c\n")
    assert tiercel("digest").stdout != first


@pytest.mark.usefixtures("folder")
def test_the_schema_is_json_and_every_action_has_a_page():
    assert json.loads(tiercel("schema").stdout)["$defs"]["Playbook"]
    listed = tiercel("actions").stdout
    for line in listed.split("\n\n")[0].splitlines():
        shown = tiercel("actions", line.split()[0])
        assert shown.exit_code == 0
        assert "example:" in shown.stdout


@pytest.mark.usefixtures("folder")
def test_the_console_script_has_the_exit_code_of_the_command():
    with pytest.raises(SystemExit) as stop:
        main(["check", "no"])
    assert stop.value.code == 1


def test_an_expired_silence_is_a_warning(folder):
    silence = "{match: {everything: true}, until: 2020-01-01T00:00:00Z, owner: me, comment: c}"
    (folder / "playbooks" / "s.yaml").write_text(
        f"apiVersion: tiercel.dev/v1\nkind: Silence\nmetadata: {{name: old}}\nspec: {silence}\n"
    )
    result = tiercel("check", "--strict")
    assert (result.exit_code, "[silence-expired]" in result.stdout) == (3, True)
    assert tiercel("plan", "event.json").exit_code == 0


def test_findings_are_printed_as_github_annotations(folder):
    (folder / "playbooks" / "a,b:c.yaml").write_text('kind: "100%\\nof it"\n')
    (line,) = tiercel("check", "-o", "github").stdout.splitlines()
    assert line.startswith("::error file=playbooks/a%2Cb%3Ac.yaml,line=1,col=7,title=tiercel ")
    assert "100%25%0Aof it" in line


def test_findings_in_sarif_have_their_rule_and_location(folder):
    broken(folder)
    log = json.loads(tiercel("check", "-o", "sarif").stdout)
    (run,) = log["runs"]
    (result,) = run["results"]
    place = result["locations"][0]["physicalLocation"]
    assert (log["version"], result["ruleId"], result["level"]) == ("2.1.0", "unknown-kind", "error")
    assert place["artifactLocation"]["uri"] == "playbooks/broken.yaml"
    assert place["region"] == {"startLine": 1, "startColumn": 7}
    assert run["tool"]["driver"]["rules"] == [{"id": "unknown-kind"}]


def test_findings_in_junit_fail_the_file_and_warnings_only_with_strict(folder):
    (folder / "playbooks" / "r.yaml").write_text(RISKY.replace("mark", "risky"))

    def failed(*options):
        text = tiercel("check", "-o", "junit", *options).stdout
        suite = ET.fromstring(text)[0]  # noqa: S314 - our own output
        return [case.get("name") for case in suite if case.find("failure") is not None]

    assert failed() == []
    assert failed("--strict") == ["playbooks/r.yaml"]
    broken(folder)
    assert failed() == ["playbooks/broken.yaml"]


def test_a_mistyped_command_is_reported_with_the_most_similar_one():
    done = tiercel("chekc")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "There is no command `chekc`. Did you mean `check`?" in done.stderr
    assert "Did you mean" not in tiercel("quite-another").stderr
    assert "--strict" in tiercel("check", "--strikt").stderr


@pytest.mark.usefixtures("folder")
def test_an_unexpected_error_is_one_sentence_with_exit_code_2(monkeypatch):
    def broken(*_, **__):
        raise KeyError("x\x1b[31m")

    monkeypatch.setattr("engine.execution.attempt.render_arguments", broken)
    for command in ("plan", "replay"):
        done = tiercel(command, "event.json", "-o", "json")
        assert (done.exit_code, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"tiercel {command}: internal error: KeyError: ")
        assert "\x1b" not in line
        assert "(test_cli.py" not in line


def test_plan_with_server_exits_1_if_a_step_fails(folder):
    (folder / "config").write_text(kubeconfig("http://127.0.0.1:9"))
    assert tiercel("plan", "event.json").exit_code == 0
    done = tiercel("plan", "event.json", "--server", "--kubeconfig", "config", "-o", "json")
    assert [step["state"] for step in json.loads(done.stdout)["runs"][0]["steps"]] == ["failed"]
    assert done.exit_code == 1


def test_plan_with_artifact_stores_refuses_another_store(folder):
    step = "{action: pod.logs, with: {artifact: 's3://forensics/x/%{run.id}'}}"
    text = f"{GOOD.partition('  actions:')[0]}  actions: [{step}]\n"
    (folder / "playbooks" / "a.yaml").write_text(text)

    def state(*flags):
        done = tiercel("plan", "event.json", "-o", "json", *flags)
        return json.loads(done.stdout)["runs"][0]["steps"][0]["state"]

    assert state() == "planned"
    assert state("--artifact-stores", "s3://forensics/x, file:///tmp") == "planned"
    assert state("--artifact-stores", "s3://forensics/y") == "refused"
    assert state("--artifact-stores", "") == "refused"
    done = tiercel("plan", "event.json", "--artifact-stores", "ftp://x")
    assert (done.exit_code, "--artifact-stores" in done.stderr) == (2, True)


def test_only_serve_imports_the_log():
    code = (
        "import sys, importlib\n"
        "from engine.cli.command_group import _COMMANDS, cli\n"
        "for name in set(_COMMANDS) - {'serve'}: cli.get_command(None, name)\n"
        "import engine.preview.preview\n"
        "print('structlog' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_of_a_shell_is_printed(shell):
    done = tiercel("completion", shell)
    assert (done.exit_code, "_TIERCEL_COMPLETE" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("words", "incomplete", "offered"),
    [
        ([], "chec", ["check"]),
        (["explain", "--playbook"], "m", ["mark"]),
        (["explain", "mine", "event.json", "--playbook"], "", ["other"]),
        (["pause", "--playbook"], "", ["mark"]),
        (["actions"], "pod.del", ["pod.delete"]),
        (["show", "--server", "http://127.0.0.1:9"], "", []),
    ],
)
def test_names_are_completed(folder, words, incomplete, offered):
    (folder / "mine").mkdir()
    (folder / "mine" / "b.yaml").write_text(GOOD.replace("mark", "other").replace("${v}", "b"))
    found = ShellComplete(cli, {}, "tiercel", "_TIERCEL_COMPLETE")
    assert [item.value for item in found.get_completions(words, incomplete)] == offered
