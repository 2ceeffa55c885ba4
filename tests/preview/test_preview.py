from __future__ import annotations

import pytest
from engine.cluster.api import POD
from engine.cluster.objects import read_objects
from engine.cluster.simulated import AssumedCluster, StaticCluster
from engine.execution.guardrails import GuardrailChecker
from engine.language.folder import Files
from engine.model.event_subject import subject_of
from engine.model.playbook import Budget, Guardrails
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory
from engine.preview.preview import PreviewContext, preview
from tests.contracts.test_actions import a_pod, alert
from tests.language.test_loader import files, playbook
from tests.support.playbooks import new_loader

LABEL = {"action": "pod.label", "with": {"labels": {"a": "b"}}}
TELL = {"action": "kubernetes.event", "with": {"message": "%run.outcome %steps.pod.label.state"}}


def shown(event=None, *, world=None, memory=None, **spec):
    found = new_loader().load(Files("", files(p=playbook("p", match={"everything": True}, **spec))))
    assert not found.errors
    given = (event or alert(), PlaybookIndex(found.playbooks), memory or PlanningMemory())
    (run,) = preview(*given, GuardrailChecker(), world or PreviewContext())
    return run


def states(run):
    return [(result.step, result.state) for result in run.results]


def test_the_pod_that_an_event_names_is_assumed_to_exist():
    run = shown(
        actions=[{"action": "pod.delete", "with": {"minReady": 1}}, {"action": "pod.isolate"}]
    )
    assert states(run) == [("pod.delete", "planned"), ("pod.isolate", "planned")]


def test_the_assumed_pod_is_that_of_the_event():
    event = alert(**{"k8s.pod.uid": "u", "container.id": "0" * 12})
    pod = AssumedCluster(event).list(POD, "demo")
    assert pod[0]["metadata"]["uid"] == "u"


def test_objects_that_are_not_in_a_given_cluster_do_not_exist():
    assert states(shown(world=PreviewContext(StaticCluster([])), actions=[LABEL])) == [
        ("pod.label", "skipped")
    ]
    assert states(shown(world=PreviewContext(StaticCluster([a_pod()])), actions=[LABEL])) == [
        ("pod.label", "planned")
    ]


def test_outcomes_and_states_render_as_if_planned_steps_were_done():
    run = shown(actions=[LABEL], **{"finally": [TELL]})
    assert run.results[1].calls[0].body["message"] == "done done"


def test_a_step_that_would_be_retried_counts_as_failed_and_finally_runs():
    given = PreviewContext(StaticCluster([a_pod(controller=None)]))
    run = shown(world=given, actions=[{"action": "pod.delete"}, LABEL], **{"finally": [TELL]})
    assert [state for _, state in states(run)] == ["skipped", "planned", "planned"]


def test_a_run_that_would_do_nothing_releases_its_slot():
    memory, nothing = PlanningMemory(), PreviewContext(StaticCluster([]))
    spec = {"actions": [LABEL], "throttle": {"once": "1h"}}
    assert shown(alert(n=1), world=nothing, memory=memory, **spec).suppressed is None
    assert shown(alert(n=2), memory=memory, **spec).suppressed is None
    assert shown(alert(n=3), memory=memory, **spec).suppressed == "throttle"


def test_a_suppressed_run_has_no_steps():
    run = shown(actions=[LABEL], mode="disabled")
    assert (run.suppressed, run.results) == ("mode: disabled", ())


def test_modes_that_write_nothing_are_planned_too():
    for mode in ("dryRun", "notify"):
        assert states(shown(actions=[LABEL], mode=mode)) == [("pod.label", "planned")]


def test_only_hosts_on_the_list_are_called():
    ask = {"action": "http.request", "with": {"url": "https://a.example/x"}}
    for hosts, state in (
        (None, "planned"),
        (frozenset(), "refused"),
        (frozenset({"a.example"}), "planned"),
        (frozenset({"*.example"}), "planned"),
        (frozenset({"example"}), "refused"),
    ):
        assert states(shown(world=PreviewContext(hosts=hosts), actions=[ask])) == [
            ("http.request", state)
        ]


def test_secrets_are_never_read():
    spec = {"webhook": {"fromSecret": "hook"}, "text": "hi"}
    run = shown(actions=[{"action": "slack.post", "with": spec}])
    assert run.results[0].requests[0].url == "***"


def test_objects_are_read_from_documents_and_lists():
    text = b"""\
kind: Pod
metadata: {name: a}
---
- {kind: Pod, metadata: {name: b}}
---
kind: PodList
items: [{kind: Pod, metadata: {name: c}}]
"""
    assert [item["metadata"]["name"] for item in read_objects(text)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("spec", "status", "state"),
    [
        ({"replicas": None}, {"readyReplicas": 3}, "planned"),
        ({}, {"readyReplicas": 2}, "planned"),
        ({"replicas": 4}, {"readyReplicas": 2}, "skipped"),
        ({"replicas": 4}, {"readyReplicas": None}, "skipped"),
        ({"replicas": 4}, None, "skipped"),
        (None, None, "skipped"),
    ],
)
def test_numbers_of_replicas_that_a_dump_leaves_out_have_their_defaults(spec, status, state):
    owner = {"kind": "ReplicaSet", "name": "web", "uid": "r", "controller": True}
    replicas = {"kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "demo"}}
    pod = {"kind": "Pod", "metadata": {"namespace": "demo", "ownerReferences": [owner]}}
    pod["metadata"]["name"] = subject_of(alert()).pod
    pod["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
    given = PreviewContext(StaticCluster([pod, {**replicas, "spec": spec, "status": status}]))
    step = {"action": "pod.delete", "with": {"minReady": "50%"}}
    assert states(shown(world=given, actions=[step])) == [("pod.delete", state)]


def test_a_step_over_its_budget_says_that_people_would_be_notified():
    rails = Guardrails(budgets=(Budget("disrupt", 1, 600.0, "cluster"),), on_held=b"[{}]")
    checker = GuardrailChecker(rails)
    playbooks = PlaybookIndex(
        new_loader()
        .load(
            Files(
                "",
                files(
                    p=playbook("p", match={"everything": True}, actions=[{"action": "pod.delete"}])
                ),
            )
        )
        .playbooks
    )
    first, second = (
        preview(
            alert(n=n, **{"k8s.pod.name": f"web-{n}"}),
            playbooks,
            PlanningMemory(),
            checker,
            PreviewContext(),
        )[0]
        for n in (1, 2)
    )
    assert states(first) == [("pod.delete", "planned")]
    assert states(second) == [("pod.delete", "held")]
    assert "the steps of onHeld notify" in second.results[0].message
