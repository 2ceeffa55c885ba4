"""Calls to the API server, and HTTP requests to other servers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


Object = dict[str, Any]
"""A Kubernetes object as JSON."""


Verb = Literal["create", "apply", "patch", "delete"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A Kubernetes kind: apiVersion, resource (plural, lower case), and whether it has namespaces."""

    api_version: str
    resource: str
    kind: str
    namespaced: bool = True


class Call(msgspec.Struct, frozen=True):
    """One write to the API server.

    ``apply`` is server-side apply. ``patch`` is a JSON merge patch. A subresource is a part of
    ``resource``, for example ``pods/eviction``. body: the object or patch that is sent.
    """

    verb: Verb
    api_version: str
    resource: str
    namespace: str | None
    name: str
    body: Object = msgspec.field(default_factory=dict)


class OutboundRequest(msgspec.Struct, frozen=True):
    """An HTTP request to a server other than the API server. Secrets are masked as ``***``.

    body: text or JSON.
    """

    method: str
    url: str
    body: Any = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)


class SecretName(msgspec.Struct, frozen=True):
    """The name of a secret. Its value is read when it is used."""

    name: str


def call_json(call: Call) -> dict[str, Any]:
    """Return a call as JSON."""
    return {
        "verb": call.verb,
        "apiVersion": call.api_version,
        "resource": call.resource,
        "namespace": call.namespace,
        "name": call.name,
        "body": call.body,
    }


def request_json(request: OutboundRequest) -> dict[str, Any]:
    """Return a request as JSON, with secrets masked."""
    return {
        "method": request.method,
        "url": request.url,
        "headers": request.headers,
        "body": request.body,
    }


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """A value that a step sets in an object, or an object that it creates.

    path: keys that lead to the value; empty for an object that is created. uid: uid of the object, None
    if it is created. put: the new value. before: the old value. None is an absent value.
    item: the fields that identify the value if it is an item of the list at the path, for example
    ``{"key": "quarantine", "effect": "NoSchedule"}`` of a taint.
    others: values that other steps set at the same place. One of them can still be there, because a later step
    saved its change and then did not act.
    """

    kind: Kind
    namespace: str | None
    name: str
    uid: str | None = None
    path: tuple[str, ...] = ()
    put: Any = None
    before: Any = None
    item: Mapping[str, str] | None = None
    others: tuple[Any, ...] = ()

    @property
    def key(self) -> str:
        """A key that is equal for all changes of the same value."""
        item = [dict(sorted(self.item.items()))] if self.item else []
        group = self.kind.api_version.rpartition("/")[0]
        # journals of earlier versions contain keys without a group, of these groups only
        known = "." not in group or group == "networking.k8s.io"
        resource = self.kind.resource if known else f"{self.kind.resource}.{group}"
        place = [resource, self.namespace, self.uid or self.name, *self.path, *item]
        return json.dumps(place)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> ObjectChange:
        """Create a change from its JSON."""
        others = tuple(data.get("others", ()))
        kind, path = Kind(**data["kind"]), tuple(data["path"])
        return cls(**{**data, "kind": kind, "path": path, "others": others})
