"""The Kubernetes interface of the engine: reads, and writes as ``Call`` records.

Every write of a step passes a ``CallRecorder``; ``KubernetesCluster`` (in ``client``) sends it. Previews read
from the live cluster, from a ``StaticCluster`` or from an ``AssumedCluster`` (both in ``simulated``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from engine.cluster.execution import LogRequest, Output
from engine.model.calls import Call, Kind, Object
from engine.model.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable

FIELD_MANAGER = "tiercel"


class AlreadyExistsError(PermanentError):
    """An object of this name already exists, so it was not created."""


POD = Kind("v1", "pods", "Pod")
NODE = Kind("v1", "nodes", "Node", namespaced=False)
NAMESPACE = Kind("v1", "namespaces", "Namespace", namespaced=False)
SERVICE = Kind("v1", "services", "Service")
LOG = "pods/log"
EXEC = "pods/exec"
EPHEMERAL_CONTAINERS = "pods/ephemeralcontainers"
EVENT = Kind("v1", "events", "Event")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy")
REPLICA_SET = Kind("apps/v1", "replicasets", "ReplicaSet")
DEPLOYMENT = Kind("apps/v1", "deployments", "Deployment")
STATEFUL_SET = Kind("apps/v1", "statefulsets", "StatefulSet")
DAEMON_SET = Kind("apps/v1", "daemonsets", "DaemonSet")
JOB = Kind("batch/v1", "jobs", "Job")
CRON_JOB = Kind("batch/v1", "cronjobs", "CronJob")


class ClusterReader(Protocol):
    """Reads objects of a cluster."""

    def get(
        self, kind: Kind, name: str, namespace: str | None = None, *, fresh: bool = False
    ) -> Object | None:
        """Return an object, or None if it does not exist.

        fresh: read a Namespace or Node now. Otherwise, it can be some seconds old. Required before a change.
        Raises TemporaryError if there is no usable response, PermanentError if the server denies the request
        (the message of a 403 contains the missing right).
        """
        ...

    def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        node: str | None = None,
        address: str | None = None,
    ) -> list[Object]:
        """Return the objects of a kind. Raises TemporaryError, PermanentError.

        namespace: None for all namespaces. node: return only the pods of this node. address: return only the
        pods with this primary IP address.
        """
        ...

    def serves(self, kind: Kind) -> bool:
        """Return whether the API server serves a kind. It may still have no controller that enforces it.

        Raises TemporaryError, PermanentError.
        """
        ...


class Cluster(ClusterReader, Protocol):
    """Reads and writes objects of a cluster."""

    def send(self, call: Call) -> Object:
        """Send one write and return the object in the response.

        Raises GoneError if the object does not exist or has another uid than the call, AlreadyExistsError for a
        create, TemporaryError, PermanentError (another field manager owns a field, or a right is missing).
        """
        ...

    def execute(self, call: Call) -> Output:
        """Run a command in a container and return its output. Its errors raise when the output is read.

        call: a create of ``pods/exec`` whose body has ``command`` and ``container``. Without a terminal and
        without input. Raises GoneError if the pod does not exist, TemporaryError if the command was not
        started, PermanentError.
        """
        ...

    def read_log(self, log: LogRequest) -> Output:
        """Return the log of a container.

        Raises GoneError if the pod does not exist, TemporaryError, PermanentError.
        """
        ...


class CallRecorder:
    """Records each write, then forwards it if there is a cluster to forward to.

    forward: the live cluster; or the live cluster with ``dryRun=All``, so that RBAC, admission and quota are
    checked; or None to send nothing. check: called before each call; raises TemporaryError to prevent it.
    """

    def __init__(
        self,
        reads: ClusterReader,
        forward: Cluster | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._reads = reads
        self._forward, self._check = forward, check
        self.calls: list[Call] = []

    def get(
        self, kind: Kind, name: str, namespace: str | None = None, *, fresh: bool = False
    ) -> Object | None:
        """Read from the cluster. Recorded writes do not change what is read."""
        return self._reads.get(kind, name, namespace, fresh=fresh)

    def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        node: str | None = None,
        address: str | None = None,
    ) -> list[Object]:
        """Read from the cluster. Recorded writes do not change what is read."""
        return self._reads.list(kind, namespace, node=node, address=address)

    def serves(self, kind: Kind) -> bool:
        """Return whether the API server serves a kind."""
        return self._reads.serves(kind)

    def send(self, call: Call) -> Object:
        """Record and forward a call; without a cluster, return the call's body."""
        self._check()
        self.calls.append(call)
        return self._forward.send(call) if self._forward else dict(call.body)

    def execute(self, call: Call) -> Output:
        """Record and forward a command; without a cluster, return no output and the exit code 0."""
        self._check()
        self.calls.append(call)
        return self._forward.execute(call) if self._forward else Output(exit_code=0)

    def read_log(self, log: LogRequest) -> Output:
        """Read a log from the cluster that calls are forwarded to; without one, return an empty log."""
        return self._forward.read_log(log) if self._forward else Output()
