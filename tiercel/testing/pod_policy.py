"""An admission policy: the controllers of Kubernetes do not change the pods of the contract suite.

The owner of a pod is already being deleted when the pod is created, so that Kubernetes leaves the pod alone. But
a controller whose watch is behind still sees the owner as it was: it releases the pod of a StatefulSet, deletes
the pod of a DaemonSet or a Job, and creates further pods.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from engine.cluster.api import POD
from engine.model.calls import Call, Kind
from engine.model.errors import PermanentError

if TYPE_CHECKING:
    from engine.cluster.client import KubernetesCluster

    from tiercel.testing.server import ContractServer

LABEL = "tiercel.dev/contract"
"""The label of the namespaces in which the policy holds."""
_NAME = "tiercel-contract-pods"
_MESSAGE = "only the contract suite changes its pods"
CONTROLLER_MANAGER = "system:kube-controller-manager"
_API = "admissionregistration.k8s.io/v1"
_POLICY = Kind(_API, "validatingadmissionpolicies", "ValidatingAdmissionPolicy", namespaced=False)
_BINDING = Kind(
    _API, "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", namespaced=False
)
_ACCOUNTS = (
    r"^system:serviceaccount:kube-system:(statefulset|daemon-set|replicaset|job)-controller$"
)
"""Each controller can have an account of its own (--use-service-account-credentials)."""
_PATIENCE = 60.0
"""Seconds until the policy must be in force. It usually takes less than one."""


def install(server: ContractServer) -> None:
    """Create the policy, or keep the one of an earlier suite."""
    rule = {
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
        "operations": ["CREATE", "UPDATE", "DELETE"],
    }  # fmt: skip
    user = f"request.userInfo.username == '{CONTROLLER_MANAGER}'"
    accounts = f"request.userInfo.username.matches('{_ACCOUNTS}')"
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule]},
        "matchConditions": [{"name": "controllers", "expression": f"{user} || {accounts}"}],
        "validations": [{"expression": "false", "message": _MESSAGE}],
    }
    selector = {"namespaceSelector": {"matchLabels": {LABEL: "true"}}}
    bound = {"policyName": _NAME, "matchResources": selector, "validationActions": ["Deny"]}
    for kind, given in ((_POLICY, spec), (_BINDING, bound)):
        server.ensure(kind, {"metadata": {"name": _NAME}, "spec": given})


def remove(server: ContractServer) -> None:
    """Delete the policy."""
    for kind in (_BINDING, _POLICY):
        server.delete(kind, _NAME)


def wait_until_in_force(controllers: KubernetesCluster, namespace: str) -> None:
    """Wait until the policy refuses a pod in a namespace with the label.

    controllers: a client that acts as the controllers.
    """
    metadata = {"name": "probe", "namespace": namespace}
    spec = {"containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10"}]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    call = Call("create", POD.api_version, POD.resource, namespace, "probe", body)
    deadline, pause, said = time.monotonic() + _PATIENCE, threading.Event(), ""
    while _MESSAGE not in said:
        if time.monotonic() > deadline:
            raise AssertionError(f"the policy {_NAME} is not in force: {said or 'no refusal'}")
        pause.wait(0.05)
        said = ""
        try:
            controllers.with_dry_run().send(call)
        except PermanentError as error:
            said = str(error)
