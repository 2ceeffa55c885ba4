"""Detach a pod: remove the labels by which its controller, Services and other policies select it.

The controller then creates another pod, and this one stays. An annotation of the pod keeps the removed labels
for people. The policy has the same annotation for the engine, which restores the labels if the journal is lost.
The engine does not trust the annotation of the pod, because more people can change pods than policies.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from engine.actions.owners import OWNERS
from engine.actions.parameters import check_label_key, check_label_value
from engine.actions.quarantine import LIST_POLICIES, QUARANTINE, Subject
from engine.cluster.api import JOB, NETWORK_POLICY, POD, REPLICA_SET, SERVICE
from engine.cluster.kinds import rbac_resource
from engine.cluster.label_selectors import as_object, matches, parse_selector
from engine.model.calls import ObjectChange
from engine.model.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.actions.registry import Right
    from engine.cluster.api import Cluster
    from engine.cluster.label_selectors import Requirements
    from engine.cluster.pods import Pod

REMOVED_LABELS = "tiercel.dev/removed-labels"
"""The annotation with the removed labels, as a JSON object."""
MAX_REMOVED = 100
MAX_NOTE = 64 << 10
"""Labels and bytes of an annotation that is read. 100 of the longest labels have 43 KiB."""
_REPLACING = (REPLICA_SET.kind, JOB.kind)
"""The controllers that create another pod with another name."""
_KEEPS_NAME = ("StatefulSet", "DaemonSet")
DETACH_RIGHTS: frozenset[Right] = frozenset(
    {
        *(("get", rbac_resource(OWNERS[kind])) for kind in _REPLACING),
        ("list", rbac_resource(SERVICE)),
        LIST_POLICIES,
    }
)


def detached(pod: Pod, cluster: Cluster, subject: Subject) -> Subject:
    """Return the subject without the labels by which others select the pod.

    Raises RefusedError if the controller would not create another pod.
    """
    selectors = [one for one in _selectors(pod, cluster) if one is not None]
    labels = dict(subject.labels)
    removed = earlier = _removed_earlier(pod)
    while keys := {key for one in selectors if matches(one, labels) for key in _keys(one)}:
        removed = removed | {key: labels.pop(key) for key in keys & labels.keys()}
    if not removed:
        return subject
    note = json.dumps(removed, sort_keys=True)
    before = None if earlier else (pod.metadata.get("annotations") or {}).get(REMOVED_LABELS)
    place = (pod.namespace, pod.name, pod.uid)
    patch: dict[str, dict[str, str | None]] = {
        "labels": {**dict.fromkeys(removed), **subject.patch["labels"]},
        "annotations": {REMOVED_LABELS: note},
    }
    changes = (*detach_changes(place, removed, note, before), *subject.changes)
    return Subject(subject.pods, labels, subject.owner, patch, changes, {REMOVED_LABELS: note})


def detach_changes(
    pod: tuple[str, str, str], removed: Mapping[str, str], note: str, before: str | None = None
) -> Iterator[ObjectChange]:
    """Yield the changes that detach a pod, which is given as namespace, name and uid.

    note, before: the annotation with the removed labels, and its earlier value.
    """
    path: tuple[str, ...] = ("metadata", "annotations", REMOVED_LABELS)
    yield ObjectChange(POD, *pod, path, note, before)
    for key, value in removed.items():
        yield ObjectChange(POD, *pod, ("metadata", "labels", key), None, value)


def noted_labels(note: str | None) -> dict[str, str]:
    """Return the valid labels of such an annotation. Other people can write the annotation, too."""
    if not note or len(note.encode(errors="replace")) > MAX_NOTE:
        return {}
    try:
        found = as_object(json.loads(note))
    except (ValueError, RecursionError):
        return {}
    if len(found) > MAX_REMOVED:
        return {}
    return {key: value for key, value in found.items() if _valid(key, value)}


def _selectors(pod: Pod, cluster: Cluster) -> Iterator[Requirements | None]:
    """Yield the selectors of the controller, the Services and the NetworkPolicies of the pod's namespace."""
    owner = pod.controller
    if owner is not None:
        kind = OWNERS.get(owner["kind"])
        if kind is None or kind.kind not in _REPLACING:
            creates = "creates no other pod" if owner["kind"] in _KEEPS_NAME else "is not known"
            raise RefusedError(f"detach: the controller of pod {pod}, a {owner['kind']}, {creates}")
        found = cluster.get(kind, owner["name"], pod.namespace)
        yield parse_selector(as_object((found or {}).get("spec")).get("selector") or None)
    for service in cluster.list(SERVICE, pod.namespace):
        labels = as_object(as_object(service.get("spec")).get("selector"))
        yield parse_selector({"matchLabels": labels}) if labels else None
    for policy in cluster.list(NETWORK_POLICY, pod.namespace):
        yield parse_selector(as_object(policy.get("spec")).get("podSelector"))


def _keys(requirements: Requirements) -> set[str]:
    """Return labels that a selected pod has. A pod that lacks one of them is not selected."""
    return {key for key, operator, _ in requirements if operator in ("In", "Exists")} - {QUARANTINE}


def _removed_earlier(pod: Pod) -> dict[str, str]:
    """Return the labels that an earlier attempt or run removed."""
    labels = pod.metadata.get("labels") or {}
    if QUARANTINE not in labels:
        return {}
    found = noted_labels((pod.metadata.get("annotations") or {}).get(REMOVED_LABELS))
    return {key: value for key, value in found.items() if key not in labels}


def _valid(key: str, value: object) -> bool:
    is_label = isinstance(value, str) and not check_label_value(value) and not check_label_key(key)
    return is_label and key != QUARANTINE
