"""What messages add to their text: the size of a digest, and what ``mode: notify`` did not do."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from engine.cluster.api import CallRecorder
from engine.cluster.simulated import AssumedCluster
from engine.execution.attempt import Clients, attempt
from engine.execution.budgets import BudgetLedger
from engine.execution.guardrails import GuardrailChecker
from engine.journal.budget_cache import BudgetCache
from engine.language.folder import Files
from engine.model.errors import TemporaryError
from engine.model.event import parse_event
from engine.model.playbook import Budget, Guardrails
from engine.model.run import Claim, StepResult
from engine.outbound.api import Answer, RequestRecorder
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory, plan
from tests.support.fakes import FakeAttemptStore
from tests.support.playbooks import new_loader

NOW = 1_772_359_200.0
PLAYBOOK = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: tell}
spec:
  mode: %s
  match: {rules: [R]}
  actions:
    - {action: pod.label, name: mark, with: {labels: {a: b}}}
    - {action: slack.post, with: {webhook: {fromSecret: hook}, text: "it was %%proc.name"}}
"""
RAILS = Guardrails(budgets=(Budget("notify", 2, 60.0, "playbook", on_exceeded="digest"),))


class Slack:
    """Accepts messages, after raising the given errors."""

    def __init__(self):
        self.messages, self.fails = [], []

    def post_slack_message(self, message, webhook, token):
        del webhook, token
        if self.fails:
            raise self.fails.pop()
        self.messages.append(message["text"])
        return Answer(200)

    def request(self, *_):
        return Answer(200)


class Messages:
    """Runs of one playbook at their message step. The test sets ``now``."""

    def __init__(self, ledger=None, mode="enforce", text=PLAYBOOK):
        text = (text % mode).encode()
        self.playbook = new_loader().load(Files("", {"a.yaml": text})).usable().playbooks[0]
        self.slack, self.now, self.states = Slack(), NOW, {}
        self.checker = GuardrailChecker(RAILS, ledger=ledger or BudgetLedger())

    def tell(self, number, results=(), *, dry=False):
        """Attempt the message of the run with that number, and return the outcome."""
        event = parse_event(
            {"rule": "R", "output_fields": {"proc.name": f"<{number}>"}}, salt=str(number)
        )
        (planned,) = plan(event, PlaybookIndex([self.playbook]), PlanningMemory())
        state = self.states.setdefault(number, {})
        claim = Claim(planned.run, 1, began=NOW, attempt_state=state, results=results)
        clients = Clients(CallRecorder(AssumedCluster(event)), RequestRecorder(self.slack), dry=dry)
        return attempt(claim, clients, self.checker, self.now, FakeAttemptStore(state))


def test_first_message_over_budget_becomes_the_digest_of_the_others():
    told = Messages()
    ended = [told.tell(number) for number in range(6)]
    assert [outcome.state for outcome in ended] == ["done", "done", "waiting", *["skipped"] * 3]
    assert ended[2].retry_in == 60.0
    assert "a digest counts this message" in ended[3].message
    told.now += 60.0
    assert told.tell(2).state == "done"
    assert told.slack.messages[2:] == ["it was &lt;2&gt;\nand 3 more like it"]


def test_after_a_digest_the_next_message_over_budget_becomes_a_digest():
    told = Messages()
    for number in range(4):
        told.tell(number)
    told.now += 60.0
    told.tell(2)
    assert [told.tell(n).state for n in range(10, 14)] == ["done", "done", "waiting", "skipped"]


def test_digest_of_one_message_is_that_message():
    told = Messages()
    for number in range(3):
        told.tell(number)
    told.now += 60.0
    told.tell(2)
    assert told.slack.messages[-1] == "it was &lt;2&gt;"


def test_digest_that_could_not_be_sent_is_retried_and_keeps_counting():
    told = Messages()
    for number in range(4):
        told.tell(number)
    told.now += 60.0
    told.slack.fails = [TemporaryError("down")]
    assert told.tell(2).state == "waiting"
    told.now += 1.0
    told.tell(2)
    assert told.slack.messages[-1].endswith("and 1 more like it")


def test_digest_size_survives_a_restart_and_an_overdue_digest_is_replaced():
    kept = {}
    told = Messages(BudgetLedger(BudgetCache(save=kept.update)))
    for number in range(5):
        told.tell(number)
    again = Messages(BudgetLedger(BudgetCache({k: v for k, v in kept.items() if v is not None})))
    again.now += 30.0
    assert again.tell(7).state == "skipped"  # the digest is not sent yet
    again.now += 100.0
    for number in (8, 9):
        again.tell(number)
    assert again.tell(10).state == "waiting"
    again.now += 60.0
    again.tell(10)
    assert again.slack.messages[-1].endswith("and 4 more like it")


def test_preview_does_not_create_a_digest():
    told = Messages()
    preview = Messages(told.checker._ledger)
    event = parse_event({"rule": "R"})
    (planned,) = plan(event, PlaybookIndex([preview.playbook]), PlanningMemory())
    for number in range(2):
        told.tell(number)
    clients = Clients(CallRecorder(AssumedCluster(event)), RequestRecorder(None))
    outcome = attempt(Claim(planned.run, 1), clients, told.checker, NOW)
    assert outcome.state == "skipped"


def test_mode_notify_adds_what_was_not_done():
    told = Messages(mode="notify")
    marked = StepResult("mark", "planned", "label a=<b>")
    assert told.tell(1, (marked,)).state == "done"
    (message,) = told.slack.messages
    assert message.endswith("Not done, because the playbook only notifies: mark: label a=&lt;b&gt;")


def test_blocks_get_the_note_too():
    told = Messages(mode="notify")
    step = told.playbook.steps[1]
    blocks = [{"type": "divider"}]
    told.playbook = replace(
        told.playbook,
        steps=(
            told.playbook.steps[0],
            msgspec.structs.replace(step, parameters={**step.parameters, "blocks": blocks}),
        ),
    )
    outcome = told.tell(1)
    assert outcome.state == "done"
    assert outcome.requests[0].body["blocks"][-1]["elements"][0]["text"].startswith("Not done")


HOOK = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: tell}
spec:
  mode: %s
  match: {rules: [R]}
  actions:
    - {action: pod.label, name: mark, with: {labels: {a: b}}}
    - action: http.request
      with: {url: "https://ops.example.com/", body: {run: "%%run.outcome", mark: "%%steps.mark.state"}}
"""


def hooked(*results, dry=False):
    """Return the note and the body of a webhook request in mode notify, after these results."""
    outcome = Messages(mode="notify", text=HOOK).tell(1, results, dry=dry)
    assert outcome.state == ("planned" if dry else "done"), outcome.message
    return outcome.requests[0].headers.get("Tiercel-Note"), outcome.requests[0].body


def test_note_of_a_webhook_is_in_a_header():
    note, body = hooked(StepResult("mark", "planned", "label a=<b>\nü%"))
    assert note == "Not done, because the playbook only notifies: mark: label a=<b>; %C3%BC%25"
    assert body == {"run": "planned", "mark": "planned"}


def test_hostile_message_cannot_inject_a_header():
    note, _ = hooked(StepResult("mark", "planned", "x\r\nEvil: 1\0" + "y" * 9000))
    assert len(note) <= 2000
    assert note.isascii()
    assert note.isprintable()


def test_sent_message_does_not_report_planned_steps_as_done():
    told = StepResult("tell", "done", "to hook")
    assert hooked(told, StepResult("mark", "planned", "x"))[1] == {
        "run": "planned",
        "mark": "planned",
    }
    assert hooked(told, StepResult("mark", "failed", "x"))[1] == {"run": "failed", "mark": "failed"}


def test_planned_step_renders_as_done_in_a_preview():
    assert hooked(StepResult("mark", "planned", "x"), dry=True)[1] == {
        "run": "done",
        "mark": "done",
    }


def test_digest_of_a_webhook_has_its_size_in_a_header():
    told = Messages(text=HOOK)
    ended = [told.tell(number) for number in range(6)]
    assert "Tiercel-Note" not in ended[0].requests[0].headers
    told.now += 60.0
    assert told.tell(2).requests[0].headers["Tiercel-Note"] == "and 3 more like it"


def test_event_of_the_engine_itself_is_suppressed():
    (playbook,) = (
        new_loader().load(Files("", {"a.yaml": (PLAYBOOK % "enforce").encode()})).playbooks
    )
    memory = PlanningMemory()
    memory.own_user = "system:serviceaccount:tiercel:tiercel"
    for user, suppressed in ((memory.own_user, "self"), ("system:serviceaccount:demo:x", None)):
        event = parse_event({"rule": "R", "output_fields": {"ka.user.name": user}}, salt=user)
        (planned,) = plan(event, PlaybookIndex([playbook]), memory)
        assert planned.suppressed == suppressed
