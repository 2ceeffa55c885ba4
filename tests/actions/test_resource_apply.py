"""resource.apply: one object from a manifest, and nothing that an event chooses."""

from __future__ import annotations

import copy

import pytest
from engine.execution.guardrails import GuardrailChecker
from engine.model.own_identity import OwnIdentity
from tests.contracts.test_actions import ACTIONS, act, alert, claim_of, compiled, undo, world
from tests.support.fakes import FakeAttemptStore

APPLY = next(action for action in ACTIONS if action.name == "resource.apply")
SETTINGS = ("configmaps", "demo", "incident")


def manifest(**changes):
    metadata = {"name": "incident", "namespace": "demo", **changes.pop("metadata", {})}
    head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    return {"manifest": {**head, "data": {"a": "%proc.cmdline"}, **changes}}


def apply(server, given=None, *, store=None, **of):
    checker = of.pop("checker", None)
    return act(server, claim_of(APPLY, given or manifest(), **of), checker=checker, store=store)


def findings(**changes):
    given = manifest(**changes)
    given["manifest"] = {k: v for k, v in given["manifest"].items() if v is not None}
    return [(one.code, one.what) for one in compiled(APPLY, given)[1]]


def test_the_object_has_the_text_of_the_event_and_the_marks_of_tiercel():
    server = world()
    outcome = apply(server, event=alert(**{"proc.cmdline": 'x"}, "kind": "Secret'}))
    assert (outcome.state, outcome.message) == ("done", "create ConfigMap demo/incident")
    made = server.objects[SETTINGS]
    assert made["data"] == {"a": 'x"}, "kind": "Secret'}
    assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "tiercel"
    (call,) = outcome.calls
    assert (call.verb, call.resource) == ("apply", "configmaps")


@pytest.mark.parametrize("field", ["apiVersion", "kind"])
def test_an_event_cannot_choose_the_kind(field):
    ((code, what),) = findings(**{field: "%proc.name"})
    assert code == "bad-parameter"
    assert "takes no template" in what


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"kind": None}, "needs `kind`"),
        ({"metadata": {"namespace": 7}}, "`namespace` takes text"),
        ({"metadata": {"uid": "x"}}, "has no `metadata.uid`"),
        ({"metadata": {"labels": {"app.kubernetes.io/instance": "x"}}}, "belongs to the tool"),
        ({"metadata": {"annotations": {"tiercel.dev/run": "x"}}}, "belongs to the tool"),
        ({"metadata": {"labels": {"a b": "x"}}}, "not a valid key"),
        ({"status": {}}, "no `status`"),
        ({"kind": "Namespace", "apiVersion": "v1"}, "does not create a Namespace"),
        ({"kind": "RoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1"}, "grants rights"),
        ({"kind": "Role", "apiVersion": "rbac.authorization.k8s.io/v2"}, "grants rights"),
        ({"kind": "Secret", "type": "kubernetes.io/service-account-token"}, "tokens"),
        ({"kind": "PersistentVolume"}, "has no `metadata.namespace`"),
        ({"data": {str(n): "x" for n in range(5_000)}}, "more than 5,000 values"),
    ],
)
def test_a_manifest_that_cannot_be_applied_is_an_error(changes, what):
    assert what in findings(**changes)[0][1]


def test_a_deep_manifest_is_an_error():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested deeper" in findings(data=deep)[0][1]


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": "a-%proc.cmdline"},
        {"namespace": "%proc.cmdline"},
        {"labels": {"a": "%proc.cmdline"}},
    ],
)
def test_a_name_that_no_object_can_have_is_refused(metadata):
    server = world()
    outcome = apply(server, manifest(metadata=metadata), event=alert(**{"proc.cmdline": "../x y"}))
    assert (outcome.state, server.wrote) == ("refused", [])


def test_a_manifest_that_becomes_too_large_is_refused():
    server, long = world(), {str(n): "%proc.cmdline" for n in range(100)}
    outcome = apply(server, manifest(data=long), event=alert(**{"proc.cmdline": "x" * 4096}))
    assert (outcome.state, server.wrote) == ("refused", [])
    assert "more than 262,144" in outcome.message


def test_an_object_of_another_creator_is_not_changed():
    server = world()
    server.put({"kind": "ConfigMap", "metadata": {"name": "incident", "namespace": "demo"}})
    before = server.state()
    outcome = apply(server)
    assert (outcome.state, server.state()) == ("failed", before)
    assert "was not created by Tiercel" in outcome.message


def test_an_object_that_appears_at_the_last_moment_keeps_its_content():
    server, theirs = world(), {"name": "incident", "namespace": "demo"}
    theirs["managedFields"] = [{"manager": "kubectl"}]
    server.interfere = lambda: server.put(
        {"kind": "ConfigMap", "metadata": theirs, "data": {"b": "1"}}
    )
    store = FakeAttemptStore()
    claim = claim_of(APPLY, manifest())
    outcome = act(server, claim, store=store)
    assert (outcome.state, "not created by Tiercel" in outcome.message) == ("failed", True)
    found = copy.deepcopy(server.objects[SETTINGS])
    assert (found["data"], found["metadata"].get("labels")) == ({"b": "1"}, {})
    undone = undo(server, claim, store)
    assert (undone.state, server.objects[SETTINGS]) == ("undone", found)
    assert "stays" in undone.message


def test_a_second_run_updates_the_object_and_a_replaced_object_is_skipped():
    server = world()
    apply(server)
    again = apply(server, manifest(data={"b": "2"}), run="later")
    assert again.message == "update ConfigMap demo/incident"
    assert server.objects[SETTINGS]["data"] == {"b": "2"}
    ours = {k: dict(v) for k, v in server.objects[SETTINGS]["metadata"].items() if k == "labels"}
    server.interfere = lambda: server.put(
        {"kind": "ConfigMap", "metadata": {"name": "incident", "namespace": "demo", **ours}}
        | {"metadata": {"name": "incident", "namespace": "demo", "uid": "another"}}
    )
    assert apply(server, run="last").state == "skipped"


def test_an_object_that_git_manages_now_is_refused():
    server = world()
    apply(server)
    server.objects[SETTINGS]["metadata"]["annotations"]["argocd.argoproj.io/tracking-id"] = "shop"
    assert apply(server, run="later").state == "refused"
    assert apply(server, {**manifest(), "evenIfManaged": True}, run="later").state == "done"


@pytest.mark.parametrize(
    ("namespace", "checker"),
    [("kube-system", None), ("demo", GuardrailChecker(own=OwnIdentity("demo")))],
)
def test_a_protected_namespace_is_refused(namespace, checker):
    server = world()
    outcome = apply(server, manifest(metadata={"namespace": namespace}), checker=checker)
    assert (outcome.state, server.wrote) == ("refused", [])


def test_the_plural_of_a_custom_kind_is_guessed_or_given():
    def resources(kind, **given):
        wanted = manifest(kind=kind, apiVersion="example.com/v1") | given
        return {resource for _, resource in APPLY.needs(compiled(APPLY, wanted)[0])} - {
            "namespaces"
        }

    assert resources("NetworkSet") == {"networksets.example.com"}
    assert resources("Policy") == {"policies.example.com"}
    assert resources("Gateway") == {"gateways.example.com"}
    assert resources("Ingress") == {"ingresses.example.com"}
    assert resources("Index", resource="indices") == {"indices.example.com"}
