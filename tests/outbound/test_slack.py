"""slack.post: Slack accepts the message for any event, and the event creates no link and no mention."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from engine.cluster.api import CallRecorder
from engine.cluster.simulated import AssumedCluster
from engine.execution.attempt import Clients, attempt
from engine.execution.guardrails import GuardrailChecker
from engine.language.folder import Files
from engine.model.event import parse_event
from engine.model.run import Claim, advance
from engine.outbound.api import RequestRecorder
from engine.outbound.client import LiveHttpClient
from engine.outbound.secrets import Secrets
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory, plan
from tests.language.test_loader import files, playbook
from tests.support.fakes import FakeAttemptStore
from tests.support.playbooks import new_loader

LIMITS = {"header": 150, "section": 3000, "context": 3000}
NOW = 1_772_359_200.0


class Slack(ThreadingHTTPServer):
    """A fake Slack that enforces its limits. strict: reject all blocks. messages: the accepted messages."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.messages, self.strict = [], False
        self.url = f"http://127.0.0.1:{self.server_port}"

    def fault(self, message):
        blocks = message.get("blocks", [])
        if blocks and (self.strict or len(blocks) > 50 or not all(map(self._fits, blocks))):
            return "invalid_blocks"
        if not 0 < len(message["text"]) <= 40_000 or re.search(
            r"&(?!amp;|lt;|gt;)", message["text"]
        ):
            return "no_text"
        return None

    @staticmethod
    def _fits(block):
        texts = [(block["text"]["text"], LIMITS[block["type"]])] if "text" in block else []
        texts += [(field["text"], 2000) for field in block.get("fields", [])]
        texts += [(element["text"], 3000) for element in block.get("elements", [])]
        whole = all(0 < len(text) <= most for text, most in texts)
        return whole and not any(re.search(r"&(?!amp;|lt;|gt;)", text) for text, _ in texts)


class _Answers(BaseHTTPRequestHandler):
    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.server.fault(message)
        if not fault:
            self.server.messages.append(message)
        if self.path.startswith("/api/"):
            said = {"ok": not fault, "error": fault, "ts": "1.2", "channel": "C1"}
            status, body = 200, json.dumps(said).encode()
        else:
            status, body = (400, fault.encode()) if fault else (200, b"ok")
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def slack():
    with Slack() as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        yield one
        one.shutdown()
        thread.join()


WEBHOOK = {"webhook": {"fromSecret": "hook"}}
TOKEN = {"token": {"fromSecret": "bot"}, "channel": "#soc"}


def loaded(given, mode="enforce"):
    steps = [{"action": "slack.post", "with": given}]
    return new_loader().load(Files("", files(p=playbook("p", mode=mode, actions=steps))))


def tell(slack, tmp_path, given, **fields):
    """Attempt a slack.post step for an event with these fields; return the outcome."""
    (tmp_path / "hook").write_text(f"{slack.url}/services/x")
    (tmp_path / "bot").write_text("xoxb-1")
    found = loaded(given)
    assert not found.errors, found.errors
    fields = {name.replace("_", "."): value for name, value in fields.items()}
    event = parse_event({"rule": "R", "output_fields": fields})
    (planned,) = plan(event, PlaybookIndex(found.playbooks), PlanningMemory())
    outside = LiveHttpClient(Secrets(tmp_path), timeout=30, slack_api=f"{slack.url}/api/")
    clients = Clients(CallRecorder(AssumedCluster(event)), RequestRecorder(outside), dry=False)
    return attempt(Claim(planned.run, 0, began=NOW), clients, GuardrailChecker(), NOW)


HOSTILE = {
    "long": "x" * 5000,
    "ampersands": "&" * 5000,
    "angles": "<>" * 2500,
    "mixed": "a&b<c>" * 800,
    "list": ["&" * 4000] * 3,
}
TEXTS = "%proc.cmdline %proc.exepath %proc.pcmdline %proc.name"
BLOCKS = [
    {"type": "header", "text": {"type": "plain_text", "text": "Shell: %proc.cmdline"}},
    {"type": "section", "text": {"type": "mrkdwn", "text": "*%rule* `%proc.cmdline` <https://r.test|book>"}},
    {"type": "section", "fields": [{"type": "mrkdwn", "text": "%proc.cmdline"}] * 2},
    {"type": "context", "elements": [{"type": "plain_text", "text": "%proc.cmdline, %proc.exepath"}]},
]  # fmt: skip


@pytest.mark.parametrize("way", [WEBHOOK, TOKEN], ids=["webhook", "token"])
def test_slack_accepts_the_message_for_any_event(slack, tmp_path, way):
    for value in HOSTILE.values():
        said = {"proc_cmdline": value, "proc_exepath": value, "proc_pcmdline": value}
        for given in ({"text": TEXTS * 4}, {"text": TEXTS, "blocks": BLOCKS}):
            slack.messages.clear()
            outcome = tell(slack, tmp_path, {**way, **given}, **said)
            assert outcome.state == "done", outcome.message
            (message,) = slack.messages
            assert message["blocks"]
            if given.get("blocks"):
                section = message["blocks"][1]["text"]["text"]
                assert section.startswith("*R* `")
                assert section.endswith("` <https://r.test|book>")


def test_only_text_over_the_limit_is_cut(slack, tmp_path):
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "%proc.cmdline|%proc.name"}}]
    given = {**WEBHOOK, "text": "%proc.cmdline", "blocks": blocks}
    assert tell(slack, tmp_path, given, proc_cmdline="&" * 1000, proc_name="nc").state == "done"
    (message,) = slack.messages
    assert message["text"] == "&amp;" * 1000
    section = message["blocks"][0]["text"]["text"]
    assert re.fullmatch(r"(&amp;){598,599}…\|nc", section)
    assert len(section) <= 3000


@pytest.mark.parametrize("way", [WEBHOOK, TOKEN], ids=["webhook", "token"])
def test_rejected_blocks_are_omitted(slack, tmp_path, way):
    slack.strict = True
    outcome = tell(
        slack, tmp_path, {**way, "text": "it is %proc.name", "blocks": BLOCKS}, proc_name="nc"
    )
    assert outcome.state == "done"
    assert "invalid_blocks" in outcome.message
    ((message),) = slack.messages
    assert message["text"] == "it is nc"
    assert "blocks" not in message
    assert len(outcome.requests) == 2


@pytest.mark.parametrize("way", [WEBHOOK, TOKEN], ids=["webhook", "token"])
def test_an_event_creates_no_link_and_no_mention(slack, tmp_path, way):
    said = "<!channel> <https://evil.test|x> @here #general https://evil.test evil.test"
    for blocks in ({}, {"blocks": BLOCKS}):
        tell(slack, tmp_path, {**way, "text": "%proc.cmdline", **blocks}, proc_cmdline=said)
    for message in slack.messages:
        assert "<" not in message["text"]
        assert (message["parse"], message["link_names"]) == ("none", False)
        assert (message["unfurl_links"], message["unfurl_media"]) == (False, False)
        objects = [b["text"] for b in message["blocks"] if "text" in b]
        objects += [f for b in message["blocks"] for f in b.get("fields", [])]
        assert all(one.get("verbatim") for one in objects if one["type"] == "mrkdwn")


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"blocks": [{"type": "divider"}] * 51}, "50 blocks"),
        ({"blocks": [{"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}]}, "150"),
        ({"blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3001}}]}, "3,000"),
        ({"blocks": [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x" * 2001}]}]}, "2,000"),
        ({"text": "x" * 40_001}, "40,000"),
        ({"blocks": [{"type": "markdown", "text": "%proc.name"}]}, "markdown"),
        ({"blocks": {"type": "divider"}}, "list"),
    ],
)  # fmt: skip
def test_literal_texts_over_the_limits_are_findings(given, what):
    found = loaded({**WEBHOOK, "text": "x", **given})
    assert any(what in str(error) for error in found.errors), found.errors


def test_literal_texts_within_the_limits_are_valid():
    blocks = [{"type": "divider"}] * 49
    blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3000}})
    assert not loaded({**WEBHOOK, "text": "x" * 40_000, "blocks": blocks}).errors


@pytest.mark.parametrize("way", [WEBHOOK, TOKEN], ids=["webhook", "token"])
def test_without_a_text_the_message_names_rule_pod_command_and_the_undo_command(
    slack, tmp_path, way
):
    fields = {
        "k8s_ns_name": "demo",
        "k8s_pod_name": "web-0",
        "proc_cmdline": "sh -c '<!channel> " + "x" * 5000,
    }
    outcome = tell(slack, tmp_path, way, **fields)
    assert outcome.state == "done", outcome
    (message,) = slack.messages
    first, second, third = message["text"].split("\n")
    assert first == "*R*"
    assert second.startswith("demo/web-0: sh -c '&lt;!channel&gt; xxx")
    assert re.fullmatch(r"p\. To undo it: tiercel undo [0-9a-f]{32}", third)


def test_the_messages_of_a_run_share_one_thread_unless_the_step_says_none(slack, tmp_path):
    (tmp_path / "bot").write_text("xoxb-1")
    for thread, expected in (({}, [None, "1.2"]), ({"thread": "none"}, [None, None])):
        slack.messages.clear()
        steps = [
            {"action": "slack.post", "name": n, "with": {**TOKEN, **thread}} for n in ("a", "b")
        ]
        found = new_loader().load(Files("", files(p=playbook("p", actions=steps))))
        event = parse_event({"rule": "R"})
        (planned,) = plan(event, PlaybookIndex(found.playbooks), PlanningMemory())
        outside = LiveHttpClient(Secrets(tmp_path), timeout=30, slack_api=f"{slack.url}/api/")
        store, results = FakeAttemptStore(), ()
        for position in (0, 1):
            claim = Claim(
                planned.run, position, began=NOW, results=results, attempt_state=store.attempt_state
            )
            clients = Clients(
                CallRecorder(AssumedCluster(event)), RequestRecorder(outside), dry=False
            )
            results, _ = advance(claim, attempt(claim, clients, GuardrailChecker(), NOW, store))
        assert [message.get("thread_ts") for message in slack.messages] == expected
    assert "p: done. To undo it" in slack.messages[1]["text"]
