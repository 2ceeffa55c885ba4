"""resource.delete: only the object of the event, and only of an allowed kind."""

from __future__ import annotations

import pytest
from engine.execution.guardrails import GuardrailChecker
from engine.model.own_identity import OwnIdentity
from tests.contracts.test_actions import ACTIONS, act, audited, claim_of, compiled, world
from tests.support.fakes import FakeAttemptStore

DELETE = next(action for action in ACTIONS if action.name == "resource.delete")


def delete(server, event, kinds=("ConfigMap", "Service", "Namespace", "Node"), **of):
    checker = of.pop("checker", None)
    return act(server, claim_of(DELETE, {"kinds": list(kinds)}, event, **of), checker=checker)


def test_the_object_of_the_event_is_deleted_and_no_other():
    server = world()
    before = server.state().keys()
    outcome = delete(server, audited())
    assert (outcome.state, outcome.message) == ("done", "delete ConfigMap demo/settings")
    assert before - server.state().keys() == {("configmaps", "demo", "settings")}


@pytest.mark.parametrize(
    "event",
    [
        audited("secrets"),
        audited(name=None),
        audited(name="../pods/web-0"),
        audited(name=".."),
        audited(namespace="../kube-system"),
        audited(namespace=None),
        audited("pods", name="web-0"),
        audited(name="missing"),
        audited(resource="<NA>"),
    ],
)
def test_another_object_is_skipped(event):
    server = world()
    before = server.state()
    assert delete(server, event).state == "skipped"
    assert server.state() == before


@pytest.mark.parametrize(
    ("event", "checker"),
    [
        (audited("namespaces", name="kube-system", namespace=None), GuardrailChecker()),
        (audited(namespace="kube-system"), GuardrailChecker()),
        (
            audited("namespaces", name="demo", namespace=None),
            GuardrailChecker(own=OwnIdentity("demo")),
        ),
        (
            audited("nodes", name="worker-1", namespace=None),
            GuardrailChecker(own=OwnIdentity(node="worker-1")),
        ),
    ],
)
def test_a_protected_object_is_refused(event, checker):
    server = world()
    server.put({"kind": "Namespace", "metadata": {"name": "kube-system"}})
    server.put({"kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "kube-system"}})
    before = server.state()
    assert delete(server, event, checker=checker).state == "refused"
    assert server.state() == before


@pytest.mark.parametrize(
    "metadata",
    [
        {"creationTimestamp": "2026-03-01T10:01:00Z"},
        {"deletionTimestamp": "2026-03-01T09:59:00Z"},
    ],
)
def test_an_object_that_replaced_it_or_terminates_is_skipped(metadata):
    server = world()
    server.put(
        {"kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "demo", **metadata}}
    )
    before = server.state()
    assert delete(server, audited()).state == "skipped"
    assert server.state() == before


def test_a_deleted_object_is_done_after_our_own_call():
    server, store = world(), FakeAttemptStore()
    claim = claim_of(DELETE, event=audited())
    act(server, claim, store=store)
    again = claim_of(DELETE, event=audited(), attempt=2, attempt_state=store.attempt_state)
    assert act(server, again, store=store).state == "done"


def test_an_object_that_git_manages_is_refused():
    server = world()
    labels = {"argocd.argoproj.io/instance": "shop"}
    server.put(
        {
            "kind": "ConfigMap",
            "metadata": {"name": "settings", "namespace": "demo", "labels": labels},
        }
    )
    assert delete(server, audited()).state == "refused"
    claim = claim_of(DELETE, {"kinds": ["ConfigMap"], "evenIfManaged": True}, audited())
    assert act(server, claim).state == "done"


def test_a_custom_kind_is_named_by_resource_version_and_group():
    parameters, _ = compiled(DELETE, {"kinds": ["certificates.v1.cert-manager.io"]})
    assert DELETE.needs(parameters) == {
        ("get", "certificates.cert-manager.io"),
        ("delete", "certificates.cert-manager.io"),
    }


def test_a_misspelled_kind_is_an_error_with_a_hint():
    (finding,) = compiled(DELETE, {"kinds": ["ConfigMop"]})[1]
    assert (finding.code, finding.hint) == ("bad-parameter", "ConfigMap")
