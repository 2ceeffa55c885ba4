"""Who a Kubernetes token belongs to, and what that user may do: TokenReview and SubjectAccessReview."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.model.calls import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.cluster.client import KubernetesCluster
    from engine.model.calls import Object

TIMEOUT = 5.0
"""Seconds for one review. A person waits for the answer."""
MAX_USER_NAME = 253
"""Characters of a user name. It is stored with each decision."""
GROUP, RESOURCE = "tiercel.dev", "runs"
"""The resource that represents the runs of the engine in RBAC. The API server does not serve it."""


@dataclass(frozen=True, slots=True)
class KubernetesUser:
    """A user that the API server has authenticated."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


class AccessReviews:
    """Asks the API server, with the rights of the engine. Thread-safe.

    cluster: returns the client; called before each review. audience: that the tokens must have, or None for
    the audience of the API server.

    The methods raise TemporaryError or PermanentError if the API server gives no answer.
    """

    def __init__(self, cluster: Callable[[], KubernetesCluster], audience: str | None) -> None:
        self._cluster, self._audience = cluster, audience

    def authenticate(self, token: str) -> KubernetesUser | None:
        """Return the user of a token, or None if the token is not valid for the audience."""
        spec: dict[str, Any] = {"token": token}
        if self._audience:
            spec["audiences"] = [self._audience]
        status = self._review("authentication.k8s.io/v1", "tokenreviews", "TokenReview", spec)
        # a server that ignores audiences returns none
        fits = not self._audience or self._audience in (status.get("audiences") or ())
        user = status.get("user") or {}
        name = str(user.get("username") or "")
        is_name = 0 < len(name) <= MAX_USER_NAME and name.isprintable()
        if status.get("authenticated") is not True or not fits or not is_name:
            return None
        extra, groups = user.get("extra") or {}, user.get("groups") or ()
        return KubernetesUser(name, user.get("uid") or "", tuple(groups), extra)

    def may(self, user: KubernetesUser, verb: str) -> bool:
        """Return whether the user has the verb on ``runs.tiercel.dev`` in the whole cluster."""
        attributes = {"group": GROUP, "resource": RESOURCE, "verb": verb}
        spec = {
            "user": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": dict(user.extra),
            "resourceAttributes": attributes,
        }
        status = self._review(
            "authorization.k8s.io/v1", "subjectaccessreviews", "SubjectAccessReview", spec
        )
        return status.get("allowed") is True and status.get("denied") is not True

    def _review(self, version: str, resource: str, kind: str, spec: dict[str, Any]) -> Object:
        """Create a review. Return its status."""
        body = {"apiVersion": version, "kind": kind, "spec": spec}
        call = Call("create", version, resource, None, "", body)
        status = self._cluster().with_timeout(TIMEOUT).send(call).get("status")
        return status if isinstance(status, dict) else {}
