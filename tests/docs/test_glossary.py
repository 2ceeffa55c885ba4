"""The glossary contains each state and each key of the audit."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from engine.server.admin_api import STATES
from engine.telemetry.audit import Audit
from engine.telemetry.events import CommandExecuted
from tests.execution.test_attempt import LABEL, act, claim
from tests.telemetry.test_audit import line

WORDS = set(re.findall(r"`([^`]+)`", (Path(__file__).parents[2] / "docs/glossary.md").read_text()))


def test_each_state_is_explained():
    assert {*STATES, "planned", "undone"} <= WORDS


def test_each_key_of_the_audit_is_explained():
    one = claim(LABEL)
    stream = io.StringIO()
    Audit(stream)(CommandExecuted("pause", "ada", 0.0, "p"))
    assert {*line(one, act(one)), *json.loads(stream.getvalue())} <= WORDS
