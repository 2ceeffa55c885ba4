"""Why a playbook wants an event or does not, from the command line."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from engine.cli import admin_client as running
from engine.cli.command_group import cli

PLAYBOOK = """
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: mark-shell}
spec:
  match: {rules: ["Terminal shell in container"], priority: Notice, tags: [shell]}
  conditions:
    - {field: k8s.ns.name, notIn: [kube-system]}
    - any:
        - {field: proc.nam, equals: bash}
        - {field: fd.lport, gt: 1000}
  actions: [{action: pod.label, with: {labels: {seen: "true"}}}]
"""
EVENT = {
    "rule": "Terminal shell in container", "priority": "Notice", "tags": ["shell"],
    "time": "2026-03-01T10:00:00Z",
    "output_fields": {"k8s.ns.name": "demo", "k8s.pod.name": "web-0", "proc.name": "bash", "fd.lport": "x"},
}  # fmt: skip


@pytest.fixture
def explain(tmp_path):
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "a.yaml").write_text(PLAYBOOK)

    def run(*options, code=0, **changes):
        (tmp_path / "e.json").write_text(json.dumps(EVENT | changes))
        files = [str(tmp_path / "playbooks"), str(tmp_path / "e.json")]
        done = CliRunner().invoke(cli, ["explain", *files, *options])
        assert done.exit_code == code, done.output
        return done.output

    return run


def line(text, *words):
    return next((one for one in text.splitlines() if all(word in one for word in words)), "")


def test_every_matcher_and_condition_is_shown_with_the_value_of_the_event(explain):
    told = explain()
    assert line(told, "yes", "priority", "Notice or worse", "is Notice")
    assert line(told, "yes", "tags.any", "[shell]")
    assert line(told, "yes", "k8s.ns.name", "notIn [kube-system]", "is demo")
    assert line(told, "unknown", "proc.nam ", "equals bash", "(absent)")
    assert "does not match" in told


def test_near_misses_are_reported(explain):
    told = explain()
    assert "the event has `proc.name`" in told
    assert "it is text, which the operator cannot compare" in told
    assert "differs by a few letters" in explain(rule="Terminal shell in contaner")


def test_only_the_first_failed_row_is_marked(explain):
    told = explain(priority="Debug", tags=[])
    assert line(told, "<- failed first").split()[:2] == ["no", "priority"]
    assert told.count("<- failed first") == 1


def test_a_playbook_of_another_rule_is_one_line_unless_it_is_named(explain):
    assert "1 playbook selects other rules: mark-shell" in explain(rule="Another")
    assert line(explain("--playbook", "mark-shell", rule="Another"), "no", "rules", "is Another")
    assert "Did you mean `mark-shell`?" in explain("--playbook", "mark-shel", code=2)


def test_a_suppressed_match_shows_the_reason(explain, tmp_path):
    fits = {**EVENT["output_fields"], "fd.lport": 2000}
    assert "matches and starts a run" in explain(output_fields=fits)
    (tmp_path / "playbooks" / "s.yaml").write_text(
        "apiVersion: tiercel.dev/v1\nkind: Silence\nmetadata: {name: quiet}\n"
        "spec: {match: {everything: true}, until: 2030-01-01T00:00:00Z, owner: me, comment: c}\n"
    )
    assert "starts no run: silence: quiet" in explain(output_fields=fits)


def test_a_line_that_is_not_an_event_is_reported(explain):
    assert "e.json:1: `priority` is not one of" in explain(priority="Loud", code=1)


def test_without_an_engine_the_error_names_the_next_command(explain, tmp_path):
    explain()
    folder = str(tmp_path / "playbooks")
    asked = ["explain", folder, "--recent", "--server", "http://127.0.0.1:9"]
    done = CliRunner().invoke(cli, asked)
    assert (done.exit_code, "tiercel serve" in done.output) == (2, True)
    assert running.DEFAULT_SERVER in CliRunner().invoke(cli, ["explain", "-h"]).output
