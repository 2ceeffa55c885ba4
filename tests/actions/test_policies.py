"""pod.isolate and pod.block: what they refuse, what they leave alone, and what they say."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest
from engine.actions.detach import REMOVED_LABELS
from engine.actions.quarantine import QUARANTINE
from engine.actions.rbac import rights
from engine.actions.registry import load_actions
from engine.language.folder import Files
from tests.contracts.test_actions import (
    PROVIDERS,
    a_pod,
    act,
    alert,
    claim_of,
    compiled,
    plan,
    undo,
    world,
)
from tests.support.fakes import FakeAttemptStore
from tests.support.playbooks import new_loader

ISOLATE, BLOCK = load_actions()["pod.isolate"], load_actions()["pod.block"]
every_provider = pytest.mark.parametrize(
    "provider", ["kubernetes", "cluster", "cilium", "calico", "auto"]
)


def network_policy(name="other", selector=None, **spec):
    metadata = {"name": name, "namespace": "demo"}
    return {
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {"podSelector": selector or {}, **spec},
    }


@every_provider
@pytest.mark.parametrize("action", [ISOLATE, BLOCK], ids=lambda action: action.name)
def test_a_pod_of_the_host_network_is_skipped(action, provider):
    pod = a_pod()
    pod["spec"]["hostNetwork"] = True
    server = world(pod=pod)
    outcome = act(server, claim_of(action, {**action.example, "provider": provider}))
    assert (outcome.state, server.wrote) == ("skipped", [])


@pytest.mark.parametrize(
    "given",
    [
        {"egress": "keep", "ingress": "keep"},
        {"allow": {"ports": [443]}},
        {"selector": {}},
        {"selector": {"matchLabels": {}}},
        {"selector": "all"},
        {"selector": "owner", "detach": True},
        {"selector": {"matchLabels": {"app": "web"}}, "detach": True},
        {"detach": "yes"},
        {"provider": "weave"},
    ],
)
def test_parameters_that_make_no_sense_are_bad_parameters(given):
    found = compiled(ISOLATE, given)[1]
    assert [one.code for one in found] == ["bad-parameter"]


@pytest.mark.parametrize(
    "given", [{"destination": "0.0.0.0/0"}, {"ports": list(range(1, 30))}, {"ports": [0]}]
)
def test_a_block_of_everything_or_of_too_many_ports_is_a_bad_parameter(given):
    assert {one.code for one in compiled(BLOCK, given)[1]} == {"bad-parameter"}


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_detach_is_refused_if_the_controller_creates_no_other_pod(kind):
    server = world(kind)
    before = server.state()
    outcome = act(server, claim_of(ISOLATE, {"detach": True}))
    assert outcome.state == "refused"
    assert f"a {kind}, creates no other pod" in outcome.message
    assert server.state() == before


def test_detach_removes_only_the_labels_by_which_something_selects_the_pod():
    pod = a_pod(labels={"app": "web", "tier": "front", "team": "shop", "env": "prod"})
    server = world(pod=pod)
    service = {"kind": "Service", "metadata": {"name": "front", "namespace": "demo"}}
    server.put({**service, "spec": {"selector": {"tier": "front"}}})
    server.put(
        network_policy(selector={"matchExpressions": [{"key": "team", "operator": "Exists"}]})
    )
    # without the label `app`, this one would select the pod
    later = [{"key": "app", "operator": "DoesNotExist"}, {"key": "env", "operator": "Exists"}]
    server.put(
        network_policy("later", {"matchExpressions": later}, policyTypes=["Egress"], egress=[{}])
    )
    before, store = server.state(), FakeAttemptStore()
    claim = claim_of(ISOLATE, {"detach": True})
    outcome = act(server, claim, store=store)
    assert outcome.state == "done", outcome.message
    labels = ", ".join(sorted(pod["metadata"]["labels"]))
    assert outcome.message.endswith(f"; detached by removing the labels {labels}")
    found = server.find("Pod", "web-0", "demo")["metadata"]
    assert found["labels"].keys() == {QUARANTINE}
    assert json.loads(found["annotations"][REMOVED_LABELS]) == pod["metadata"]["labels"]
    undo(server, claim, store)
    assert server.state() == before


def test_what_no_label_can_leave_stays_open_and_is_named():
    server = world()
    server.put(network_policy("allow-all", policyTypes=["Egress"], egress=[{}]))
    outcome = act(server, claim_of(ISOLATE, {"detach": True}))
    assert outcome.state == "failed"
    assert outcome.message.startswith("still open through allow-all")
    assert len(server.wrote) == 2  # both objects stay


def test_a_second_attempt_of_a_detach_knows_what_the_first_one_removed():
    server, store = world(), FakeAttemptStore()
    before = server.state()
    given = {"detach": True}
    act(server, claim_of(ISOLATE, given), store=store)
    released = server.find("Pod", "web-0", "demo")
    released["metadata"]["ownerReferences"] = []  # as the controller does
    forgotten = FakeAttemptStore()  # another journal: the annotation is all that is left
    again = claim_of(ISOLATE, given, attempt=2, run="again")
    assert act(server, again, store=forgotten).state == "done"
    undo(server, again, forgotten)
    pod = server.find("Pod", "web-0", "demo")["metadata"]
    assert pod["labels"]["app"] == "web"
    assert REMOVED_LABELS not in pod["annotations"]
    assert before


@pytest.mark.parametrize(
    "text", ['{"app": "a b"}', '{"/": "x"}', "[[[", '{"app": 7}', "[" * 100_000]
)
def test_an_annotation_that_someone_else_wrote_restores_nothing_invalid(text):
    pod = a_pod(labels={QUARANTINE: "x"}, annotations={REMOVED_LABELS: text})
    server, store = world(controller=None, pod=pod), FakeAttemptStore()
    claim = claim_of(ISOLATE, {"detach": True})
    assert act(server, claim, store=store).state == "done"
    assert undo(server, claim, store).state == "undone"
    assert server.find("Pod", "web-0", "demo")["metadata"]["labels"] == {QUARANTINE: "x"}


def test_owner_needs_a_controller_with_a_selector_that_selects_the_pod():
    given = {"selector": "owner"}
    assert act(world(controller=None), claim_of(ISOLATE, given)).state == "skipped"
    for selector in ({}, None, {"matchLabels": {"app": "other"}}, {"matchLabels": 7}):
        server = world()
        server.find("ReplicaSet", "web", "demo")["spec"]["selector"] = selector
        assert act(server, claim_of(ISOLATE, given)).state == "refused"
        assert not server.wrote
    server = world()
    server.find("ReplicaSet", "web", "demo")["metadata"]["uid"] = "replaced"
    assert act(server, claim_of(ISOLATE, given)).state == "skipped"


def test_cilium_ignores_labels_that_are_no_part_of_an_identity():
    server = world(pod=a_pod(labels={"app": "web", "pod-template-hash": "1"}))
    controller = server.find("ReplicaSet", "web", "demo")
    controller["spec"]["selector"] = {"matchLabels": {"app": "web", "pod-template-hash": "1"}}
    given = {"selector": "owner", "provider": "cilium"}
    (apply,) = plan(server, claim_of(ISOLATE, given)).calls
    assert apply.body["spec"]["endpointSelector"] == {"matchLabels": {"k8s:app": "web"}}
    controller["spec"]["selector"] = {"matchLabels": {"pod-template-hash": "1"}}
    assert act(server, claim_of(ISOLATE, given)).state == "refused"


@pytest.mark.parametrize(
    ("served", "expected"),
    [(PROVIDERS, "cluster"), (PROVIDERS[1:], "cilium"), (PROVIDERS[2:], "calico"), (PROVIDERS[3:], "calico"),
     ((), "kubernetes")],
)  # fmt: skip
@pytest.mark.parametrize("action", [ISOLATE, BLOCK], ids=lambda action: action.name)
def test_auto_takes_the_first_that_is_served_and_keeps_it(action, served, expected):
    server, store = world(served=served), FakeAttemptStore()
    given = {**action.example, "provider": "auto"}
    outcome = act(server, claim_of(action, given), store=store)
    assert outcome.answer["provider"] == expected
    assert outcome.message.endswith(f"(provider: {expected})")
    server.served = set(
        PROVIDERS
    )  # installed in the meantime: a further attempt stays with its object
    again = claim_of(action, given, attempt=2, attempt_state=store.attempt_state)
    assert act(server, again, store=store).answer["provider"] == expected
    made = [key for key in server.objects if "networkpolicies" in key[0] and "tiercel" in key[2]]
    assert len(made) == 1


def test_a_provider_that_is_not_served_is_named():
    outcome = act(world(served=()), claim_of(BLOCK, {**BLOCK.example, "provider": "cilium"}))
    assert outcome.state == "failed"
    assert "does not serve ciliumnetworkpolicies of cilium.io/v2" in outcome.message


def test_a_block_is_refused_if_another_networkpolicy_selects_the_pod_for_egress():
    server = world()
    server.put(network_policy("egress", policyTypes=["Egress"]))
    outcome = act(server, claim_of(BLOCK))
    assert (outcome.state, server.wrote) == ("refused", [])
    assert "networkpolicy egress selects" in outcome.message
    assert "cluster, cilium or calico can block" in outcome.message
    for provider in ("cluster", "cilium", "calico"):
        assert act(server, claim_of(BLOCK, {**BLOCK.example, "provider": provider})).state == "done"


def test_an_isolation_after_a_block_names_the_run_that_must_end_first():
    server = world()
    block = claim_of(BLOCK, run="block")
    act(server, block)
    isolate = claim_of(ISOLATE, {}, run="isolate")
    playbook = replace(isolate.run.playbook, name="another")
    run = msgspec.structs.replace(isolate.run, playbook=playbook)
    outcome = act(server, replace(isolate, run=run))
    assert outcome.state == "failed"
    assert f"tiercel undo {block.run.id}" in outcome.message


def test_a_destination_that_is_a_pod_is_refused_where_the_provider_cannot_block_it():
    target = a_pod(name="db-0")
    target["status"]["podIP"] = "10.1.0.9"
    for provider, state in (
        ("kubernetes", "refused"),
        ("cilium", "refused"),
        ("cluster", "done"),
        ("calico", "done"),
    ):
        server = world()
        server.put(target)
        given = {"destination": "10.1.0.9", "provider": provider}
        outcome = act(server, claim_of(BLOCK, given))
        assert outcome.state == state, outcome.message
        assert (state == "done") is bool(server.wrote)
    assert (
        "pod demo/db-0"
        in act(world_with(target), claim_of(BLOCK, {"destination": "10.1.0.9"})).message
    )
    target["status"]["phase"] = "Succeeded"  # its address may belong to something else by now
    assert act(world_with(target), claim_of(BLOCK, {"destination": "10.1.0.9"})).state == "done"


def world_with(*objects):
    server = world()
    for item in objects:
        server.put(item)
    return server


def test_the_number_of_destinations_in_a_policy_has_a_limit(monkeypatch):
    monkeypatch.setattr("engine.actions.pod_block.MAX_DESTINATIONS", 3)
    server, store, given = world(), FakeAttemptStore(), {}
    for number in range(3):
        claim = claim_of(BLOCK, given, alert(**{"fd.rip": f"198.51.100.{number}"}), run=str(number))
        assert act(server, claim, store=store).state == "done"
    before = server.state()
    outcome = act(
        server, claim_of(BLOCK, given, alert(**{"fd.rip": "203.0.113.1"}), run="more"), store=store
    )
    assert outcome.state == "refused"
    assert "pod.isolate cuts the pod off" in outcome.message
    assert server.state() == before


def test_the_rights_are_those_of_the_provider_only():
    def needed(action, **given):
        claim = claim_of(action, {**action.example, **given})
        return {resource for _, resource in rights([claim.run.playbook])}

    assert not any("cilium" in r or "calico" in r or "cluster" in r for r in needed(ISOLATE))
    assert "networkpolicies.networking.k8s.io" not in needed(ISOLATE, provider="cilium")
    assert "networkpolicies.networking.k8s.io" not in needed(BLOCK, provider="cluster")
    assert "services" not in needed(ISOLATE)
    assert "services" in needed(ISOLATE, detach=True)


def test_a_placeholder_fits_the_selector():
    text = (
        "apiVersion: tiercel.dev/v1\nkind: Playbook\nmetadata: {name: p}\nspec:\n"
        "  match: {rules: [R]}\n  throttle: {once: 1m}\n"
        "  conditions: [{field: k8s.ns.name, equals: demo}]\n"
        '  actions: [{action: pod.isolate, with: {selector: "${which}", provider: "${provider}", ttl: 1h}}]\n'
    )
    values = "which: {matchLabels: {app: web}}\nprovider: auto\n"
    found = new_loader().load(Files("", {"p.yaml": text.encode(), "values.yaml": values.encode()}))
    assert not found.findings
