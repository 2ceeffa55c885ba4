"""Parts of the answer of an earlier step, in plans and in tests of playbooks."""

from __future__ import annotations

import pytest
import yaml
from engine.execution.guardrails import GuardrailChecker
from engine.language.folder import Files
from engine.model.event import parse_event
from engine.model.own_identity import OwnIdentity
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory
from engine.preview.preview import PreviewContext, preview
from engine.preview.test_cases import read_cases, run_case
from tests.support.playbooks import new_loader

ALERT = {"rule": "R", "output_fields": {"k8s.ns.name": "demo", "k8s.pod.name": "web-0"}}
TICKET = {
    "action": "http.request",
    "name": "ticket",
    "with": {"url": "https://tickets.example.com/new"},
}
LABEL = {"action": "pod.label", "with": {"labels": {"ticket": "%steps.ticket.answer.id"}}}
COMMENT = {
    "action": "http.request",
    "name": "comment",
    "with": {"url": "https://tickets.example.com/%steps.ticket.answer.id/comments"},
}


def document(kind, spec):
    return {"apiVersion": "tiercel.dev/v1", "kind": kind, "metadata": {"name": "p"}, "spec": spec}


def load(*steps, cases=()):
    spec = {"match": {"rules": ["R"]}, "throttle": {"once": "1m"}, "actions": list(steps)}
    documents = [document("Playbook", spec)]
    documents += [document("PlaybookTest", {"cases": list(cases)})] if cases else []
    files = Files("", {"p.yaml": yaml.safe_dump_all(documents).encode()})
    return files, new_loader().load(files)


def test_a_plan_goes_on_with_the_name_of_a_part_that_it_does_not_know():
    _, found = load(TICKET, LABEL, COMMENT)
    (run,) = preview(
        parse_event(ALERT),
        PlaybookIndex(found.playbooks),
        PlanningMemory(),
        GuardrailChecker(),
        PreviewContext(),
    )
    assert [result.state for result in run.results] == ["planned"] * 3
    assert run.results[1].calls[0].body["metadata"]["labels"] == {
        "ticket": "steps.ticket.answer.id"
    }
    assert run.results[2].requests[0].url.endswith("/steps.ticket.answer.id/comments")


@pytest.mark.parametrize(
    ("answer", "state", "url"),
    [
        ({"id": "T-7"}, "planned", "/T-7/comments"),
        ({"id": "../x?y"}, "refused", "/..%2Fx%3Fy/comments"),
    ],
)
def test_an_assumed_answer_is_used_and_checked_like_a_value_of_the_event(answer, state, url):
    planned = ["ticket", "comment"] if state == "refused" else ["ticket", "p-label", "comment"]
    expect = {"actions": planned, **({"refused": ["p-label"]} if state == "refused" else {})}
    case = {
        "name": "c",
        "event": ALERT,
        "outcomes": {"ticket": {"answer": answer}},
        "expect": expect,
    }
    label = {**LABEL, "name": "p-label", "onFailure": "continue"}
    files, found = load(TICKET, label, COMMENT, cases=[case])
    cases, findings = read_cases(files, found)
    assert findings == []
    result = run_case(cases[0], OwnIdentity())
    assert result.differences == ()
    assert url in result.seen[-1].message


def test_a_part_of_the_answer_of_a_step_that_does_not_exist_is_a_finding():
    _, found = load(LABEL)
    assert [(error.code, "earlier steps are none" in error.what) for error in found.errors] == [
        ("bad-template", True)
    ]
