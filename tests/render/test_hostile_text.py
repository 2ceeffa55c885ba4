"""Untrusted text in every output: it cannot add lines, colors, text directions or commands."""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
import structlog
import yaml
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.intake.event_recorder import EventRecorder
from engine.model.safe_text import escape_json
from engine.server.messages import json_reply
from engine.telemetry.audit import Audit
from engine.telemetry.events import CommandExecuted
from engine.telemetry.logging import configure

EVIL = "x\n::error file=y::FORGED\r\x1b[31m\x1b[2J\x00\x7f\x9b\u202e\u2028\u0085\ufffe[a](b)</x>"
NAME = EVIL.replace("\x00", "").replace("/", "")
LABEL = {"action": "pod.label", "with": {"labels": {"a": "b"}}}
SPEC = {"match": {"rules": ["R"]}, "actions": [LABEL]}


def document(kind, name, spec):
    return yaml.safe_dump(
        {"apiVersion": "tiercel.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Create a folder whose file names, values, test and event contain text from an attacker."""
    monkeypatch.chdir(tmp_path)
    root = Path("playbooks", NAME)
    root.mkdir(parents=True)
    (root / f"{NAME}.yaml").write_text(document("Playbook", EVIL, {**SPEC, EVIL: EVIL}))
    (root / "values.yml").write_text(document(EVIL, "b", {}))
    (root / os.fsdecode(b"\xff\n.yaml")).write_text("a: [\n")
    (root / "link.yaml").symlink_to(f"/nowhere/{NAME}")
    good = Path("good", NAME)
    good.mkdir(parents=True)
    (good / f"{NAME}.yaml").write_text(document("Playbook", "a", SPEC))
    fields = {"k8s.ns.name": EVIL, "k8s.pod.name": EVIL}
    event = {"rule": "R", "output_fields": fields, "hostname": EVIL}
    case = {"name": EVIL, "event": {"rule": EVIL}, "expect": {"actions": [EVIL]}}
    (good / "t.yaml").write_text(document("PlaybookTest", "t", {"cases": [case]}))
    Path("events.ndjson").write_text(
        json.dumps({**event, "rule": "R"}) + "\n" + f'{{"rule": 5{EVIL}'
    )
    return tmp_path


def tiercel(*arguments):
    return CliRunner().invoke(cli, arguments, prog_name="tiercel", catch_exceptions=False)


def unsafe(text):
    """Return the control characters of a text, except newlines."""
    return {c for c in text if not c.isprintable() and c != "\n"}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "command",
    [
        ("check", "playbooks"),
        ("check", "playbooks", "-o", "github"),
        ("check", "playbooks", "-o", "junit"),
        ("check", "playbooks", "-o", "sarif"),
        ("check", "playbooks", "-o", "json"),
        ("check", NAME),
        ("test", "playbooks"),
        ("test", "good"),
        ("test", "good", "-o", "junit"),
        ("test", "good", "-o", "json"),
        ("plan", "playbooks", "events.ndjson"),
        ("plan", "good", "events.ndjson"),
        ("plan", "good", "events.ndjson", "-o", "json"),
        ("plan", "good", NAME),
        ("explain", "good", "events.ndjson"),
        ("explain", "good", "events.ndjson", "--playbook", EVIL.replace("\x00", "")),
        ("replay", "good", "events.ndjson"),
        ("replay", "good", "events.ndjson", "-o", "json"),
        ("replay", "good", "events.ndjson", "-o", "markdown"),
        ("replay", "good", "events.ndjson", "-o", "html"),
        ("replay", "good", NAME),
        ("digest", "playbooks"),
        ("rbac", "playbooks"),
        ("actions", NAME),
        ("import", "talon", "events.ndjson"),
    ],
    ids=lambda command: " ".join(command).encode("unicode_escape").decode(),
)
def test_no_command_prints_control_characters(command):
    result = tiercel(*command)
    for text in (result.stdout, result.stderr):
        assert not unsafe(text)
        assert not [
            line for line in text.splitlines() if line.startswith(("::error file=y", "FORGED"))
        ]
        assert "\ufffe" not in text
    if command[-1] == "junit":
        ET.fromstring(result.stdout)  # noqa: S314 - our own
    if command[-1] in ("json", "sarif") and command[0] != "plan":
        json.loads(result.stdout)
    if command[-1] == "github":
        lines = result.stdout.splitlines()
        assert all(line.startswith("::error file=playbooks/") for line in lines)
        assert len(lines) == len(json.loads(tiercel("check", "playbooks", "-o", "json").stdout))


@pytest.mark.usefixtures("folder")
def test_annotation_escapes_a_newline_in_a_file_name():
    Path("playbooks/x\ny.yaml").write_text("a: [\n")
    assert "file=playbooks/x%0Ay.yaml,line=" in tiercel("check", "playbooks", "-o", "github").stdout


@pytest.mark.usefixtures("folder")
def test_sarif_message_has_no_link():
    (result, *_) = [
        one
        for one in json.loads(tiercel("check", "playbooks", "-o", "sarif").stdout)["runs"][0][
            "results"
        ]
        if "](b)" in one["message"]["text"]
    ]
    assert "\\[a](b)" in result["message"]["text"]


def test_escaped_json_is_equal_and_has_no_control_characters():
    text = escape_json(json.dumps({EVIL: [EVIL, "é😀\U000e0001"]}, ensure_ascii=False))
    assert json.loads(text) == {EVIL: [EVIL, "é😀\U000e0001"]}
    assert not unsafe(text)
    assert "é😀" in text


def test_audit_and_event_record_escape_untrusted_text(tmp_path):
    stream = io.StringIO()
    Audit(stream)(CommandExecuted("approve", EVIL, 0.0, EVIL))
    record = EventRecorder(tmp_path / "record")
    record.add(msgspec.json.encode({"rule": EVIL, "output_fields": {EVIL: EVIL}}))
    record.add(msgspec.json.encode({"rule": "\x7f", "output_fields": {}}))
    record.flush()
    written = (tmp_path / "record").read_text(encoding="utf-8")
    for text, lines in ((stream.getvalue(), 1), (written, 2)):
        assert not unsafe(text)
        assert len(text.splitlines()) == lines
    assert json.loads(stream.getvalue())["by"] == EVIL
    assert json.loads(written.splitlines()[0])["rule"] == EVIL


@pytest.mark.parametrize("text", [False, True])
def test_log_line_escapes_untrusted_text(text):
    stream = io.StringIO()
    handlers = logging.getLogger().handlers[:]
    try:
        configure(stream, form="text" if text else "json")
        structlog.get_logger().warning(EVIL, error=EVIL, names=[EVIL])
        try:
            raise ValueError(EVIL)
        except ValueError:
            structlog.get_logger().exception("failed")
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = handlers
    written = stream.getvalue()
    assert not unsafe(written)
    assert not [line for line in written.splitlines() if line.startswith("::error")]


def test_http_response_has_no_control_characters():
    body = json_reply(400, {"error": EVIL, "name": "é"}).body.decode()
    assert json.loads(body) == {"error": EVIL, "name": "é"}
    assert not unsafe(body)
