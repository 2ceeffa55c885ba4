"""resource.apply: create an object from a manifest with server-side apply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from engine.actions.composite_parameters import Ttl
from engine.actions.gitops import refuse_managed
from engine.actions.managed_objects import ownership_metadata, require_managed
from engine.actions.manifest import Manifest, manifest_kind
from engine.actions.metadata import ttl_text
from engine.actions.parameters import RESOURCE
from engine.actions.registry import StepContext, action
from engine.cluster.api import FIELD_MANAGER, Cluster
from engine.cluster.kinds import rbac_resource
from engine.model.calls import Call, ObjectChange
from engine.model.errors import GoneError, PermanentError, SkippedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.registry import Right
    from engine.model.calls import Kind, Object


def _needs(parameters: Mapping[str, Any]) -> frozenset[Right]:
    manifest = parameters.get("manifest")
    if manifest is None:
        return frozenset()
    kind = manifest_kind(manifest, parameters.get("resource"))
    found = {(verb, rbac_resource(kind)) for verb in ("get", "create", "patch", "delete")}
    return frozenset(found | {("get", "namespaces")} if kind.namespaced else found)


@action(
    "resource.apply",
    effect="disrupt",
    finds_objects=True,
    needs=_needs,
    example={
        "manifest": {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "incident-%k8s.pod.name", "namespace": "%k8s.ns.name"},
            "data": {"rule": "%rule", "command": "%proc.cmdline"},
        }
    },
)
def apply_resource(
    cluster: Cluster,
    context: StepContext,
    *,
    manifest: Annotated[dict[str, Any], Manifest()],
    resource: Annotated[str | None, RESOURCE] = None,
    even_if_managed: bool = False,
    ttl: Ttl = None,
) -> str:
    """Create an object with server-side apply, or update the object that an earlier run created.

    An object with the same name that Tiercel did not create is not changed: the step fails. The undo deletes
    the object.

    The API server enforces what Tiercel can create: the engine has only the rights that `tiercel rbac` prints
    for the kind of the manifest, and admission policies apply. The right to create Pods or workloads in a
    namespace includes the use of each ServiceAccount and Secret of that namespace. Kinds that grant rights, see
    or change all requests, or contain other objects are refused: RBAC kinds, admission webhooks, APIServices,
    CertificateSigningRequests, CustomResourceDefinitions and Namespaces.

    manifest: the object. Strings can have templates, but `apiVersion`, `kind` and the keys cannot. A namespaced
      object needs `metadata.namespace`. Tiercel adds its labels and annotations.
    resource: the plural of a custom kind if it is irregular, as `kubectl api-resources` prints it.
    even_if_managed: update an object that an earlier run created even if Argo CD or Flux manages it now.
    ttl: how long the object exists. Without it, until `tiercel undo`.
    """
    kind, metadata = manifest_kind(manifest, resource), manifest["metadata"]
    name = metadata["name"]
    namespace = metadata["namespace"] if kind.namespaced else None
    about = f"{kind.kind} {f'{namespace}/' if namespace else ''}{name}"
    found = cluster.get(kind, name, namespace)
    context.check_guardrails({**(found or manifest), "kind": kind.kind})
    require_managed(found, about)
    if found is not None:
        refuse_managed(found["metadata"], about, even_if_managed=even_if_managed)
        if found["metadata"].get("deletionTimestamp"):
            raise SkippedError(f"{about} is terminating")
    until = context.add_undo_intent([ObjectChange(kind, namespace, name)], ttl)
    body = _with_marks(manifest, ownership_metadata(context, until, found), found)
    try:
        written = cluster.send(
            Call("apply", kind.api_version, kind.resource, namespace, name, body)
        )
    except GoneError:
        if found is None and namespace:
            raise SkippedError(f"namespace {namespace} does not exist") from None
        raise
    if found is None:
        _require_created(written, kind, about, cluster)
    return f"{'update' if found else 'create'} {about}{ttl_text(ttl)}"


def _with_marks(manifest: Object, marks: Mapping[str, Any], found: Object | None) -> Object:
    """Return the manifest with the labels and annotations of Tiercel, and the uid of the existing object."""
    metadata = dict(manifest["metadata"])
    for part, values in marks.items():
        metadata[part] = {**(metadata.get(part) or {}), **values}
    uid = (found or {}).get("metadata", {}).get("uid")
    return {**manifest, "metadata": {**metadata, **({"uid": uid} if uid else {})}}


def _require_created(written: Object, kind: Kind, about: str, cluster: Cluster) -> None:
    """Raise PermanentError if the apply changed an object that was created after the read.

    Such an object has fields of other managers. The apply of an empty object removes our fields from it.
    """
    metadata = written["metadata"]
    managers = {entry.get("manager") for entry in metadata.get("managedFields") or []}
    if managers <= {FIELD_MANAGER}:
        return
    name, namespace = metadata["name"], metadata.get("namespace")
    identity = {key: metadata[key] for key in ("name", "namespace", "uid") if key in metadata}
    body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": identity}
    cluster.send(Call("apply", kind.api_version, kind.resource, namespace, name, body))
    raise PermanentError(f"{about} already exists and was not created by Tiercel")
