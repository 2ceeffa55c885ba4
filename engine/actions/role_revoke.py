"""role.revoke: delete the RoleBindings and ClusterRoleBindings that name a subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from engine.actions.composite_parameters import ListOf
from engine.actions.gitops import refuse_managed
from engine.actions.parameters import OBJECT_PATTERN, Text, quote
from engine.actions.registry import ActionResult, StepContext, action
from engine.cluster.api import Cluster
from engine.cluster.kinds import KINDS, rbac_resource
from engine.cluster.role_bindings import binding_users, is_built_in, names_group_of
from engine.model.attempt_state import COPIES
from engine.model.calls import Call
from engine.model.errors import GoneError, PermanentError, RefusedError, SkippedError
from engine.model.event import ABSENT
from engine.model.event_subject import first_field
from engine.model.name_patterns import name_matcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.model.calls import Kind, Object

BINDINGS = (KINDS["ClusterRoleBinding"], KINDS["RoleBinding"])
"""The kinds that are deleted; those that give rights in the whole cluster are first."""
MAX_COPIES = 200
MAX_COPY_BYTES = 512 << 10
"""Bindings that one attempt deletes, and bytes of their copies. The copies are in the journal."""
_COPIED = ("name", "namespace", "labels", "annotations")
_SHOWN = 5
"""Bindings and other subjects that a message names."""


@action(
    "role.revoke",
    effect="disrupt",
    finds_objects=True,
    needs={(verb, rbac_resource(kind)) for kind in BINDINGS for verb in ("list", "delete")}
    | {("get", "namespaces")},
    example={"subject": "%ka.user.name", "keep": ["break-glass"]},
)
def revoke_roles(
    cluster: Cluster,
    context: StepContext,
    *,
    subject: Annotated[str | None, Text()] = None,
    keep: Annotated[list[str] | None, ListOf(OBJECT_PATTERN)] = None,
    even_if_managed: bool = False,
) -> ActionResult:
    """Delete the RoleBindings and ClusterRoleBindings that name the subject.

    A binding is deleted as a whole, so its other subjects lose the role, too. (A change to a binding would need
    the rights that the binding grants.) The run keeps a copy of each binding before it is deleted: `tiercel show
    RUN --copies` prints the copies, and `kubectl apply` restores them. `tiercel undo` does not restore them.

    Bindings that Kubernetes itself needs (`system:…`, and those with the label `kubernetes.io/bootstrapping`),
    bindings in protected namespaces and the bindings of Tiercel stay. The step is refused if such a binding
    names the subject, after it has deleted the others. Rights that a ServiceAccount has through the groups
    `system:serviceaccounts` and `system:serviceaccounts:NAMESPACE` stay, because a binding of a group gives
    rights to others. The message names these bindings.

    subject: the name of a user, or `system:serviceaccount:NAMESPACE:NAME`. The default is `ka.user.name`.
    keep: names of bindings that stay: NAME or NAMESPACE/NAME, exact or with * and ?.
    even_if_managed: delete a binding even if Argo CD or Flux manages it. They may create it again.
    """
    name = _subject(context, subject)
    kept = name_matcher(keep or ())
    copies = list(context.attempt_state.get(COPIES) or ())
    found, stays = [], []
    direct, of_groups = _bindings_of(name, cluster, kept)
    for binding in direct:
        reason = _reason_to_stay(binding, context, even_if_managed=even_if_managed)
        if reason:
            stays.append(f"{binding} stays: {reason}")
        else:
            found.append(binding)
    deleted = _delete(found, copies, cluster, context)
    if len(deleted) < len(found):
        left = len(found) - len(deleted)
        raise PermanentError(f"deleted {len(deleted)} bindings; {left} more name {quote(name)}")
    if stays:
        raise RefusedError("; ".join(_cut(stays)))
    revoked = [_title(copy) for copy in copies]
    if not revoked:
        raise SkippedError(f"no RoleBinding or ClusterRoleBinding names {quote(name)}{of_groups}")
    message = f"delete {', '.join(_cut(revoked))}, which named {quote(name)}{_others(copies, name)}"
    message += of_groups
    return ActionResult(message, {"subject": name, "deleted": revoked})


class _Binding(msgspec.Struct, frozen=True):
    kind: Kind
    object: Object

    @property
    def metadata(self) -> Object:
        metadata: Object = self.object["metadata"]
        return metadata

    @property
    def namespace(self) -> str | None:
        return self.metadata.get("namespace") if self.kind.namespaced else None

    def __str__(self) -> str:
        return _title({"kind": self.kind.kind, "metadata": self.metadata})

    def copy(self) -> Object:
        """Return what is needed to create the binding again."""
        metadata = {key: self.metadata[key] for key in _COPIED if self.metadata.get(key)}
        rest: Object = {
            key: self.object[key] for key in ("roleRef", "subjects") if key in self.object
        }
        head = {"apiVersion": self.kind.api_version, "kind": self.kind.kind}
        return {**head, "metadata": metadata, **rest}


def _subject(context: StepContext, given: str | None) -> str:
    name = first_field(context.event, "ka.user.name") if given is None else given
    if name is None or name in ABSENT:
        raise SkippedError("the event does not name a user (ka.user.name)")
    return name


def _bindings_of(
    subject: str, cluster: Cluster, kept: Callable[[str], bool]
) -> tuple[list[_Binding], str]:
    """Return the bindings that name the subject, except those to keep, and a text about those of its groups."""
    direct, others = [], []
    for kind in BINDINGS:
        for item in cluster.list(kind):
            binding = _Binding(kind, item)
            name = str(binding.metadata["name"])
            if binding.metadata.get("deletionTimestamp"):
                continue
            if subject not in binding_users(item):
                if names_group_of(item, subject) and not is_built_in(item):
                    others.append(str(binding))
            elif not any(map(kept, (name, f"{binding.namespace}/{name}"))):
                direct.append(binding)
    through = f"; it still has the rights of {', '.join(_cut(others))} through a group"
    return direct, through if others else ""


def _reason_to_stay(binding: _Binding, context: StepContext, *, even_if_managed: bool) -> str:
    """Return why a binding must not be deleted, or ""."""
    if is_built_in(binding.object):
        return "Kubernetes needs it"
    try:
        context.check_guardrails({**binding.object, "kind": binding.kind.kind})
        refuse_managed(binding.metadata, str(binding), even_if_managed=even_if_managed)
    except RefusedError as error:
        return str(error)
    return ""


def _delete(
    found: list[_Binding], copies: list[Object], cluster: Cluster, context: StepContext
) -> list[_Binding]:
    """Save copies of the bindings, then delete them. Return the deleted ones, and add the copies to ``copies``.

    A second attempt does not find the bindings again, so their copies must be on disk before.
    """
    chosen, size = [], 0
    for binding in found[:MAX_COPIES]:
        size += len(msgspec.json.encode(binding.copy()))
        if size <= MAX_COPY_BYTES:
            chosen.append(binding)
    known = {_title(copy): n for n, copy in enumerate(copies)}
    for binding in chosen:
        if str(binding) in known:
            copies[known[str(binding)]] = binding.copy()
        else:
            copies.append(binding.copy())
    if chosen:
        context.keep({COPIES: copies, "sent": context.step})
    for binding in chosen:
        kind, uid = binding.kind, binding.metadata.get("uid")
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        body |= {"preconditions": {"uid": uid}} if uid else {}
        name = binding.metadata["name"]
        try:
            cluster.send(
                Call("delete", kind.api_version, kind.resource, binding.namespace, name, body)
            )
        except GoneError:  # deleted or replaced since the list; the next event is about the new one
            continue
    return chosen


def _title(item: Object) -> str:
    metadata = item["metadata"]
    namespace = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{item['kind']} {namespace}{metadata['name']}"


def _others(copies: list[Object], subject: str) -> str:
    """Return the subjects that lost a role as well, for the message."""
    others = {
        f"{one.get('kind')} {one.get('name')}"
        for copy in copies
        for one in copy.get("subjects") or []
        if subject not in binding_users({"subjects": [one]})
    }
    return f"; they also named {', '.join(_cut(sorted(others)))}" if others else ""


def _cut(texts: list[str]) -> list[str]:
    """Return the texts for a message: the first ones, each cut, and how many more there are."""
    more = [f"{len(texts) - _SHOWN:,} more"] if len(texts) > _SHOWN else []
    return [*(text[:120] for text in texts[:_SHOWN]), *more]
