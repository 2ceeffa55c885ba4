"""Calls and requests: what the engine sends to the API server and to other servers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


Object = dict[str, Any]
"""A Kubernetes object, as its JSON."""


Verb = Literal["create", "apply", "patch", "delete"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A served kind: its apiVersion, its resource (plural, lower case) and whether it has namespaces."""

    api_version: str
    resource: str
    kind: str
    namespaced: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """One write to the API server.

    ``apply`` is server-side apply, ``patch`` a JSON merge patch; a subresource belongs to the resource
    (``pods/eviction``). body: what is sent.
    """

    verb: Verb
    api_version: str
    resource: str
    namespace: str | None
    name: str
    body: Object = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """A request to somebody else's server, with secrets masked as ``***``; body is text or JSON."""

    method: str
    url: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SecretName:
    """The name of a secret; its value is read at the time of use."""

    name: str


def call_json(call: Call) -> dict[str, Any]:
    """One write."""
    return {
        "verb": call.verb,
        "apiVersion": call.api_version,
        "resource": call.resource,
        "namespace": call.namespace,
        "name": call.name,
        "body": call.body,
    }


def request_json(request: OutboundRequest) -> dict[str, Any]:
    """One request, secrets masked."""
    return {
        "method": request.method,
        "url": request.url,
        "headers": request.headers,
        "body": request.body,
    }


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """A value within an object that a step sets, or the object itself, which it makes.

    path: the keys down to the value; none for the object itself. uid: of the object, None for one that is
    made. put, before: the value set, and the one that was there; None is absent.
    """

    kind: Kind
    namespace: str | None
    name: str
    uid: str | None = None
    path: tuple[str, ...] = ()
    put: Any = None
    before: Any = None

    @property
    def key(self) -> str:
        """What tells the changed thing from others, for those who hold it."""
        return json.dumps([self.kind.resource, self.namespace, self.uid or self.name, *self.path])

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> ObjectChange:
        """The change of its JSON."""
        return cls(**{**data, "kind": Kind(**data["kind"]), "path": tuple(data["path"])})
