"""Reverting one change of an object, also if somebody changed other parts of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine.cluster.api import NETWORK_POLICY, NODE
from engine.cluster.client import connect
from engine.cluster.undo import MANAGED_BY, current_value, revert, with_value
from engine.model.calls import Call, Kind, ObjectChange
from engine.model.errors import GoneError, TemporaryError

from tests.support.fakes import ApiServer

A, B = ({"key": key, "effect": "NoSchedule"} for key in "ab")
OURS = {"key": "q", "value": "incident", "effect": "NoSchedule"}
THEIRS = {**OURS, "value": "before"}
ITEM = {"key": "q", "effect": "NoSchedule"}
TAINT = ObjectChange(NODE, None, "n", None, ("spec", "taints"), OURS, item=ITEM)


def node(*taints):
    return {"kind": "Node", "metadata": {"name": "n"}, "spec": {"taints": list(taints)}}


@pytest.mark.parametrize(
    ("taints", "value", "wanted"),
    [
        ([A, THEIRS, B], OURS, [A, OURS, B]),
        ([A, OURS, B], None, [A, B]),
        ([A, B], OURS, [A, B, OURS]),
        ([OURS], None, None),
        ([OURS, A, OURS], THEIRS, [THEIRS, A]),
    ],
)
def test_an_item_of_a_list_keeps_its_place(taints, value, wanted):
    assert with_value(node(*taints), TAINT, value) == {"spec": {"taints": wanted}}


def test_other_items_that_somebody_added_stay():
    server = ApiServer(node(A, OURS, B))
    assert revert(TAINT, server.cluster, lambda _: ()) == "q:NoSchedule of node n removed"
    assert current_value(
        server.find("Node", "n"), ObjectChange(NODE, None, "n", None, ("spec",))
    ) == {"taints": [A, B]}


def test_the_value_of_an_earlier_step_is_reverted_if_the_later_step_did_not_act():
    server = ApiServer(node(OURS))
    later = replace(TAINT, put={**OURS, "value": "later"}, before=THEIRS)
    message = revert(later, server.cluster, lambda _: ())
    assert message == "q:NoSchedule of node n stays, because it was changed in the meantime"
    message = revert(replace(later, others=(OURS,)), server.cluster, lambda _: ())
    assert message == "q:NoSchedule of node n restored"
    assert server.find("Node", "n")["spec"]["taints"] == [THEIRS]


def test_a_change_between_read_and_write_is_respected():
    server = ApiServer(node(A, OURS))
    server.objects["nodes", None, "n"]["metadata"]["resourceVersion"] = "1"

    def others(_):
        server.interfere = lambda: server.put(
            {**node(OURS), "metadata": {"name": "n", "uid": "another"}}
        )
        return ()

    with pytest.raises(GoneError):
        revert(TAINT, server.cluster, others)
    assert server.find("Node", "n")["spec"]["taints"] == [OURS]


@pytest.mark.parametrize("others", [(), (1_772_359_201.0,)])
def test_a_policy_that_another_run_has_applied_since_it_was_read_is_not_changed(
    engine_kubeconfig, namespace, others
):
    cluster = connect(str(engine_kubeconfig), None)

    def apply(direction):
        metadata = {"name": "p", "namespace": namespace, "labels": MANAGED_BY}
        head = {"apiVersion": NETWORK_POLICY.api_version, "kind": "NetworkPolicy"}
        body = {**head, "metadata": metadata, "spec": {"podSelector": {}, "policyTypes": direction}}
        cluster.send(
            Call("apply", head["apiVersion"], NETWORK_POLICY.resource, namespace, "p", body)
        )

    def interfere(_):
        apply(["Egress"])
        return others

    apply(["Ingress"])
    made = ObjectChange(NETWORK_POLICY, namespace, "p")
    with pytest.raises(TemporaryError, match="changed at the same time"):
        revert(made, cluster, interfere)
    assert cluster.get(NETWORK_POLICY, "p", namespace)["spec"]["policyTypes"] == ["Egress"]
    revert(made, cluster, lambda _: others)
    left = cluster.get(NETWORK_POLICY, "p", namespace)
    assert left is None if not others else left["spec"]["policyTypes"] == ["Egress"]


def test_kinds_of_other_groups_with_the_same_resource_are_different_objects():
    def key(api_version):
        return ObjectChange(Kind(api_version, "networkpolicies", "X"), "demo", "a").key

    assert key("networking.k8s.io/v1") == '["networkpolicies", "demo", "a"]'
    assert (
        key("crd.projectcalico.org/v1") == '["networkpolicies.crd.projectcalico.org", "demo", "a"]'
    )
