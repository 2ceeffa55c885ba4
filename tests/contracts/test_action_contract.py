"""The contract suite over the registry, on a real API server."""

from __future__ import annotations

import tempfile

import pytest
from engine.actions.registry import load_actions
from engine.cluster.kinds import KINDS
from tiercel.testing import ActionContract, Case, ContractServer


@pytest.fixture(scope="session")
def tiercel_server(control_plane, tmp_path_factory):
    path = tmp_path_factory.mktemp("contract") / "admin.json"
    server = ContractServer(str(control_plane.kubeconfig(control_plane.admin_token, path)))
    yield server
    server.close()


def bind(world):
    """Give the user of the event a role in the namespace, and one in the cluster."""
    for kind in (KINDS["RoleBinding"], KINDS["ClusterRoleBinding"]):
        place = {"namespace": world.name} if kind.namespaced else {}
        group = "rbac.authorization.k8s.io"
        subject = {"apiGroup": group, "kind": "User", "name": world.name}
        role = {"apiGroup": group, "kind": "ClusterRole", "name": "view"}
        world.server.delete(kind, world.name, place.get("namespace"))
        metadata = {"name": world.name, **place}
        world.server.create(kind, {"metadata": metadata, "roleRef": role, "subjects": [subject]})


FOLDER = tempfile.TemporaryDirectory()
ARTIFACT = f"file://{FOLDER.name}/%{{run.id}}"


SPECIAL = (
    # an example with minReady needs the status that a controller counts
    Case("pod.delete", {"grace": 5, "skipKinds": ["DaemonSet"]}),
    Case("pod.evict", {"grace": 5}, owners=["ReplicaSet"]),
    Case("node.drain", {"grace": 30, "timeout": "10m"}, owners=["ReplicaSet"]),
    *(
        Case(name, {**given, **({"artifact": ARTIFACT} if name != "pod.exec" else {})}, runs=True)
        for name, given in {
            "pod.exec": {"command": ["sh", "-c", "true"]},
            "pod.logs": {"lines": 10},
            "pod.capture": {"what": ["manifest", "events", "logs", "processes"]},
            "pod.debug": {
                "image": f"registry.example.com/tool@sha256:{'0' * 64}",
                "command": ["sh", "-c", "true"],
                "duration": "5s",
            },
        }.items()
    ),
    Case("resource.delete", {"kinds": ["ConfigMap"]}),
    Case("resource.delete", {"kinds": ["ClusterRole"]}),
    Case("role.revoke", event=lambda world, _: {"ka.user.name": world.name}, prepare=bind),
)


class TestEveryAction(ActionContract):
    cases = SPECIAL
    actions = tuple(
        action.name for action in load_actions().values() if "cluster" in action.acts_with
    )
