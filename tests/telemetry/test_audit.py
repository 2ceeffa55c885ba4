"""The audit log has a line for each attempt: its target, the values it looked at, and its outcome."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from engine.model.errors import TemporaryError
from engine.model.event import PRIORITIES
from engine.model.run import Outcome, advance
from engine.telemetry.audit import Audit
from engine.telemetry.events import UNWRITTEN, AttemptEnded, Observers
from msgspec import structs
from tests.contracts.test_actions import NOW, a_pod, alert, world
from tests.execution.test_attempt import DELETE, LABEL, SLACK, Broken, act, answering, claim
from tests.execution.test_worker_pool import TELL, Engine, Failing

UID = world().find("Pod", "web-0", "demo")["metadata"]["uid"]


def line(claim, outcome, became="next"):
    stream = io.StringIO()
    Audit(stream)(AttemptEnded(claim, outcome, became, NOW))
    return json.loads(stream.getvalue())


@pytest.mark.parametrize("step", [LABEL, DELETE])
@pytest.mark.parametrize("dry", [True, False])
def test_the_line_of_an_attempt_has_the_uid_of_its_target(step, dry):
    one = claim(step)
    record = line(one, act(one, dry=dry))
    assert (record["state"], record["uid"]) == ("planned" if dry else "done", UID)


def test_the_line_of_a_retried_attempt_has_the_uid_and_what_was_sent():
    one = claim(LABEL)
    record = line(one, act(one, answering(500)), "waiting")
    assert (record["state"], record["uid"], len(record["calls"])) == ("waiting", UID, 1)
    http = claim(
        {"action": "http.request", "with": {"url": "https://ops.example.com/", "body": "x"}}
    )
    record = line(http, act(http, http=Broken(TemporaryError("a 500", answered=True))), "waiting")
    assert (record["state"], [request["body"] for request in record["requests"]]) == (
        "waiting",
        ["x"],
    )


def test_a_missing_pod_has_the_uid_of_the_earlier_attempt_and_a_message_has_none():
    gone = claim(LABEL, attempt_state={"uid": "u-1"})
    assert line(gone, act(gone, world(pod=a_pod(uid="u-2"))))["uid"] == "u-1"
    message = claim(LABEL, SLACK, at=1, attempt_state={"uid": "u-1"})
    assert line(message, act(message))["uid"] is None


def test_a_line_has_the_fields_of_the_event_that_a_collector_uses_as_labels():
    one = claim(LABEL, event=structs.replace(alert(), priority=PRIORITIES.index("Notice")))
    record = line(one, act(one))
    found = (record["rule"], record["priority"], record["namespace"], record["pod"])
    assert found == ("Terminal shell", "Notice", "demo", "web-0")
    without = claim(SLACK, event=alert(**{"k8s.ns.name": None, "k8s.pod.name": None}))
    record = line(without, act(without))
    assert (record["priority"], record["namespace"], record["pod"]) == (None, None, None)


@pytest.mark.parametrize("verdict", ["approve", "deny"])
def test_an_approval_is_in_the_line_of_its_step_only(verdict):
    facts = {"verdict": ["pod.delete", verdict, "ada"]}
    asked, later = (
        claim(DELETE, LABEL, attempt_state=facts),
        claim(DELETE, LABEL, at=1, attempt_state=facts),
    )
    assert line(asked, act(asked))["approval"] == {"verdict": verdict, "by": "ada", "reason": ""}
    assert line(later, act(later))["approval"] is None


WHEN = {**LABEL, "when": [{"not": {"field": "proc.name", "equals": "bash"}}]}


def test_the_values_of_a_when_are_in_the_line_of_the_first_attempt_of_its_step():
    event = alert(**{"proc.name": "curl"})
    seen = [{"condition": "proc.name equals bash", "value": "curl"}]
    one = claim(SLACK, WHEN, at=1, event=event)
    assert line(one, act(one))["conditions"] == seen
    assert line(replace(one, attempt=2), act(one))["conditions"] == []
    assert line(replace(one, attempt=2, interrupted=True), act(one))["conditions"] == seen


@pytest.mark.parametrize("value", ["x" * 5000, ["x"] * 5000, {"x": "y" * 5000}])
def test_a_long_value_of_any_type_is_truncated(value):
    one = claim(WHEN, event=alert(**{"proc.name": value}))
    (record,) = line(one, act(one))["conditions"]
    assert len(record["value"]) == 1000
    assert record["value"].endswith("…")


def test_the_line_of_a_failed_step_names_the_steps_that_are_skipped():
    one = claim({**LABEL, "name": "first"}, DELETE, {**SLACK, "name": "tell"})
    assert line(one, Outcome("refused", "no"))["skips"] == ["pod.delete", "tell"]
    assert line(one, Outcome("done", ""))["skips"] == []
    assert line(one, Outcome("failed", "", retry_in=1.0), "waiting")["skips"] == []
    assert [result.step for result in advance(one, Outcome("failed", ""))[0][1:]] == [
        "pod.delete",
        "tell",
    ]


def test_a_long_answer_is_truncated():
    http = claim({"action": "http.request", "with": {"url": "https://x.example/"}})
    record = line(http, Outcome("done", "x", answer={"a": "y" * 60_000}), "done")
    assert record["answer"].startswith('{"a":"yyy')
    assert len(record["answer"]) == 1000


def test_half_of_a_surrogate_pair_in_an_answer_does_not_lose_the_line():
    one = claim(SLACK)
    for stream in (io.StringIO(), io.TextIOWrapper(io.BytesIO(), "ascii", newline="")):
        Audit(stream)(AttemptEnded(one, Outcome("done", "ü", answer={"x": "\ud800"}), "done", NOW))
        stream.seek(0)
        assert json.loads(stream.read())["answer"] == {"x": "?"}


def test_an_observer_that_fails_does_not_affect_the_others():
    def broken(_):
        raise RuntimeError

    record = []
    Observers(broken, record.append).notify(
        AttemptEnded(claim(LABEL), Outcome("done", ""), "done", NOW)
    )
    assert len(record) == 1


def test_a_line_has_the_labels_of_its_playbook(tmp_path):
    labelled = TELL.replace("{name: tell}", "{name: tell, labels: {team: red}}")
    with Engine(tmp_path, labelled) as engine:
        engine.accept()
        engine.wait_for("done")
        (end,) = engine.ends
    assert line(end.claim, end.outcome)["labels"] == {"team": "red"}


def test_an_attempt_that_lost_its_claim_has_a_line_and_does_not_end_the_run(tmp_path):
    with Engine(tmp_path) as engine:
        engine.ops.open.clear()
        (run,) = engine.accept()
        engine.ops.wait_for("tell nginx")
        engine.later(3600)  # its lease ends
        engine.wait_for("failed")
        engine.ops.open.set()
        engine.wait_for("failed", UNWRITTEN)
        late = engine.ends[-1]
        assert not late.over
        record = line(late.claim, late.outcome, late.became)
        assert (record["run"], record["attempt"], record["state"]) == (run, 1, "done")
        assert (record["written"], record["requests"][0]["body"]) == (False, "tell nginx")


def test_an_attempt_whose_outcome_is_not_written_has_a_line(tmp_path):
    engine = Engine(tmp_path)
    failing = Failing(engine.journal, "begin_settle", times=10**9)
    with engine.through(failing):
        engine.ops.open.clear()
        engine.accept()
        engine.ops.wait_for("tell nginx")
        engine.ops.open.set()
        engine.workers.stop()
        assert [engine_event.became for engine_event in engine.ends] == [UNWRITTEN]
