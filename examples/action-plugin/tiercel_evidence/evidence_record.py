"""evidence.record: keep what an event says in a ConfigMap beside the pod."""

from __future__ import annotations

from typing import Annotated

from tiercel import (
    Call,
    Cluster,
    Duration,
    Kind,
    ObjectChange,
    Pod,
    StepContext,
    action,
    ownership_metadata,
    require_managed,
    short_digest,
)

CONFIG_MAP = Kind("v1", "configmaps", "ConfigMap")
MAX_TEXT = 100_000
"""Characters of the text. The API server accepts 1 MiB for a ConfigMap."""


@action(
    "evidence.record",
    effect="mark",
    needs={
        ("get", "configmaps"),
        ("create", "configmaps"),
        ("patch", "configmaps"),
        ("delete", "configmaps"),
    },
    example={"text": "%rule: %proc.cmdline", "ttl": "30d"},
)
def record_evidence(
    pod: Pod,
    cluster: Cluster,
    context: StepContext,
    *,
    text: str,
    ttl: Annotated[float | None, Duration()] = None,
) -> str:
    """Write a ConfigMap with a text about the event into the namespace of the pod.

    text: what the ConfigMap contains under the key `text`.
    ttl: when the ConfigMap is deleted. Without it, it stays until `tiercel undo`.
    """
    name = f"tiercel-{short_digest(10, context.run, context.step, pod.uid)}"
    found = cluster.get(CONFIG_MAP, name, pod.namespace)
    require_managed(found, f"configmap {pod.namespace}/{name}")
    until = context.add_undo_intent([ObjectChange(CONFIG_MAP, pod.namespace, name)], ttl)
    body = {
        "apiVersion": CONFIG_MAP.api_version,
        "kind": CONFIG_MAP.kind,
        "metadata": {
            "name": name,
            "namespace": pod.namespace,
            **ownership_metadata(context, until, found),
        },
        "data": {"pod": pod.name, "uid": pod.uid, "text": text[:MAX_TEXT]},
    }
    kind = CONFIG_MAP
    cluster.send(Call("apply", kind.api_version, kind.resource, pod.namespace, name, body))
    return f"record evidence about {pod} in configmap {name}"
