"""The parameter type of a manifest: a Kubernetes object whose strings can have templates.

Text from an event stays inside its string. It cannot change the kind of the object or the keys of its fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.actions.composite_parameters import Json
from engine.actions.gitops import MARKS
from engine.actions.parameters import (
    check_label_key,
    check_label_value,
    check_namespace,
    check_object_name,
    quote,
)
from engine.cluster.kinds import KINDS
from engine.model.calls import Kind
from engine.model.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.language.findings import Findings
    from engine.language.template import TemplateContext
    from engine.language.yaml_source import Path
    from engine.model.event import Event

MAX_DEPTH = 32
MAX_VALUES = 5_000
MAX_BYTES = 256 << 10
"""Bytes of the rendered manifest as JSON. The API server accepts 1.5 MiB."""
_KEYS = {"name", "namespace", "labels", "annotations", "ownerReferences"}
"""The keys of the metadata that a manifest can have."""
_GROUPS = {
    "rbac.authorization.k8s.io": "it grants rights",
    "apiregistration.k8s.io": "it redirects requests to the API server",
    "certificates.k8s.io": "it can create credentials",
    "authentication.k8s.io": "it can create credentials",
}
_REFUSED = {
    "MutatingWebhookConfiguration": "it can change every object",
    "ValidatingWebhookConfiguration": "it can read and reject every object",
    "CustomResourceDefinition": "its undo would delete all objects of the kind",
    "Namespace": "its undo would delete everything in the namespace",
    "List": "it is not one object",
}
"""Groups and kinds that a manifest cannot have -> the reason."""
_ACCOUNT_TOKEN = "kubernetes.io/service-account-token"  # noqa: S105 - a type of Secret


def manifest_kind(manifest: Mapping[str, Any], resource: str | None = None) -> Kind:
    """Return the kind of a manifest. resource: its plural, if the usual plural of the kind is not right."""
    api_version, name = manifest["apiVersion"], manifest["kind"]
    known = KINDS.get(name)
    if known is not None and _group(known.api_version) == _group(api_version):
        return Kind(api_version, resource or known.resource, name, known.namespaced)
    namespaced = "namespace" in manifest["metadata"]
    return Kind(api_version, resource or _plural(name), name, namespaced)


class Manifest(msgspec.Struct, frozen=True):
    """One Kubernetes object. Its ``apiVersion`` and ``kind`` have no templates."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the object with compiled strings, or None."""
        before = len(findings.entries)
        if not isinstance(data, dict):
            findings.add(path, "bad-parameter", f"`{path[-1]}` takes a Kubernetes object")
            return None
        for where, what in _size_faults(data):
            findings.add((*path, *where), "bad-parameter", what)
            return None
        for where, what, hint in (*_head_faults(data), *_content_faults(data)):
            findings.add((*path, *where), "bad-parameter", what, hint)
        if len(findings.entries) > before:
            return None
        head = {key: data[key] for key in ("apiVersion", "kind")}
        return {**Json().compile(data, path, findings, steps), **head}

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the object. Raises RefusedError for a name, namespace or label value that is not valid."""
        rendered: dict[str, Any] = Json().render(value, event, context)
        metadata = rendered["metadata"]
        _check_rendered(metadata["name"], check_object_name)
        if "namespace" in metadata:
            _check_rendered(metadata["namespace"], check_namespace)
        for label in (metadata.get("labels") or {}).values():
            _check_rendered(label, check_label_value)
        size = len(msgspec.json.encode(rendered))
        if size > MAX_BYTES:
            raise RefusedError(f"the manifest has {size:,} bytes, more than {MAX_BYTES:,}")
        return rendered

    def schema(self) -> dict[str, Any]:
        """Return the schema of an object with its kind and name."""
        text = {"type": "string"}
        names = {
            "name": {**text, "description": "the name of the object"},
            "namespace": {**text, "description": "its namespace, if the kind has namespaces"},
        }
        metadata = {
            "type": "object",
            "description": "with name, namespace, labels, annotations and ownerReferences only",
            "properties": names,
            "required": ["name"],
        }
        version = {**text, "description": "without a template, for example networking.k8s.io/v1"}
        kind = {**text, "description": "without a template, for example NetworkPolicy"}
        return {
            "type": "object",
            "properties": {"apiVersion": version, "kind": kind, "metadata": metadata},
            "required": ["apiVersion", "kind", "metadata"],
        }


def _check_rendered(text: str, check: Callable[[str], str | None]) -> None:
    fault = check(text)
    if fault:
        raise RefusedError(f"{quote(text)} {fault}")


def _size_faults(data: Any) -> Iterator[tuple[Path, str]]:
    """Yield the place of a value that exceeds the depth or the number of values. Does not recurse."""
    values = 0
    stack: list[tuple[Path, Any]] = [((), data)]
    while stack:
        path, value = stack.pop()
        values += 1
        if len(path) > MAX_DEPTH:
            yield path, f"the manifest is nested deeper than {MAX_DEPTH} levels"
            return
        if values > MAX_VALUES:
            yield path, f"the manifest has more than {MAX_VALUES:,} values"
            return
        if isinstance(value, dict):
            stack += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            stack += [((*path, n), inner) for n, inner in enumerate(value)]


def _head_faults(data: Mapping[str, Any]) -> Iterator[tuple[Path, str, str | None]]:
    """Yield what is wrong with ``apiVersion`` and ``kind``: place, message and hint."""
    for key, example in (("apiVersion", "networking.k8s.io/v1"), ("kind", "NetworkPolicy")):
        value = data.get(key)
        if not isinstance(value, str) or not value:
            yield (key,) if key in data else (), f"a manifest needs `{key}`", example
        elif not value.replace(".", "").replace("/", "").replace("-", "").isalnum():
            yield (key,), f"`{key}` takes no template: an event must not choose the kind", example
    group, kind = _group(str(data.get("apiVersion"))), str(data.get("kind"))
    reason = _GROUPS.get(group) or _REFUSED.get(kind)
    if reason:
        yield ("kind",), f"resource.apply does not create a {kind[:60]}: {reason}", None
    if kind == "Secret" and data.get("type") == _ACCOUNT_TOKEN:
        yield ("type",), "resource.apply does not create tokens of ServiceAccounts", None
    if "status" in data:
        yield ("status",), "a manifest has no `status`", None


def _content_faults(data: Mapping[str, Any]) -> Iterator[tuple[Path, str, str | None]]:
    """Yield what is wrong with the metadata and the keys: place, message and hint."""
    metadata = data.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        yield (
            ("metadata",) if "metadata" in data else (),
            "a manifest needs `metadata.name`, a text",
            None,
        )
        return
    for key in metadata.keys() - _KEYS:
        yield (
            ("metadata", key),
            f"a manifest has no `metadata.{key[:40]}`",
            ", ".join(sorted(_KEYS)),
        )
    namespace, known = metadata.get("namespace"), KINDS.get(str(data.get("kind")))
    is_known = known is not None and _group(known.api_version) == _group(str(data["apiVersion"]))
    if known is not None and is_known and known.namespaced != ("namespace" in metadata):
        needs = "needs a" if known.namespaced else "has no"
        yield ("metadata",), f"a {known.kind} {needs} `metadata.namespace`", "%k8s.ns.name"
    if "namespace" in metadata and not isinstance(namespace, str):
        yield ("metadata", "namespace"), "`namespace` takes text", "quote it"
    for part in ("labels", "annotations"):
        for key, value in _items(metadata.get(part)):
            place: Path = ("metadata", part, key)
            if check_label_key(key):
                yield place, f"`{key[:80]}` {check_label_key(key)}", None
            elif not isinstance(value, str):
                yield place, f"`{key[:80]}` takes text", "quote it"
            elif (
                key in MARKS[part] or key.startswith("tiercel.dev/") or key.endswith("/managed-by")
            ):
                yield place, f"`{key[:80]}` belongs to the tool that manages the object", None


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def _plural(kind: str) -> str:
    """Return the resource of a kind: its English plural in lower case, as CRDs usually have it."""
    word = kind.lower()
    if word.endswith("y") and word[-2:-1] not in set("aeiou"):
        return f"{word[:-1]}ies"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")
