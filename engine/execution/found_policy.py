"""What a policy in the cluster shows about the step that created it, for adoption after a lost journal.

Other people can write the labels and annotations of a policy, too. Each is checked before it is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from engine.actions.detach import REMOVED_LABELS, detach_changes, noted_labels
from engine.actions.managed_objects import BLOB, PLAYBOOK, REVISION, RULE, RUN, RUN_AS, is_managed
from engine.actions.parameters import check_namespace, check_object_name
from engine.actions.quarantine import POLICY_POD, QUARANTINE, quarantine_label
from engine.actions.registry import load_actions
from engine.cluster.api import FIELD_MANAGER, POD
from engine.cluster.label_selectors import as_object
from engine.cluster.policy_providers.cut import kept_destinations
from engine.cluster.undo import EXPIRES_AT, MANAGED_BY
from engine.language.compile import playbook_from_snapshot
from engine.language.schema import API_VERSION
from engine.language.value_checks import service_account
from engine.model.calls import ObjectChange
from engine.model.event import parse_event, parse_time
from engine.model.event_subject import target_queue
from engine.model.revision import parse_blob, parse_revision
from engine.model.run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.model.calls import Kind, Object

_NAME = re.compile(r"tiercel-[0-9a-f]{10}")
_RUN = re.compile(r"[0-9a-f]{32}")
_UID = re.compile(r"[0-9A-Za-z-]{1,64}")


@dataclass(frozen=True)
class FoundPolicy:
    """A policy as read from the cluster."""

    kind: Kind
    object: Object

    @property
    def metadata(self) -> Object:
        """The metadata of the policy."""
        found: Object = self.object["metadata"]
        return found

    @cached_property
    def annotations(self) -> Object:
        """The annotations of the policy."""
        return dict(self.metadata.get("annotations") or {})

    @property
    def full_name(self) -> str:
        """Namespace and name, for the log."""
        return f"{self.metadata.get('namespace')}/{self.metadata['name']}"

    @property
    def run(self) -> str | None:
        """The id of the run that created the policy. None if no step created it."""
        id_ = self.annotations.get(RUN, "")
        is_ours = is_managed(self.object) and _RUN.fullmatch(id_)
        return id_ if is_ours and (self._has_our_name or self._was_applied) else None

    @property
    def origin(self) -> tuple[str | None, ...]:
        """What all policies of one run have in common."""
        playbook = (self.metadata.get("labels") or {}).get(PLAYBOOK)
        return (self.run, playbook, *(self.annotations.get(key) for key in (RULE, RUN_AS)))

    @property
    def action(self) -> str:
        """The action that created the policy. Only a block keeps destinations."""
        if not self._has_our_name:
            return "resource.apply"
        return "pod.block" if kept_destinations(self.annotations) else "pod.isolate"

    @property
    def until(self) -> float | None:
        """The end of the policy in epoch seconds, or None (on request), also if it is not a time."""
        text = self.annotations.get(EXPIRES_AT)
        try:
            return parse_time(text) / 1e9 if text else None
        except ValueError:
            return None

    @cached_property
    def pod(self) -> tuple[str, str, str] | None:
        """Namespace, name and uid of the pod that the policy cuts off, or None."""
        if self.kind.namespaced:  # it can only name a pod of its own namespace
            owners = self.metadata.get("ownerReferences") or []
            owner: Object = next((one for one in owners if one.get("kind") == POD.kind), {})
            parts: list[Any] = [self.metadata.get("namespace"), owner.get("name"), owner.get("uid")]
        else:
            parts = [*str(self.annotations.get(POLICY_POD)).split("/", 2)]
        if len(parts) != 3 or not all(parts):  # noqa: PLR2004 - the annotation has three parts
            return None
        namespace, name, uid = map(str, parts)
        is_valid = not check_namespace(namespace) and not check_object_name(name)
        return (namespace, name, uid) if is_valid and _UID.fullmatch(uid) else None

    @cached_property
    def changes(self) -> list[ObjectChange]:
        """The changes that the step made, in their order. The first one is the policy itself."""
        place = (self.kind, self.metadata.get("namespace"), self.metadata["name"])
        changes = [ObjectChange(*place)]
        if self.action == "resource.apply":
            return changes
        for key, one in kept_destinations(self.annotations).items():
            path = ("metadata", "annotations", key)
            changes.append(ObjectChange(*place, path=path, put=one.annotation))
        if self.pod is None:
            return changes
        note = self.annotations.get(REMOVED_LABELS)
        removed = noted_labels(note)
        if note and removed:
            changes += detach_changes(self.pod, removed, note)
        label = quarantine_label(self.pod[2])
        return [*changes, ObjectChange(POD, *self.pod, ("metadata", "labels", QUARANTINE), label)]

    @property
    def parameters(self) -> Object:
        """The required parameters of the step."""
        if self.action != "resource.apply":
            return {}
        head = {key: self.metadata[key] for key in ("name", "namespace") if key in self.metadata}
        kind = {"apiVersion": self.kind.api_version, "kind": self.kind.kind}
        return {"manifest": {**kind, "metadata": head}}

    @property
    def _has_our_name(self) -> bool:
        return _NAME.fullmatch(self.metadata["name"]) is not None

    @property
    def _was_applied(self) -> bool:
        """Whether the engine put its label on the policy. A copy that a person made has the label, too."""
        label = f"f:{next(iter(MANAGED_BY))}"
        for entry in self.metadata.get("managedFields") or []:
            is_ours = (entry.get("manager"), entry.get("operation")) == (FIELD_MANAGER, "Apply")
            fields = as_object(as_object(entry.get("fieldsV1")).get("f:metadata"))
            if is_ours and label in as_object(fields.get("f:labels")):
                return True
        return False


def run_of(id_: str, policies: Sequence[FoundPolicy]) -> Run:
    """Return a run that could have created the policies, with one step for each. Other steps are not known.

    Raises ValueError if the policies do not name a playbook, EventError, PlaybookError.
    """
    first = policies[0]
    annotations = first.annotations
    rule = annotations.get(RULE) or "unknown"
    name = (first.metadata.get("labels") or {}).get(PLAYBOOK) or ""
    if check_namespace(name):
        raise ValueError("its label tiercel.dev/playbook is not the name of a playbook")
    run_as = annotations.get(RUN_AS) or ""
    if run_as and service_account(run_as):
        raise ValueError(f"its annotation {RUN_AS} is not the name of a ServiceAccount")
    pods = [one.pod for one in policies if one.pod]
    namespace, pod, _ = pods[0] if pods else (first.metadata.get("namespace"), None, None)
    fields = {"k8s.ns.name": namespace, "k8s.pod.name": pod}
    time = first.metadata.get("creationTimestamp") or "1970-01-01T00:00:00Z"
    event = parse_event({"rule": rule, "time": time, "output_fields": fields})
    spec: dict[str, Any] = {"match": {"rules": [rule]}, "actions": _steps(policies)}
    document = {
        "apiVersion": API_VERSION,
        "kind": "Playbook",
        "metadata": {"name": name},
        "spec": {**spec, **({"runAs": run_as} if run_as else {})},
    }
    playbook = playbook_from_snapshot(msgspec.json.encode(document), load_actions())
    playbook = replace(playbook, blob=parse_blob(annotations.get(BLOB)))
    revision = parse_revision(annotations.get(REVISION))
    return Run(id_, playbook, event, event.time, target_queue(event, id_), revision=revision)


def _steps(policies: Sequence[FoundPolicy]) -> list[Object]:
    """Return a step for each policy. Later steps with the same action have a number in their name."""
    steps: list[Object] = []
    for one in policies:
        earlier = sum(step["action"] == one.action for step in steps)
        name = f"{one.action}-{earlier + 1}" if earlier else one.action
        steps.append({"action": one.action, "name": name, "with": one.parameters})
    return steps
