"""The one door to Kubernetes: reads, and writes as ``Call`` records.

Every call passes a ``Recorder``; ``KubernetesCluster`` (in ``kubernetes``) sends it. The objects that a
preview reads come from a ``GivenCluster`` or an ``AssumedCluster`` (in ``given``), or from the live one.
"""

from __future__ import annotations

from typing import Protocol

from engine.model.calls import Call, Kind, Object
from engine.model.errors import PermanentError

FIELD_MANAGER = "tiercel"


class AlreadyExistsError(PermanentError):
    """A create found an object of that name."""


POD = Kind("v1", "pods", "Pod")
NODE = Kind("v1", "nodes", "Node", namespaced=False)
NAMESPACE = Kind("v1", "namespaces", "Namespace", namespaced=False)
EVENT = Kind("v1", "events", "Event")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy")
REPLICA_SET = Kind("apps/v1", "replicasets", "ReplicaSet")
DEPLOYMENT = Kind("apps/v1", "deployments", "Deployment")
STATEFUL_SET = Kind("apps/v1", "statefulsets", "StatefulSet")
DAEMON_SET = Kind("apps/v1", "daemonsets", "DaemonSet")
JOB = Kind("batch/v1", "jobs", "Job")
CRON_JOB = Kind("batch/v1", "cronjobs", "CronJob")


class ClusterReader(Protocol):
    """What can be read of a cluster."""

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None where there is none.

        Raises TemporaryError where the server gives no usable answer, PermanentError where it refuses
        (a 403 names the missing right).
        """
        ...

    def list(
        self, kind: Kind, namespace: str | None = None, *, node: str | None = None
    ) -> list[Object]:
        """The objects of that kind, of one namespace or all; ``node`` keeps the pods of one node."""
        ...


class Cluster(ClusterReader, Protocol):
    """What an action may use: reads, and writes one by one."""

    def send(self, call: Call) -> Object:
        """Send one write and give the server's answer.

        Raises SkippedError where the object is gone or another one than the call's uid says,
        AlreadyExistsError from a create, TemporaryError, PermanentError (another field manager owns a
        field; a right is missing).
        """
        ...


class CallRecorder:
    """Records every write, whatever its verb, and passes it on only where it is told to.

    forward: where the calls go: the live cluster; the same asked with ``dryRun=All``, so that RBAC,
    admission and quota answer; or, without one, nowhere.
    """

    def __init__(self, reads: ClusterReader, forward: Cluster | None = None) -> None:
        self._reads = reads
        self._forward = forward
        self.calls: list[Call] = []

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """Read through; planned writes are not remembered."""
        return self._reads.get(kind, name, namespace)

    def list(
        self, kind: Kind, namespace: str | None = None, *, node: str | None = None
    ) -> list[Object]:
        """Read through; planned writes are not remembered."""
        return self._reads.list(kind, namespace, node=node)

    def send(self, call: Call) -> Object:
        """Record the call, and pass it on."""
        self.calls.append(call)
        return self._forward.send(call) if self._forward else dict(call.body)
