"""An owner reference of a pod counts only if it means the controller that exists."""

from __future__ import annotations

import pytest
from tests.contracts.test_actions import ACTIONS, a_pod, act, claim_of, world

CHANGES = [one for one in ACTIONS if one.name in ("workload.scale", "workload.restart")]


@pytest.mark.parametrize("action", CHANGES, ids=lambda one: one.name)
@pytest.mark.parametrize(
    "of", [{"uid": "another"}, {"apiVersion": "apps.kruise.io/v1beta1"}], ids=["uid", "group"]
)
def test_a_controller_of_another_uid_or_group_is_not_changed(action, of):
    pod = a_pod("StatefulSet")
    (reference,) = pod["metadata"]["ownerReferences"]
    pod["metadata"]["ownerReferences"] = [{**reference, **of}]
    server = world("StatefulSet", pod)
    before = server.state()
    outcome = act(server, claim_of(action, {}))
    assert (outcome.state, outcome.calls) == ("skipped", ())
    assert outcome.message.endswith("has no controller of a known kind")
    assert server.state() == before


@pytest.mark.parametrize("action", CHANGES, ids=lambda one: one.name)
def test_the_controller_of_the_reference_is_changed(action):
    assert act(world("StatefulSet"), claim_of(action, {})).state == "done"
