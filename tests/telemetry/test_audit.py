"""The audit: a line of every attempt, of what it was about, what it saw, and what came of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from engine.model.errors import TemporaryError
from engine.model.run import Outcome, advance
from engine.telemetry.audit import Audit
from engine.telemetry.events import UNWRITTEN, Observers, Settled
from tests.contracts.test_actions import NOW, a_pod, alert, world
from tests.execution.test_attempt import DELETE, LABEL, SLACK, Broken, act, answering, claim
from tests.execution.test_worker_pool import TELL, Engine, Failing

UID = world().find("Pod", "web-0", "demo")["metadata"]["uid"]


def line(claim, outcome, became="next"):
    stream = io.StringIO()
    Audit(stream)(Settled(claim, outcome, became, NOW))
    return json.loads(stream.getvalue())


@pytest.mark.parametrize("step", [LABEL, DELETE])
@pytest.mark.parametrize("dry", [True, False])
def test_the_attempt_that_acted_tells_the_uid_of_its_target(step, dry):
    one = claim(step)
    told = line(one, act(one, dry=dry))
    assert (told["state"], told["uid"]) == ("planned" if dry else "done", UID)


def test_an_attempt_that_is_tried_again_tells_the_uid_and_what_was_sent():
    one = claim(LABEL)
    told = line(one, act(one, answering(500)), "waiting")
    assert (told["state"], told["uid"], len(told["calls"])) == ("waiting", UID, 1)
    http = claim(
        {"action": "http.request", "with": {"url": "https://ops.example.com/", "body": "x"}}
    )
    told = line(http, act(http, http=Broken(TemporaryError("a 500", answered=True))), "waiting")
    assert (told["state"], [request["body"] for request in told["requests"]]) == ("waiting", ["x"])


def test_a_pod_that_is_gone_is_told_as_it_was_found_before_and_a_message_is_about_none():
    gone = claim(LABEL, attempt_state={"uid": "u-1"})
    assert line(gone, act(gone, world(pod=a_pod(uid="u-2"))))["uid"] == "u-1"
    message = claim(LABEL, SLACK, at=1, attempt_state={"uid": "u-1"})
    assert line(message, act(message))["uid"] is None


@pytest.mark.parametrize("verdict", ["approve", "deny"])
def test_leave_is_told_of_the_step_that_it_was_given_or_denied_to_and_of_no_other(verdict):
    facts = {"verdict": ["pod.delete", verdict, "ada"]}
    asked, later = (
        claim(DELETE, LABEL, attempt_state=facts),
        claim(DELETE, LABEL, at=1, attempt_state=facts),
    )
    assert line(asked, act(asked))["approval"] == {"verdict": verdict, "by": "ada", "reason": ""}
    assert line(later, act(later))["approval"] is None


WHEN = {**LABEL, "when": [{"not": {"field": "proc.name", "equals": "bash"}}]}


def test_what_a_when_saw_is_told_with_the_first_attempt_at_its_step():
    event = alert(**{"proc.name": "curl"})
    seen = [{"condition": "proc.name equals bash", "value": "curl"}]
    one = claim(SLACK, WHEN, at=1, event=event)
    assert line(one, act(one))["conditions"] == seen
    assert line(replace(one, attempt=2), act(one))["conditions"] == []
    assert line(replace(one, attempt=2, interrupted=True), act(one))["conditions"] == seen


@pytest.mark.parametrize("value", ["x" * 5000, ["x"] * 5000, {"x": "y" * 5000}])
def test_a_value_that_is_too_long_is_cut_whatever_it_is(value):
    one = claim(WHEN, event=alert(**{"proc.name": value}))
    (told,) = line(one, act(one))["conditions"]
    assert len(told["value"]) == 1000
    assert told["value"].endswith("…")


def test_the_steps_that_a_failed_one_stops_are_told_with_it():
    one = claim({**LABEL, "name": "first"}, DELETE, {**SLACK, "name": "tell"})
    assert line(one, Outcome("refused", "no"))["skips"] == ["pod.delete", "tell"]
    assert line(one, Outcome("done", ""))["skips"] == []
    assert line(one, Outcome("failed", "", retry_in=1.0), "waiting")["skips"] == []
    assert [result.step for result in advance(one, Outcome("failed", ""))[0][1:]] == [
        "pod.delete",
        "tell",
    ]


def test_of_a_long_answer_the_audit_has_the_beginning():
    http = claim({"action": "http.request", "with": {"url": "https://x.example/"}})
    told = line(http, Outcome("done", "x", answer={"a": "y" * 60_000}), "done")
    assert told["answer"].startswith('{"a":"yyy')
    assert len(told["answer"]) == 1000


def test_half_of_a_letter_in_a_servers_answer_costs_no_line():
    one = claim(SLACK)
    for stream in (io.StringIO(), io.TextIOWrapper(io.BytesIO(), "ascii", newline="")):
        Audit(stream)(Settled(one, Outcome("done", "ü", answer={"x": "\ud800"}), "done", NOW))
        stream.seek(0)
        assert json.loads(stream.read())["answer"] == {"x": "?"}


def test_one_who_cannot_be_told_keeps_it_from_nobody_else():
    def broken(_):
        raise RuntimeError

    told = []
    Observers(broken, told.append).notify(Settled(claim(LABEL), Outcome("done", ""), "done", NOW))
    assert len(told) == 1


def test_a_line_carries_the_labels_of_its_playbook(tmp_path):
    labelled = TELL.replace("{name: tell}", "{name: tell, labels: {team: red}}")
    with Engine(tmp_path, labelled) as engine:
        engine.accept()
        engine.wait_for("done")
        (end,) = engine.ends
    assert line(end.claim, end.outcome)["labels"] == {"team": "red"}


def test_an_attempt_that_was_overtaken_is_told_and_ends_no_run(tmp_path):
    with Engine(tmp_path) as engine:
        engine.ops.open.clear()
        (run,) = engine.accept()
        engine.ops.wait_for("tell nginx")
        engine.later(3600)  # its lease is over
        engine.wait_for("failed")
        engine.ops.open.set()
        engine.wait_for("failed", UNWRITTEN)
        late = engine.ends[-1]
        assert not late.over
        told = line(late.claim, late.outcome, late.became)
        assert (told["run"], told["attempt"], told["state"]) == (run, 1, "done")
        assert (told["written"], told["requests"][0]["body"]) == (False, "tell nginx")


def test_an_attempt_whose_end_no_disk_took_is_told(tmp_path):
    engine = Engine(tmp_path)
    failing = Failing(engine.journal, "settle", times=10**9)
    with engine.through(failing):
        engine.ops.open.clear()
        engine.accept()
        engine.ops.wait_for("tell nginx")
        engine.ops.open.set()
        engine.workers.stop()
        assert [moment.became for moment in engine.ends] == [UNWRITTEN]
