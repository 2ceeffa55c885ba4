from __future__ import annotations

import pytest
from engine.cluster.api import POD, CallRecorder
from engine.execution.attempt import Clients, attempt
from engine.execution.attempt_store import PREVIEW_STORE
from engine.execution.budgets import BudgetLedger, Charge
from engine.execution.guardrails import GuardrailChecker
from engine.execution.retry import wait_before
from engine.language.folder import Files
from engine.model.calls import ObjectChange
from engine.model.errors import PermanentError, TemporaryError
from engine.model.event import parse_event
from engine.model.playbook import Budget, Guardrails, Retry
from engine.model.run import Claim, Run, StepResult, advance, run_outcome
from engine.outbound.api import RequestRecorder
from tests.contracts.test_actions import NOW, a_pod, alert, world
from tests.language.test_loader import files, playbook
from tests.support.fakes import FakeAttemptStore, FakeHttpClient
from tests.support.playbooks import new_loader

LABEL = {"action": "pod.label", "with": {"labels": {"a": "b"}}}
DELETE = {"action": "pod.delete"}
SLACK = {"action": "slack.post", "with": {"webhook": {"fromSecret": "s"}, "text": "hi"}}


def claim(*steps, at=0, event=None, **of):
    """Return a claim on a step of a playbook with these steps."""
    found = new_loader().load(Files("", files(p=playbook("p", actions=list(steps)))))
    assert not found.errors
    run = Run("0" * 32, found.playbooks[0], event or alert(), NOW, "demo/web-0")
    return Claim(run, at, **({"began": NOW} | of))


def act(claim, server=None, *, now=NOW, http=None, store=PREVIEW_STORE, dry=False):
    cluster = (server or world()).cluster
    clients = Clients(
        CallRecorder(cluster, None if dry else cluster),
        RequestRecorder(None if dry else http or FakeHttpClient()),
        dry=dry,
    )
    return attempt(claim, clients, GuardrailChecker(), now, store)


def answering(*statuses):
    server = world()
    server.answers = [(status, {}) for status in statuses]
    return server


def busy(after):
    server = world()
    server.answers = [(503, {"Retry-After": after})]
    return server


class Broken:
    """A cluster or HTTP client whose methods raise an error."""

    def __init__(self, error):
        self.error = error

    def _fail(self, *_, **__):
        raise self.error

    get = list = send = request = post_slack_message = _fail


def test_wait_doubles_up_to_the_maximum():
    assert [wait_before(n, 1, 60) for n in (2, 3, 4, 8, 9, 10_000)] == [1, 2, 4, 60, 60, 60]


def test_only_answers_use_up_attempts():
    busy, down = answering(500), answering(503)
    assert act(claim(LABEL, answers=2), busy).retry_in is not None
    outcome = act(claim(LABEL, answers=3, attempt=9), answering(500))
    assert (outcome.state, outcome.retry_in) == ("failed", None)
    assert "gave up after 9 attempts" in outcome.message
    for n in (1, 1000):
        waiting = act(claim(LABEL, answers=3, attempt=n, began=NOW - 1e6), down)
        down.answers = [(429, {})]
        assert (waiting.state, waiting.answered) == ("waiting", False)
        assert waiting.retry_in <= 60


def test_wait_follows_the_server_or_is_limited_by_max_delay():
    waits = {act(claim(LABEL), busy("90")).retry_in for _ in range(50)}
    assert 90 <= min(waits) < max(waits) <= 108  # never earlier, and not all at once
    assert act(claim(LABEL), busy("86400")).retry_in == 3600
    step = {**LABEL, "retry": {"delay": "10s", "maxDelay": "12s"}}
    for _ in range(50):
        assert 8 <= act(claim(step), answering(500)).retry_in <= 12
        assert act(claim(step, attempt=5), answering(500)).retry_in <= 12


@pytest.mark.parametrize("asked", ["0", "1"])
def test_backoff_applies_to_a_server_that_asks_for_no_wait(asked):
    waits = [act(claim(LABEL, attempt=n), busy(asked)).retry_in for n in (1, 2, 3, 4, 5, 50)]
    for wait, least in zip(waits, [1, 2, 4, 8, 16, 60], strict=True):
        assert 0.8 * least <= wait <= 1.2 * least


def test_error_with_again_sets_the_wait():
    soon = Broken(TemporaryError("not there yet", again=1.0))
    assert act(claim(SLACK, attempt=50), http=soon).retry_in == 1.0


def test_notification_gives_up_after_give_up():
    silent = Broken(TemporaryError("no answer"))
    patient = {**SLACK, "retry": {"giveUp": "10m"}}
    assert act(claim(patient), http=silent, now=NOW + 599).state == "waiting"
    assert act(claim(patient), http=silent, now=NOW + 600).state == "failed"
    assert act(claim(SLACK), http=silent, now=NOW + 3599).state == "waiting"
    assert act(claim(SLACK), http=silent, now=NOW + 3600).state == "failed"
    answers = Broken(TemporaryError("a 500", answered=True))
    assert act(claim(SLACK), http=answers, now=NOW + 3600).state == "waiting"


@pytest.mark.parametrize(("status", "state"), [(403, "failed"), (400, "failed"), (422, "failed"),
                                               (404, "skipped"), (500, "waiting"),
                                               (401, "waiting")])  # fmt: skip
def test_status_of_the_api_server_decides_the_outcome(status, state):
    outcome = act(claim(LABEL), answering(status))
    assert outcome.state == state
    if status == 403:
        assert "missing right: patch on pods" in outcome.message


@pytest.mark.parametrize(
    "error", [RuntimeError("secret-value"), KeyError("x"), RecursionError(), SystemExit("plugin")]
)
def test_internal_error_fails_the_step_without_details_and_delays_an_undo(error):
    clients = Clients(
        CallRecorder(Broken(error), Broken(error)), RequestRecorder(Broken(error)), dry=False
    )
    for step in (LABEL, DELETE, SLACK):
        outcome = attempt(claim(step), clients, GuardrailChecker(), NOW)
        assert outcome.state == "failed"
        assert outcome.message == f"internal error: {type(error).__name__}"
    change = ObjectChange(POD, "demo", "web-0", "u1", ("metadata", "labels", "a"), "b")
    for attempts, wait in ((1, 5.0), (99, 600.0)):
        undoing = claim(LABEL, undo="1" * 32, changes=(change,), attempt=attempts)
        outcome = attempt(undoing, clients, GuardrailChecker(), NOW)
        assert (outcome.state, outcome.retry_in, outcome.error) == ("waiting", wait, error)


def test_permanent_error_fails_the_step_at_once():
    outcome = act(claim(SLACK), http=Broken(PermanentError("channel_not_found")))
    assert (outcome.state, outcome.retry_in, outcome.message) == (
        "failed",
        None,
        "channel_not_found",
    )


def test_interrupted_step_is_repeated_only_if_it_is_repeatable():
    assert act(claim(LABEL, interrupted=True)).state == "done"
    failed = act(claim(SLACK, interrupted=True))
    assert (failed.state, "may have run" in failed.message) == ("failed", True)
    assert act(claim(SLACK, interrupted=True), dry=True).state == "planned"  # nothing was sent


def test_a_repeated_step_says_that_an_interrupted_attempt_may_have_run_too():
    unknown, facts = {**SLACK, "retry": {"unknown": True}}, {}
    store = FakeAttemptStore(facts)
    again = act(claim(unknown, interrupted=True), store=store)
    later = act(claim(unknown, attempt=3, attempt_state=facts), store=store)
    for outcome in (again, later):
        assert outcome.state == "done"
        assert outcome.message.endswith("; an interrupted attempt may have run, too")
    assert "may have run" not in act(claim(unknown), store=FakeAttemptStore()).message
    repeatable = claim({**LABEL, "retry": {"unknown": True}}, interrupted=True)
    assert "may have run" not in act(repeatable).message


def test_pod_that_is_gone_after_our_delete_is_done():
    server, facts = world(), {}
    first = act(claim(DELETE), server, store=FakeAttemptStore(facts))
    assert (first.state, facts["sent"]) == ("done", "pod.delete")
    again = claim(DELETE, attempt=2, attempt_state=facts, interrupted=True)
    assert act(again, server).state == "done"
    server.let_go()
    assert act(again, server).state == "done"
    server.put(a_pod(uid="a-fresh-one"))
    assert act(again, server).state == "done"
    assert server.find("Pod", "web-0", "demo")["metadata"]["uid"] == "a-fresh-one"


def test_pod_found_by_container_that_is_gone_after_our_delete_is_done():
    event = alert(**{"k8s.ns.name": None, "k8s.pod.name": None, "container.id": "0a1b2c3d4e5f"})
    server, facts = world(), {}
    assert act(claim(DELETE, event=event), server).state == "done"
    server = world()
    act(claim(DELETE, event=event), server, store=FakeAttemptStore(facts))
    server.let_go()
    again = claim(DELETE, event=event, attempt=2, attempt_state=facts, interrupted=True)
    assert act(again, server).state == "done"
    assert act(claim(DELETE, event=event), server).state == "skipped"


def test_pod_that_something_else_deleted_is_skipped():
    server = world()
    server.interfere = server.objects.clear
    assert act(claim(DELETE), server).state == "skipped"
    assert (
        act(claim(DELETE, attempt_state={"uid": "x", "sent": "another.step"}), server).state
        == "skipped"
    )


def test_attempt_with_an_outdated_claim_sends_nothing():
    server = world()
    outcome = act(claim(DELETE), server, store=FakeAttemptStore(open=False))
    assert outcome.retry_in is not None
    assert not server.wrote


class LoggingStore(FakeAttemptStore):
    """An attempt store that logs the keys of the saved values."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def keep(self, claim, facts):
        self.log.append(sorted(facts))
        return super().keep(claim, facts)


def test_uid_is_saved_before_the_call_is_sent():
    server, log = world(), []
    server.interfere = lambda: log.append("call")
    act(claim(DELETE), server, store=LoggingStore(log))
    assert log == [["uid"], ["sent", "uid"], "call"]


def when(*conditions, results=(), dry=False):
    second = {**LABEL, "name": "second", "when": list(conditions)}
    return act(claim(LABEL, second, at=1, results=results), dry=dry)


def test_step_runs_only_if_all_conditions_of_when_hold():
    yes, no = {"field": "proc.cmdline", "equals": "sh"}, {"field": "proc.cmdline", "equals": "x"}
    assert when(yes, yes).state == "done"
    assert when(yes, no).message == "when: proc.cmdline equals x is false"
    absent = when({"field": "no.such", "notIn": ["a"]})
    assert (absent.state, absent.message.endswith("is unknown")) == ("skipped", True)


def test_when_can_read_the_state_and_answer_of_an_earlier_step():
    done = (StepResult("pod.label", "done", answer={"id": 7}),)
    failed = (StepResult("pod.label", "failed"),)
    ended = {"step": "pod.label", "is": ["done", "skipped"]}
    assert when(ended, results=done).state == "done"
    assert when(ended, results=failed).state == "skipped"
    answered = {"step": "pod.label", "jsonPath": "$.id", "gt": 5}
    assert when(answered, results=done).state == "done"
    assert when(answered, results=failed).state == "skipped"


def test_planned_step_counts_as_done_in_a_preview():
    planned = (StepResult("pod.label", "planned"),)
    assert when({"step": "pod.label", "is": ["done"]}, results=planned, dry=True).state == "planned"
    assert (
        when({"step": "pod.label", "is": ["failed"]}, results=planned, dry=True).state == "skipped"
    )
    told = when({"step": "pod.label", "jsonPath": "$.id", "gt": 5}, results=planned, dry=True)
    assert (told.state, "$.id gt 5" in told.message) == ("planned", True)


def test_value_that_the_parameter_does_not_allow_is_refused():
    hostile = {"action": "pod.label", "with": {"labels": {"cmd": "%proc.cmdline"}}}
    server = world()
    outcome = act(claim(hostile, event=alert(**{"proc.cmdline": "a b\nc"})), server)
    assert (outcome.state, server.wrote) == ("refused", [])
    assert "\n" not in outcome.message


def test_failure_skips_the_other_actions_but_not_finally():
    steps = [LABEL, {**LABEL, "name": "b"}]
    found = new_loader().load(
        Files("", files(p=playbook("p", actions=steps, **{"finally": [{**LABEL, "name": "c"}]})))
    )
    run = Run("0" * 32, found.playbooks[0], parse_event({"rule": "r"}), NOW, "t")
    for state, position in (("failed", 2), ("refused", 2), ("skipped", 1), ("done", 1)):
        outcome = act(claim(LABEL))
        ended = advance(Claim(run, 0), type(outcome)(state, "why"))
        assert ended[1] == position
        assert [r.state for r in ended[0]] == [state, *["skipped"] * (position - 1)]
    assert advance(Claim(run, 2), type(outcome)("failed", "why"))[1] is None


def test_outcome_of_a_run_is_its_worst_result():
    def ended(*states):
        return run_outcome([StepResult(state, state) for state in states])

    assert ended("done", "failed", "refused") == "failed"
    assert ended("done", "refused", "skipped") == "refused"
    assert ended("skipped", "done") == "done"
    assert ended("skipped") == ended() == "skipped"
    assert ended("held", "skipped") == "planned"  # a dry run does not wait for approval


def test_defaults_of_retry():
    assert Retry() == Retry(4, 1.0, 60.0, 3600.0, unknown=False)


def over(step, **of):
    """Attempt a step that exceeds its budget. Return the outcome, the attempt state and the calls."""
    full = BudgetLedger()
    rails = Guardrails(budgets=(Budget("disrupt", 1, 600.0, "cluster"),), hold_for=60.0)
    full.charge(rails, Charge("disrupt", "pod.delete", "p", "another"), NOW)
    kept, server, now = {}, world(), of.pop("now", NOW)
    clients = Clients(
        CallRecorder(server.cluster, server.cluster), RequestRecorder(FakeHttpClient()), dry=False
    )
    checker = GuardrailChecker(rails, ledger=full)
    outcome = attempt(claim(step, **of), clients, checker, now, FakeAttemptStore(kept))
    return outcome, kept, clients.cluster.calls


def test_step_over_budget_is_held_and_denied_without_approval():
    held, kept, calls = over(DELETE)
    assert (held.state, held.retry_in, calls) == ("held", 60.0, [])
    again = over(DELETE, attempt_state=kept, now=NOW + 20)[0]  # claimed again after a crash
    assert (again.state, again.retry_in) == ("held", 40.0)
    denied = over(DELETE, attempt_state=kept, now=NOW + 60)[0]
    assert (denied.state, denied.retry_in) == ("refused", None)
    assert "denied: no approval within 1m" in denied.message


def test_approved_step_runs_and_names_the_approver():
    kept = over(DELETE)[1]
    allowed, _, calls = over(
        DELETE, attempt_state={**kept, "verdict": [DELETE["action"], "approve", "alice"]}
    )
    assert (allowed.state, len(calls)) == ("done", 1)
    assert "approved by alice" in allowed.message


def test_denied_step_is_refused_even_if_the_budget_is_free_again():
    facts = {"held": [DELETE["action"], NOW], "verdict": [DELETE["action"], "deny", "bob"]}
    denied, _, calls = over(DELETE, attempt_state=facts)
    assert (denied.state, denied.message, calls) == ("refused", "denied by bob", [])
    free = act(claim(DELETE, attempt_state=facts))
    assert (free.state, free.message) == ("refused", "denied by bob")


def test_approval_applies_to_one_step_only():
    held = over(DELETE, attempt_state={"verdict": ["another", "approve", "alice"]})[0]
    assert held.state == "held"


KILL = {
    "action": "http.request",
    "with": {"url": "https://f.example/%k8s.pod.name", "effect": "disrupt"},
}


@pytest.mark.parametrize("dry", [False, True])
def test_disruptive_request_has_the_pod_of_the_event_as_target(dry):
    done = act(claim(KILL), dry=dry)
    assert (done.state, len(done.requests)) == ("planned" if dry else "done", 1)
    assert done.uid
    shut = alert(**{"k8s.ns.name": "kube-system", "k8s.pod.name": "coredns"})
    server = world()
    system = a_pod()
    system["metadata"] |= {"namespace": "kube-system", "name": "coredns"}
    server.put(system)
    for event, state in (
        (shut, "refused"),
        (alert(**{"k8s.pod.name": "gone"}), "skipped"),
        (alert(**{"k8s.pod.uid": "another"}), "skipped"),
        (parse_event({"rule": "R", "output_fields": {"proc.name": "nc"}}), "skipped"),
    ):
        ended = act(claim(KILL, event=event), server, dry=dry)
        assert (ended.state, ended.requests) == (state, ()), ended.message


def test_disruptive_request_is_charged_to_the_namespace_of_its_pod():
    checker = GuardrailChecker(
        Guardrails(budgets=(Budget("disrupt", 1, 60.0, "namespace", on_exceeded="drop"),))
    )
    server = world()
    other = a_pod()
    other["metadata"] |= {"name": "web-1", "uid": "u-web-1"}
    server.put(other)

    def kill(event):
        clients = Clients(
            CallRecorder(server.cluster, server.cluster),
            RequestRecorder(FakeHttpClient()),
            dry=False,
        )
        return attempt(claim(KILL, event=event), clients, checker, NOW).state

    assert kill(alert()) == "done"
    assert kill(alert(**{"k8s.pod.name": "web-1"})) == "refused"


@pytest.mark.parametrize("dry", [False, True])
def test_expected_status_is_not_checked_in_a_preview(dry):
    step = {"action": "http.request", "with": {"url": "https://x.example/", "expect": [201]}}
    ended = act(claim(step), dry=dry)
    assert ended.state == ("planned" if dry else "failed")


def test_header_names_ignore_case():
    headers = {"content-type": "text/x", "IDEMPOTENCY-KEY": "mine", "X-Team": "soc"}
    step = {
        "action": "http.request",
        "with": {"url": "https://x.example/", "headers": headers, "body": {}},
    }
    (request,) = act(claim(step), dry=True).requests
    assert request.headers == headers
    step["with"]["headers"] = {"X-Team": "%proc.cmdline"}
    hostile = alert(**{"proc.cmdline": "x\r\nEvil: 1"})
    ended = act(claim(step, event=hostile), dry=True)
    assert (ended.state, ended.requests) == ("refused", ())


@pytest.mark.parametrize(
    ("given", "code", "what"),
    [
        ({"url": "x.example/a"}, "bad-value", "http://"),
        ({"url": "https:///a"}, "bad-value", "host"),
        ({"url": "x.example/%proc.name"}, "bad-value", "http://"),
        ({"url": "%proc.name"}, "bad-value", "http://"),
        ({"url": r"http://2130706433\.example.com/"}, "bad-value", "host"),
        ({"url": "https://ada:canary@x.example/"}, "bad-value", "password"),
        ({"headers": {"X Team": "a"}}, "bad-parameter", "header"),
        ({"headers": {"X\nTeam": "a"}}, "bad-parameter", "header"),
        ({"headers": {"": "a"}}, "bad-parameter", "header"),
        ({"headers": {"X-Team": "a", "x-team": "b"}}, "bad-parameter", "given twice"),
        ({"headers": {"content-length": "1"}}, "bad-parameter", "sets itself"),
        ({"headers": {"Host": "other.example"}}, "bad-parameter", "sets itself"),
        ({"headers": {"X-Team": "a\nb"}}, "bad-parameter", "header value"),
    ],
)
def test_request_that_cannot_be_sent_is_a_finding(given, code, what):
    step = {"action": "http.request", "with": {"url": "https://x.example/", **given}}
    found = new_loader().load(Files("", files(p=playbook("p", actions=[step]))))
    (finding,) = found.errors
    assert (finding.code, what in finding.what) == (code, True), finding
    assert "canary" not in finding.what


@pytest.mark.parametrize(
    "url", ["https://%k8s.ns.name.x.example/", "http://x.example:80/%%20/%rule"]
)
def test_literal_part_of_a_url_is_checked(url):
    step = {"action": "http.request", "with": {"url": url}}
    assert not new_loader().load(Files("", files(p=playbook("p", actions=[step])))).errors


def test_a_message_that_was_sent_is_done_even_if_the_journal_takes_no_more_state():
    token = {"token": {"fromSecret": "t"}, "channel": "C1", "text": "hi"}
    threaded = {"action": "slack.post", "with": token}
    store = FakeAttemptStore(open=False)
    assert act(claim(threaded), store=store).state == "done"

    class Full:
        """A store of budgets that is full as soon as a message was sent."""

        def update_budgets(self, keys, decide, now):
            del now
            if http.sent:
                raise TemporaryError("disk full")
            return decide({key: {"count": 3, "until": NOW} for key in keys})[1]

    http, checker = FakeHttpClient(), GuardrailChecker(ledger=BudgetLedger(Full()))
    digest = claim(SLACK, attempt_state={"digest": "slack.post"})
    clients = Clients(CallRecorder(world().cluster), RequestRecorder(http), dry=False)
    assert attempt(digest, clients, checker, NOW, FakeAttemptStore()).state == "done"
    assert "and 2 more like it" in str(http.sent)
