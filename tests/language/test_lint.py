"""Warnings about steps, and findings about folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.language.folder import Files

from tests.support.playbooks import new_loader

URL = "https://ops.example.com/x"
DOCUMENT = {
    "apiVersion": "tiercel.dev/v1", "kind": "Playbook", "metadata": {"name": "a"},
}  # fmt: skip
QUIET = {"match": {"rules": ["R"]}, "throttle": {"once": "1m"}}


def found(given, action="http.request", values=b"", **spec):
    step = {"action": action, "with": given}
    text = yaml.safe_dump({**DOCUMENT, "spec": {**QUIET, "actions": [step], **spec}})
    files = {"a.yaml": text.encode(), "values.yaml": values}
    return [(f.code, f.severity) for f in new_loader().load(Files("", files)).findings]


@pytest.mark.parametrize(
    "url",
    [
        "ticket.example.com", "ticket.example.com:443/x", "//ticket.example.com/x", "/x",
        "https:///x", "https://", "http://:80/x", "https://user@/x", "https://?q=a", "ftp://h/x",
        "%proc.name", "%{proc.name}://host/x", "javascript:alert(1)", "https:/host/x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["enforce", "disabled"])
def test_a_url_without_scheme_or_host_is_an_error(url, mode):
    assert ("bad-value", "error") in found({"url": url}, mode=mode)


@pytest.mark.parametrize(
    "url",
    [URL, "HTTP://h", "http://h:8080", "https://%k8s.ns.name.example.com/", "https://[::1]/x",
     "https://h/%{proc.cmdline}?a=%proc.name", "https://h:%fd.sport/x"],
)  # fmt: skip
def test_a_url_with_scheme_and_host_is_valid(url):
    assert found({"url": url}) == []


@pytest.mark.parametrize(
    "given",
    [
        {"url": URL, "headers": {"Authorization": "Bearer abc"}},
        {"url": URL, "headers": {"authorization": "Basic dXNlcjpwYXNz"}},
        {"url": URL, "headers": {"X-Api-Key": "abc"}},
        {"url": URL, "headers": {"X-Vault-Token": "s.abc"}},
        {"url": URL, "headers": {"Cookie": "session=1"}},
        {"url": URL, "headers": {"X-Other": "Bearer abcdefghijklmnop"}},
        {"url": URL + "?token=abcdef"},
        {"url": "https://hooks.slack.com/services/T0/B0/abc"},
        {"url": "https://discord.com/api/webhooks/1/abc"},
        {"url": URL, "body": {"a": [{"routing_key": "abc"}]}},
        {"url": URL, "body": {"password": "abc"}},
        {"url": URL, "body": ["glpat-abcdefghijklmnopqrst"]},
        {"url": URL, "body": "-----BEGIN RSA PRIVATE KEY-----\nabc"},
        {"url": URL, "headers": {"Authorization": "Bearer ${token}"}},
    ],
)
def test_a_credential_in_plain_text_is_a_warning(given):
    assert found(given, values=b"token: abc") == [("literal-credential", "warning")]


@pytest.mark.parametrize(
    "given",
    [
        {"url": URL, "headers": {"Authorization": {"fromSecret": "token"}}},
        {"url": URL, "headers": {"Content-Type": "application/json", "X-Team": "soc"}},
        {"url": URL, "headers": {"X-Token": "%proc.name"}},
        {"url": URL + "?key=%proc.name&q=a"},
        {"url": URL, "body": {"secretName": "a", "text": "the basic idea", "key": "a"}},
    ],
)
def test_a_value_that_is_not_a_credential_is_not_a_warning(given):
    assert found(given) == []


def test_a_finding_does_not_repeat_the_credential():
    text = yaml.safe_dump(
        {**DOCUMENT, "spec": {**QUIET, "actions": [
            {"action": "http.request", "with": {"url": URL, "headers": {"Authorization": "hunter2"}}}
        ]}}
    )  # fmt: skip
    (finding,) = new_loader().load(Files("", {"a.yaml": text.encode()})).findings
    assert "hunter2" not in str(finding)
    assert "`Authorization` contains a credential" in str(finding)
    assert "secret" in finding.what


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        ('{"command": "%proc.cmdline"}', ["text-as-json"]),
        ('\n [{"a": "%{proc.cmdline}"}]\n', ["text-as-json"]),
        ('{"command": "fixed"}', []),
        ('{"percent": "100%% sure"}', []),
        ("[%rule] happened to {%proc.name}", []),
        ("%rule", []),
        ({"command": "%proc.cmdline"}, []),
    ],
)
def test_text_that_looks_like_json_and_has_templates_is_a_warning(body, codes):
    assert [code for code, _ in found({"url": URL, "body": body})] == codes


@pytest.mark.parametrize(
    ("second", "found"),
    [
        ({"with": {"message": "is %steps.seen.answer.x"}}, ["no-answer"]),
        (
            {"with": {"message": "is %{steps.pod.label.answer[0]} %{steps.seen.answer.x}"}},
            ["no-answer"] * 2,
        ),
        (
            {"with": {"message": "x"}, "when": [{"step": "seen", "jsonPath": "$.x", "equals": 1}]},
            ["no-answer"],
        ),
        ({"with": {"message": "%steps.seen.state %steps.seen.message %%steps.seen.answer.x"}}, []),
        ({"with": {"message": "%steps.ticket.answer.x"}}, []),
        (
            {
                "with": {"message": "x"},
                "when": [{"step": "ticket", "jsonPath": "$.x", "equals": 1}],
            },
            [],
        ),
    ],
)
def test_the_answer_of_a_step_that_never_has_one_is_a_warning(second, found):
    steps = [
        {"action": "pod.label", "with": {"labels": {"a": "b"}}},
        {"action": "kubernetes.event", "name": "seen", "with": {"message": "x"}},
        {"action": "http.request", "name": "ticket", "with": {"url": URL}},
        {"action": "kubernetes.event", "name": "last", **second},
    ]
    text = yaml.safe_dump({**DOCUMENT, "spec": {**QUIET, "actions": steps}})
    findings = new_loader().load(Files("", {"a.yaml": text.encode()})).findings
    assert [one.code for one in findings] == found
    assert all(
        "kubernetes.event has none" in one.what or "pod.label" in one.what for one in findings
    )


def tiercel(*arguments, stdin=None):
    return CliRunner().invoke(cli, arguments, stdin, prog_name="tiercel", catch_exceptions=False)


def findings(*arguments, stdin=None):
    result = tiercel("check", *arguments, "-o", "json", stdin=stdin)
    findings = json.loads(result.stdout)
    return result.exit_code, [(one["file"], one["code"], one["severity"]) for one in findings]


def test_a_folder_or_file_without_documents_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("playbooks").mkdir()
    assert findings() == (1, [("playbooks", "nothing-found", "error")])
    Path("playbooks/a.yaml").write_text("# nothing yet\n---\n")
    Path("playbooks/values.yaml").write_text("a: 1\n")
    assert findings() == (1, [("playbooks", "nothing-found", "error")])
    assert findings("playbooks/a.yaml") == (1, [("playbooks/a.yaml", "nothing-found", "error")])
    assert findings("-", stdin="") == (1, [("<stdin>", "nothing-found", "error")])
    Path("playbooks/a.yaml").write_text("a: [\n")
    assert findings() == (1, [("playbooks/a.yaml", "yaml-syntax", "error")])


def test_check_and_test_read_stdin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prod.yaml").write_text("why: x\n")
    label = {"action": "pod.label", "with": {"labels": {"why": "${why}"}}}
    case = {"name": "c", "event": {"rule": "S"}, "expect": {"nothing": True}}
    conditions = [{"field": "k8s.ns.name", "in": ["a"]}]
    text = yaml.safe_dump_all(
        [
            {**DOCUMENT, "spec": {**QUIET, "conditions": conditions, "actions": [label]}},
            {**DOCUMENT, "kind": "PlaybookTest", "spec": {"cases": [case]}},
        ]
    )  # fmt: skip
    assert findings("-", "--values", "prod.yaml", stdin=text) == (0, [])
    assert findings("-", stdin=text) == (1, [("<stdin>", "missing-value", "error")])
    assert tiercel("test", "-", "--values", "prod.yaml", stdin=text).exit_code == 0
    result = tiercel("check", "-", stdin="kind: [\n")
    assert (result.exit_code, result.stdout.partition(": error")[0]) == (1, "<stdin>:2:1")
    assert findings("-", stdin="#" * (2 << 20)) == (1, [("<stdin>", "yaml-limit", "error")])
