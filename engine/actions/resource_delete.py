"""resource.delete: delete the object of a Kubernetes audit event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from engine.actions.composite_parameters import ListOf
from engine.actions.gitops import refuse_managed
from engine.actions.parameters import KindName
from engine.actions.registry import StepContext, action
from engine.cluster.api import Cluster
from engine.cluster.audit_objects import kind_of_event
from engine.cluster.kinds import rbac_resource
from engine.model.calls import Call, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.registry import Right
    from engine.model.calls import Object


def _needs(parameters: Mapping[str, Any]) -> frozenset[Right]:
    resources = [rbac_resource(kind) for kind in parameters.get("kinds") or []]
    return frozenset((verb, resource) for resource in resources for verb in ("get", "delete"))


@action(
    "resource.delete", effect="disrupt", needs=_needs, example={"kinds": ["ConfigMap", "Service"]}
)
def delete_resource(
    resource: dict[str, Any],
    cluster: Cluster,
    context: StepContext,
    *,
    kinds: Annotated[list[Kind], ListOf(KindName())],
    even_if_managed: bool = False,
) -> str:
    """Delete the object that an event of the Kubernetes audit log is about (`ka.target.*`).

    kinds: the kinds that may be deleted, for example ConfigMap. Name a custom kind by its resource, version and
      group, for example certificates.v1.cert-manager.io. Objects of other kinds are skipped.
    even_if_managed: delete the object even if Argo CD or Flux manages it. They may create it again.
    """
    kind = kind_of_event(context.event, kinds)
    metadata = resource["metadata"]
    name, uid = metadata["name"], metadata.get("uid")
    namespace = metadata.get("namespace") if kind.namespaced else None
    about = f"{kind.kind} {f'{namespace}/' if namespace else ''}{name}"
    refuse_managed(metadata, about, even_if_managed=even_if_managed)
    body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
    body |= {"preconditions": {"uid": uid}} if uid else {}
    # A second attempt needs this to know whether we deleted the object or something else did.
    context.keep({"sent": context.step, **({"uid": uid} if uid else {})})
    cluster.send(Call("delete", kind.api_version, kind.resource, namespace, name, body))
    return f"delete {about}"
