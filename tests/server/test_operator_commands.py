"""Operator commands with a running engine: history, show, pause, resume, retry, approve, deny."""

from __future__ import annotations

import hashlib
import json

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.journal.records import RunRecord
from engine.model.run import Outcome, advance
from engine.render.run_json import summary_json
from tests.execution.test_attempt import DELETE, LABEL, claim
from tests.support.engine import engine
from tests.support.intake import FALCO, PLAYBOOK, alert

FAILS = PLAYBOOK.replace("mark-shell", "tell").replace(
    'pod.label, with: {labels: {seen: "true"}}',
    'slack.post, with: {webhook: {fromSecret: gone}, text: "%rule"}, when: [{field: x, exists: true}]',
)


def tiercel(running, *arguments):
    given = [*arguments, "--server", running.admin]
    return CliRunner().invoke(cli, given, prog_name="tiercel", catch_exceptions=False)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """An engine in dry run with one completed run."""
    folder = tmp_path_factory.mktemp("engine")
    with engine(folder, {"a.yaml": PLAYBOOK}, "--dry-run") as running:
        (running.run,) = running.post(FALCO)[2]["runs"]
        running.wait_for_audit(lambda line: line.get("run") == running.run)
        yield running


def test_the_history_has_one_line_per_run(running):
    done = tiercel(running, "history")
    line = next(line for line in done.stdout.splitlines() if running.run[:12] in line)
    assert "planned" in line
    assert "mark-shell" in line
    assert "demo/nginx" in line
    assert "run" in done.stdout.splitlines()[-1]


def test_the_history_as_json_is_the_answer_of_the_port(running):
    told = json.loads(tiercel(running, "history", "-o", "json", "--state", "planned").stdout)
    assert told["runs"][-1]["run"] == running.run
    assert "No runs" in tiercel(running, "history", "--namespace", "nowhere").stdout


def test_the_ids_of_runs_are_completed(running):
    complete = ShellComplete(cli, {}, "tiercel", "_TIERCEL_COMPLETE")
    found = complete.get_completions(["show", "--server", running.admin], running.run[:3])
    assert running.run[:12] in [item.value for item in found]


def test_an_invalid_filter_is_a_usage_error(running):
    done = tiercel(running, "history", "--state", "gone")
    assert (done.exit_code, "waiting" in done.stderr) == (2, True)


def test_a_run_is_shown_as_a_story(running):
    done = tiercel(running, "show", running.run[:8])
    assert done.exit_code == 0
    for part in (
        "Terminal shell in container",
        "demo/nginx",
        "pod.label",
        "pods/nginx",
        running.run,
    ):
        assert part in done.stdout
    assert '"seen": "true"' in done.stdout  # the content of the request
    told = json.loads(tiercel(running, "show", running.run, "-o", "json").stdout)
    assert told["alert"]["rule"] == FALCO["rule"]


def test_dead_letters_and_dropped_runs_are_shown(tmp_path):
    once = PLAYBOOK.replace("  match:", "  throttle: {once: 10m}\n  match:")
    with engine(tmp_path, {"a.yaml": once}, "--dry-run") as running:
        for body in ("no event\x1b", alert(1), alert(2), alert(3)):
            running.post(body)
        told = tiercel(running, "explain", str(tmp_path / "playbooks"), "--recent").stdout
        verdicts = [line for line in told.splitlines() if "  mark-shell  " in line]
        assert ["throttle" in line for line in verdicts] == [False, True, True]
        assert "2000-01-01" not in told
        running.restart()  # deferred records are written at shutdown
        history = tiercel(running, "history").stdout
        assert "2 times  mark-shell  throttle" in history
        assert f"rule={FALCO['rule']}, namespace=demo, pod=nginx\n" in history
        dead = tiercel(running, "history", "--dead").stdout
        assert "not JSON" in dead
        assert "no event" in dead
        assert "\x1b" not in dead
        letters = json.loads(tiercel(running, "history", "--dead", "-o", "json").stdout)
        assert [(one["source"], one["body"]) for one in letters] == [("http", "no event\x1b")]
        later = ("history", "--dead", "--since")
        assert "no event" in tiercel(running, *later, "1h").stdout
        assert "No dead letters" in tiercel(running, *later, "9999-12-31T00:00:00Z").stdout
        assert tiercel(running, *later, "soon").exit_code == 2


@pytest.mark.parametrize("of", ["--playbook", "--namespace", "--state"])
def test_dead_letters_have_no_playbook_and_no_pod(running, of):
    done = tiercel(running, "history", "--dead", of, "done")
    assert (done.exit_code, of in done.stderr) == (2, True)


def test_the_line_of_a_denied_run_names_the_operator():
    denied = claim(DELETE, LABEL)
    results, position = advance(denied, Outcome("refused", "denied by ada"))
    told = summary_json(RunRecord(denied.run, results, position, 1, None, "refused"))
    assert (told["state"], told["message"]) == ("refused", "denied by ada")


def test_a_run_that_changed_nothing_cannot_be_undone_and_the_error_has_the_next_command(running):
    done = tiercel(running, "undo", running.run)
    assert (done.exit_code, done.stderr) == (
        1,
        "nothing is left of this run that can be undone\nto see its steps: tiercel show RUN\n",
    )


@pytest.mark.parametrize("act", ["show", "approve", "deny", "retry"])
def test_an_unknown_run_is_an_error_message_and_exit_1(running, act):
    done = tiercel(running, act, "0" * 32)
    assert (done.exit_code, done.stderr) == (
        1,
        "no run has this id\nto list the runs: tiercel history\n",
    )
    # for `show`, a word with a slash is an object of the cluster
    assert tiercel(running, act, "../status").exit_code == (2 if act == "show" else 1)


@pytest.mark.parametrize("act", ["approve", "deny", "retry"])
def test_an_impossible_command_is_an_error_message(running, act):
    done = tiercel(running, act, running.run[:12])
    assert done.exit_code == 1
    assert "planned" in done.stderr or "no step failed" in done.stderr


def test_a_pause_survives_a_restart_and_is_shown_everywhere(tmp_path):
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run") as running:
        assert tiercel(running, "pause").stdout == "paused: all\n"
        assert running.wait_for_audit(lambda line: line.get("decision") == "pause")["by"] == "local"
        running.restart()
        status, headers, said = running.post(alert(1))
        assert (status, said["runs"]) == (200, [])
        assert (headers["tiercel-mode"], headers["tiercel-paused"]) == ("dry-run", "*")
        assert running.get("/status")[2]["paused"] == ["*"]
        metrics = running.get("/metrics")[2]
        assert 'tiercel_events_total{result="paused",source="http"} 1.0' in metrics
        assert tiercel(running, "resume").stdout == "nothing is paused\n"
        _, headers, said = running.post(alert(2))
        (run,) = said["runs"]
        assert "tiercel-paused" not in headers
        running.wait_for_audit(lambda line: line.get("run") == run)


def test_one_playbook_is_paused_and_a_run_retried(tmp_path):
    folder = {"a.yaml": PLAYBOOK, "b.yaml": FAILS}
    with engine(tmp_path, folder, "--dry-run") as running:
        assert tiercel(running, "pause", "--playbook", "tell").stdout == "paused: tell\n"
        (run,) = running.post(alert(1))[2]["runs"]
        assert (
            running.wait_for_audit(lambda line: line.get("run") == run)["playbook"] == "mark-shell"
        )
        assert (
            tiercel(running, "resume", "--playbook", "mark-shell").stdout == "still paused: tell\n"
        )
        assert tiercel(running, "resume", "--playbook", "tell").exit_code == 0
        runs = running.post(alert(2))[2]["runs"]
        for run in runs:
            running.wait_for_audit(lambda line, run=run: line.get("run") == run)
        again = tiercel(running, "retry", runs[0], "--from", "pod.label")
        assert again.exit_code == 0
        twice = lambda line: line.get("run") == runs[0] and line is not first  # noqa: E731
        first = running.wait_for_audit(lambda line: line.get("run") == runs[0])
        running.wait_for_audit(twice)


def test_an_unknown_playbook_is_exit_2(running):
    for command in ("history", "pause", "resume"):
        done = tiercel(running, command, "--playbook", "mark-shel")
        said = "no playbook in force is called `mark-shel`; did you mean `mark-shell`?\n"
        assert (done.exit_code, done.stderr) == (2, said)


def test_the_server_and_the_token_come_from_the_environment(running, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("# of ada\n0123456789abcdef\n")
    monkeypatch.setenv("TIERCEL_SERVER", running.admin)
    monkeypatch.setenv("TIERCEL_OPERATOR_TOKEN_FILE", str(tmp_path / "token"))
    assert CliRunner().invoke(cli, ["history"]).exit_code == 0
    (tmp_path / "token").write_text("# nothing else\n")
    done = CliRunner().invoke(cli, ["history"])
    assert (done.exit_code, "contains no token" in done.stderr) == (2, True)


def test_a_probable_mistake_is_a_warning_on_stderr(tmp_path):
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run") as running:
        (run,) = running.post(alert(1))[2]["runs"]
        running.wait_for_audit(lambda line: line.get("run") == run)
        tiercel(running, "pause", "--reason", "an upgrade")
        told = running.wait_for_audit(lambda line: line.get("decision") == "pause")
        assert (list(told)[:3], told["reason"]) == (["time", "level", "event"], "an upgrade")
        done = tiercel(running, "retry", run, "--from", "pod.label", "--reason", "once more")
        assert (done.exit_code, "waits for the pause" in done.stderr) == (0, True)
        assert "retry pod.label by local: once more" in tiercel(running, "show", run).stdout


def test_operators_need_a_token_and_have_access_by_role(tmp_path):
    names = {"ada": "operate", "vic": "view"}
    lines = [
        f"{name} {role} {hashlib.sha256(f'the token of {name}'.encode()).hexdigest()}"
        for name, role in names.items()
    ]
    (tmp_path / "operators").write_text("\n".join(lines))
    for name in names:
        (tmp_path / name).write_text(f"# of {name}\nthe token of {name}  # not rotated yet\n")
    flags = ("--dry-run", "--operators-file", str(tmp_path / "operators"))
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, *flags) as running:
        assert tiercel(running, "history").exit_code == 2
        vic = ("--token-file", str(tmp_path / "vic"))
        assert tiercel(running, "history", *vic).exit_code == 0
        denied = tiercel(running, "pause", *vic)
        assert (denied.exit_code, "view" in denied.stderr) == (2, True)
        assert tiercel(running, "pause", "--token-file", str(tmp_path / "ada")).exit_code == 0
        decision = running.wait_for_audit(lambda line: line.get("decision") == "pause")
        assert (decision["by"], decision["playbook"]) == ("ada", "*")


def test_an_unreachable_engine_is_an_error_with_the_next_command():
    done = CliRunner().invoke(cli, ["history", "--server", "http://127.0.0.1:9"])
    assert done.exit_code == 2
    assert "tiercel serve" in done.stderr
