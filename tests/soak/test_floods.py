"""A flood of messages is cut to its budget and one digest."""

from __future__ import annotations

import json
import time

import pytest
from tests.soak.watch import NOWHERE, PATIENT
from tests.support.engine import engine, wait_until
from tests.support.intake import alert
from tests.support.slack import Webhook

TELL = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: tell}
spec:
  match: {everything: true}
  actions:
    - {action: slack.post, with: {webhook: {fromSecret: hook}, text: "%rule"}}
"""
RAILS = """\
apiVersion: tiercel.dev/v1
kind: Guardrails
metadata: {name: default}
spec:
  budgets: [{effect: notify, limit: LIMIT, per: PERs, scope: playbook, onExceeded: digest}]
"""
LIMIT = 5
"""Messages in one window of the budget."""


@pytest.fixture
def slack():
    with Webhook() as server:
        yield server


def test_a_flood_of_messages_is_cut_to_a_budget_and_a_digest(tmp_path, slack, size):
    many, per = size.of(300, 20_000), size.of(2, 30)
    (tmp_path / "secrets").mkdir()
    url = f"http://{slack.address}/services/x"
    (tmp_path / "secrets" / "hook").write_text(url)
    (tmp_path / "kubeconfig").write_text(json.dumps(NOWHERE))
    secrets, nowhere = str(tmp_path / "secrets"), str(tmp_path / "kubeconfig")
    flags = ("--secrets-dir", secrets, "--kubeconfig", nowhere)
    rails = RAILS.replace("LIMIT", str(LIMIT)).replace("PER", str(per))
    with engine(tmp_path, {"tell.yaml": TELL, "rails.yaml": rails}, *flags) as running:
        began = time.monotonic()
        for first in range(0, many, 500):
            alerts = [alert(n) for n in range(first, min(first + 500, many))]
            assert running.post(alerts)[0] == 202
        queue = lambda: running.get("/status")[2]["queue"]  # noqa: E731
        ended = lambda: queue()["waiting"] == queue()["running"] == 0  # noqa: E731
        wait_until(ended, "the runs do not end", PATIENT)
        sent = [(at, message["text"]) for at, message in slack.messages]
        digests = [text for _, text in sent if "more like it" in text]
        told = sum(int(t.rpartition("and ")[2].split()[0].replace(",", "")) + 1 for t in digests)
        plain = [at for at, text in sent if "more like it" not in text]
        assert told + len(plain) == many  # each is either sent or counted in a digest
        # a window is over ``per`` after its first message: so many there can have been, at most
        assert LIMIT <= len(plain) <= LIMIT * (1 + (plain[-1] - began) // per)
        assert 1 <= len(digests) <= 1 + (slack.messages[-1][0] - began) // per
        size.tell(events=many, messages=len(plain), digests=len(digests))
