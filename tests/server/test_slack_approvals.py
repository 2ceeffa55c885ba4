"""Buttons in Slack, over Socket Mode: who may press, what a press does, and what the message shows."""

from __future__ import annotations

import hashlib
import json
import random

import pytest
from engine.cluster.api import CallRecorder
from engine.execution.attempt import Clients, attempt
from engine.execution.guardrails import GuardrailChecker
from engine.journal.records import AcceptBatch
from engine.journal.sqlite.journal import SqliteJournal
from engine.language.folder import Files
from engine.model.run import Run
from engine.outbound import slack_socket
from engine.outbound.api import RequestRecorder
from engine.outbound.client import LiveHttpClient
from engine.outbound.secrets import Secrets
from engine.outbound.slack_socket import SlackSocket
from engine.runtime.slack_buttons import _Poster
from engine.server import slack_messages
from engine.server.operator_auth import OperatorsFile
from engine.server.operator_commands import Author, OperatorCommands
from engine.server.slack_approvals import SlackApprovals
from engine.server.slack_messages import SlackMessages, Update
from engine.telemetry.events import CommandRefused, Observers
from tests.contracts.test_actions import NOW, alert, world
from tests.language.test_loader import files, playbook
from tests.support.playbooks import new_loader, playbook_from_snapshot
from tests.support.slack import APP_TOKEN, BOT_TOKEN, CHANNEL, TEAM, Slack

ALICE, BOB, VIC, MALLORY = "U0ALICE", "U0BOB", "U0VIC", "U0MALLORY"
OPERATORS = f"""\
alice operate slack:{TEAM}/{ALICE}
bob operate slack:{TEAM}/{BOB}
vic view slack:{TEAM}/{VIC}
carol operate {hashlib.sha256(b"x" * 40).hexdigest()}
"""
POST = {
    "action": "slack.post",
    "with": {
        "token": {"fromSecret": "bot"}, "channel": CHANNEL, "buttons": True,
        "text": "%held.step of %playbook: %proc.cmdline <!channel>",
    },
}  # fmt: skip


class Replica:
    """What an engine process has for Slack, over one journal."""

    def __init__(self, folder, journal, slack):
        self.events, self.journal, self.slack = [], journal, slack
        observers = Observers(self.events.append)
        self.commands = OperatorCommands(
            journal=journal, observers=observers, wake=lambda: None,
            apply_pauses=lambda _: None, now=lambda: NOW, playbooks=set,
        )  # fmt: skip
        self.messages = SlackMessages(journal, self.commands, _Poster(folder, slack.api))
        self.approvals = SlackApprovals(
            journal, self.commands, OperatorsFile(folder / "operators"), self.messages,
            observers.notify,
        )  # fmt: skip
        observers.add(self.approvals)
        tokens = Secrets(folder)
        self.socket = SlackSocket(
            slack.api, lambda: tokens.read("app"), self.approvals.on_envelope,
            self.approvals.on_oversized,
        )  # fmt: skip

    def start(self):
        opened = self.slack.opened
        self.messages.start()
        self.socket.start()
        self.slack.wait_for(lambda: self.slack.opened > opened)
        return self

    def stop(self):
        self.socket.stop()
        self.messages.stop()

    @property
    def refused(self):
        return [(one.by, one.why) for one in self.events if isinstance(one, CommandRefused)]

    @property
    def decided(self):
        return [(o.what, o.by, o.missing) for o in self.events if not isinstance(o, CommandRefused)]


class Engine:
    """A journal with held runs, and a replica."""

    def __init__(self, folder, slack):
        (folder / "operators").write_text(OPERATORS)
        (folder / "app").write_text(APP_TOKEN)
        (folder / "bot").write_text(BOT_TOKEN)
        self.folder, self.slack = folder, slack
        self.journal = SqliteJournal(folder / "j.db", playbook_from_snapshot)
        self.http = LiveHttpClient(Secrets(folder), slack_api=slack.api)
        self.replica = Replica(folder, self.journal, slack)
        self.numbers = iter(range(1, 1000))

    def hold(self, approvals=1, **given):
        """Hold a run, and post its message. Return the run's id and the place of the message."""
        step = {
            "action": "approval.wait", "name": "ask", "with": {"approvals": approvals, **given},
        }  # fmt: skip
        rails = {**playbook("rails", "Guardrails"), "spec": {"onHeld": [POST]}}
        folder = Files("", files(p=playbook("asks", actions=[step]), rails=rails))
        found = new_loader().load(folder)
        assert not found.errors
        number = next(self.numbers)
        run = Run(f"{number:032x}", found.playbooks[0], alert(), NOW, f"demo/web-{number}")
        self.journal.accept(AcceptBatch([run]), NOW).result()
        checker = GuardrailChecker(found.guardrails)
        for _ in ("the step", "its message"):
            (claim,) = self.claims()
            self.journal.settle(claim, self.attempt(claim, checker), NOW)
        return run.id, self.slack.message()

    def attempt(self, claim, checker):
        cluster = world().cluster
        clients = Clients(CallRecorder(cluster, cluster), RequestRecorder(self.http), dry=False)
        return attempt(claim, clients, checker, NOW, self.journal)

    def claims(self):
        return [one for pool in ("cluster", "slow") for one in self.journal.claim(pool, 9, NOW)]

    def held(self):
        return self.journal.counts()["held"]


@pytest.fixture(scope="module")
def slack():
    with Slack() as it:
        yield it


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(slack_socket, "MIN_DELAY", 0.01)
    monkeypatch.setattr(slack_socket, "MAX_DELAY", 0.02)
    monkeypatch.setattr(slack_messages, "FIRST_RETRY", 0.01)


@pytest.fixture
def engine(tmp_path, slack):
    made = Engine(tmp_path, slack)
    made.replica.start()
    yield made
    made.replica.stop()
    made.journal.close()
    slack.wait_for(lambda: not slack.connections)


def context(body):
    return [block["elements"][0]["text"] for block in body["blocks"] if block["type"] == "context"]


def test_a_press_decides_once_and_the_message_shows_who_decided(engine, slack):
    run, place = engine.hold()
    before = slack.messages[place]
    (buttons,) = [it["elements"] for it in before["blocks"] if it["type"] == "actions"]
    assert [it["text"]["text"] for it in buttons] == ["Approve", "Deny"]
    assert "<!channel>" in before["text"]  # by the author; the value of the event is escaped
    envelope = slack.press(place, "approve", ALICE)
    slack.wait_for(lambda: envelope["envelope_id"] in slack.acknowledged)
    assert engine.held() == 0
    assert engine.replica.decided == [("approve", "alice", 0)]
    said = f"Approved by alice (step ask): Slack button ({TEAM}/{ALICE})"
    slack.wait_for(lambda: context(slack.messages[place]) == [said])
    after = slack.messages[place]
    assert [it["type"] for it in after["blocks"]] == ["section", "context"]
    assert after["blocks"][0] == before["blocks"][0]
    (claim,) = engine.claims()
    assert (claim.run.id, claim.approval.by) == (run, "alice")

    slack.sent_and_acknowledged(envelope)  # Slack sends an envelope again
    assert engine.replica.refused == []
    slack.press_button(place, buttons[1], BOB)  # another client still shows the buttons
    note = slack.wait_for(
        lambda: [body for method, body in slack.calls if method == "chat.postEphemeral"]
    )
    assert (note[-1]["user"], "alice approved it" in note[-1]["text"]) == (BOB, True)
    assert engine.replica.refused[0][0] == f"slack:{TEAM}/{BOB}"
    assert engine.replica.decided == [("approve", "alice", 0)]


def test_two_people_press_and_the_same_person_counts_once(engine, slack):
    run, place = engine.hold(approvals=2)
    slack.press(place, "approve", ALICE)
    slack.wait_for(lambda: context(slack.messages[place]))
    assert [it["type"] for it in slack.messages[place]["blocks"]] == [
        "section", "actions", "context",
    ]  # fmt: skip
    slack.press(place, "approve", ALICE)
    slack.wait_for(lambda: engine.replica.refused)
    assert engine.replica.refused[-1][1] == "alice has approved already; the step needs 1 more"
    engine.replica.commands.decide(run, "approve", Author("carol", "by command"))
    slack.wait_for(lambda: len(context(slack.messages[place])[0].splitlines()) == 2)
    assert context(slack.messages[place])[0].endswith("Approved by carol (step ask): by command")
    assert slack.messages[place]["blocks"][-2]["type"] == "section"
    assert engine.held() == 0


def test_a_hold_that_ends_by_itself_or_by_command_loses_its_buttons(engine, slack):
    run, place = engine.hold()
    engine.replica.messages.add(Update(run, "denied: no approval within 15m"))
    slack.wait_for(lambda: context(slack.messages[place]) == ["denied: no approval within 15m"])
    other, place = engine.hold()
    engine.replica.commands.decide(other, "deny", Author("carol", "<a test>"))
    slack.wait_for(
        lambda: context(slack.messages[place]) == ["Denied by carol (step ask): &lt;a test&gt;"]
    )


HOSTILE = {
    "an unknown user": ({}, MALLORY, "no operator has this Slack account"),
    "role view": ({}, VIC, "vic has the role view, which does not allow commands"),
    "another workspace": (
        {"user": {"id": ALICE, "team_id": "T0OTHER"}}, ALICE, "no operator has this Slack account",
    ),
    "another app": ({"api_app_id": "A0OTHER"}, ALICE, "the button belongs to another Slack app"),
    "no app": ({"api_app_id": ""}, ALICE, "the button belongs to another Slack app"),
    "a user id with a slash": (
        {"user": {"id": f"{TEAM}/{ALICE}", "team_id": ""}, "team": None}, ALICE,
        "no operator has this Slack account",
    ),
    "another message": (
        {"container": {"channel_id": CHANNEL, "message_ts": "1.000001"}}, ALICE,
        "the button is not in the message about this hold",
    ),
    "an unknown run": (
        {"value": json.dumps({"run": "f" * 32, "notice": "e" * 32})}, ALICE,
        "no run has this id",
    ),
    "no JSON": ({"value": "{"}, ALICE, "the value of the button is not valid"),
    "other keys": ({"value": '{"run": "1", "x": 2}'}, ALICE, "the value of the button is not valid"),
    "a list": ({"actions": "approve"}, ALICE, "the payload is not a press of a button"),
    "no user": ({"user": None}, ALICE, "the payload is not a press of a button"),
}  # fmt: skip


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """An engine with one held run that nobody may decide, and a Slack of its own."""
    with Slack() as slack:
        made = Engine(tmp_path_factory.mktemp("attacked"), slack)
        made.run, made.place = made.hold()
        made.replica.start()
        yield made
        made.replica.stop()
        made.journal.close()
        assert made.replica.decided == []


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_press_is_refused_and_audited(attacked, case):
    changes, user, why = HOSTILE[case]
    slack = attacked.slack
    count = len(attacked.replica.refused)
    envelope = slack.press(attacked.place, "approve", user, **changes)
    slack.wait_for(lambda: envelope["envelope_id"] in slack.acknowledged)
    assert len(attacked.replica.refused) == count + 1
    assert attacked.replica.refused[-1][1] == why
    assert attacked.held() == 1


def test_a_button_of_another_run_does_not_decide_this_one(engine, slack):
    _, mine = engine.hold()
    other, _ = engine.hold()
    (buttons,) = [it for it in slack.messages[mine]["blocks"] if it["type"] == "actions"]
    notice = json.loads(buttons["elements"][0]["value"])["notice"]
    value = json.dumps({"run": other, "notice": notice})
    slack.press(mine, "approve", ALICE, value=value)
    slack.wait_for(lambda: engine.replica.refused)
    why = engine.replica.refused[-1][1]
    assert why == "the button does not belong to the current hold of this run"
    assert engine.held() == 2


def test_messages_that_are_not_envelopes_are_ignored(engine, slack):
    run, place = engine.hold()
    generator = random.Random(7)  # noqa: S311 - repeatable
    for text in (
        "", "[]", "null", "{", "[" * 5_000, '{"type": 1}', '{"envelope_id": {}}',
        '{"type": "interactive", "envelope_id": ""}', json.dumps({"envelope_id": "x" * 1_000}),
        *("".join(chr(generator.randrange(32, 0x2FFF)) for _ in range(50)) for _ in range(20)),
    ):  # fmt: skip
        slack.send(text)
    for kind in ("slash_commands", "events_api"):
        envelope = slack.send(slack.envelope({"command": "/approve"}, kind))
        slack.wait_for(lambda envelope=envelope: envelope["envelope_id"] in slack.acknowledged)
    assert engine.held() == 1
    slack.press(place, "approve", ALICE)
    slack.wait_for(lambda: engine.held() == 0)
    assert run


def test_an_oversized_message_ends_the_connection_is_audited_and_the_next_one_works(engine, slack):
    _, place = engine.hold()
    opened = slack.opened
    slack.send("x" * (slack_socket.MAX_MESSAGE + 1))
    slack.wait_for(lambda: slack.opened > opened)
    assert engine.replica.refused == [("", "a message of Slack was larger than the limit")]
    slack.press(place, "deny", BOB)
    slack.wait_for(lambda: engine.held() == 0)


def test_the_connection_comes_back_after_a_refresh_a_failure_and_a_wrong_token(engine, slack):
    _, place = engine.hold()
    for reason in ("warning", "refresh_requested", "link_disabled"):
        opened = slack.opened
        slack.send({"type": "disconnect", "reason": reason, "debug_info": {"host": "applink"}})
        slack.wait_for(lambda opened=opened: slack.opened > opened)
    opened, calls = slack.opened, len(slack.calls)
    (engine.folder / "app").write_text("xapp-wrong")
    slack.drop()
    slack.wait_for(lambda: len(slack.calls) >= calls + 3)  # it keeps trying
    assert slack.opened == opened
    (engine.folder / "app").write_text(APP_TOKEN)
    slack.wait_for(lambda: slack.opened > opened)
    slack.press(place, "approve", ALICE)
    slack.wait_for(lambda: engine.held() == 0)


def test_two_replicas_decide_once_and_post_once(engine, slack):
    run, place = engine.hold(approvals=2)
    posted = [body for method, body in slack.calls if method == "chat.postMessage"]
    second = Replica(engine.folder, engine.journal, slack).start()
    try:
        first, other = slack.connections[-2:]
        for connection in (first, other):  # Slack sends the same press to both
            slack.press(place, "approve", ALICE, connection)
        slack.wait_for(lambda: len(engine.replica.events) + len(second.events) >= 2)
        made = sorted(engine.replica.decided + second.decided)
        assert made == [("approve", "alice", 1)]
        slack.press(place, "approve", BOB, other)
        slack.wait_for(lambda: engine.held() == 0)
        assert engine.journal.find(run).decisions[-1].by == "bob"
        assert posted == [body for method, body in slack.calls if method == "chat.postMessage"]
    finally:
        second.stop()


def test_an_update_is_repeated_until_slack_takes_it(engine, slack):
    run, place = engine.hold()
    slack.failing, before = True, len(slack.calls)
    try:
        engine.replica.commands.decide(run, "deny", Author("carol"))
        slack.wait_for(lambda: "chat.update" in [method for method, _ in slack.calls[before:]])
    finally:
        slack.failing = False
    slack.wait_for(lambda: context(slack.messages[place]))


@pytest.mark.parametrize(
    "url",
    [
        "ws://evil.example/link",
        "wss://127.0.0.1/link",
        "http://127.0.0.1/",
        "",
        "ws://127.0.0.1.evil/",
    ],
)
def test_a_connection_to_another_host_is_refused(slack, monkeypatch, url):
    monkeypatch.setattr(slack_socket, "call_web_api", lambda *_: {"ok": True, "url": url})
    socket = SlackSocket(slack.api, lambda: APP_TOKEN, lambda *_: None, lambda: None)
    with pytest.raises(slack_socket.PermanentError, match="named a connection"):
        socket._open()
