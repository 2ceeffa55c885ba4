"""The RBAC rights that playbooks need: those of their steps, and those of the engine itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.actions.owners import OWNERS
from engine.actions.registry import load_actions
from engine.cluster.api import FIELD_MANAGER, NAMESPACE
from engine.cluster.kinds import KINDS, rbac_resource
from engine.cluster.policy_providers.registry import POLICY_KINDS, PROVIDERS, global_kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.actions.registry import Right
    from engine.model.playbook import Playbook, Step

FIND_TARGET = frozenset({("get", "pods"), ("list", "pods"), ("get", "nodes")})
"""To find the pod of an event, by its name or by its container on the node."""
CHECK_GUARDRAILS = frozenset({("get", "namespaces"), ("get", "nodes")})
"""To check whether a pod is protected. A node is read as the target."""
_IN_GIT = {
    **{
        f"{kind.resource}.{kind.api_version.partition('/')[0]}": kind.kind
        for kind in OWNERS.values()
    },
    "namespaces": "Namespace",
    "nodes": "Node",
}
"""Resource -> kind of the objects that an action changes and that may be managed from Git."""
CLUSTER_WIDE = frozenset(
    rbac_resource(kind)
    for kind in (
        *KINDS.values(), *POLICY_KINDS, *map(global_kind, PROVIDERS["calico"].kinds)
    )
    if not kind.namespaced
)  # fmt: skip
"""The rights that only a ClusterRole can give."""
LIST_BINDINGS = frozenset({("list", "rolebindings.rbac.authorization.k8s.io")})
"""To find the bindings of a user, which can be in every namespace."""
ACCESS_REVIEWS = frozenset(
    {
        ("create", "tokenreviews.authentication.k8s.io"),
        ("create", "subjectaccessreviews.authorization.k8s.io"),
    }
)
"""To authenticate operators by their Kubernetes tokens (``serve --kubernetes-operators``)."""
ADOPT = frozenset(("list", rbac_resource(kind)) for kind in POLICY_KINDS)
"""To find the policies in all namespaces after the journal was lost. Policies do not contain secrets."""
_WRITES_POLICIES = ("pod.isolate", "pod.block")
_VERBS = ("get", "list", "watch", "create", "update", "patch", "delete")
_GROUP = "rbac.authorization.k8s.io"
_API = f"{_GROUP}/v1"


def rights(playbooks: Iterable[Playbook]) -> frozenset[Right]:
    """Return the least rights that the playbooks need. Disabled playbooks need none."""
    steps = [step for p in playbooks if p.mode != "disabled" for step in p.steps]
    return frozenset(right for step in steps for right in _rights_of(step))


def rights_by_account(playbooks: Iterable[Playbook]) -> dict[str, frozenset[Right]]:
    """Return the least rights of each ServiceAccount that ``runAs`` names. "" has those of the engine itself.

    The engine adopts policies with its own rights, also the policies of a playbook with ``runAs``.
    """
    enabled: dict[str, list[Playbook]] = {"": []}
    for playbook in playbooks:
        if playbook.mode != "disabled":
            enabled.setdefault(playbook.run_as, []).append(playbook)
    found = {account: rights(group) for account, group in sorted(enabled.items())}
    found[""] |= frozenset().union(*found.values()) & ADOPT
    return found


def roles(needed: frozenset[Right], name: str, *, namespaced: bool) -> list[dict[str, Any]]:
    """Return the ClusterRole with these rights.

    namespaced: return a Role with the rights in a namespace, and a ClusterRole with the rest: resources without
    a namespace, and the right to find policies in all namespaces.
    """
    if not namespaced:
        return [_role("ClusterRole", name, needed)]
    wide = frozenset(filter(is_cluster_wide, needed))
    found = [_role("Role", name, needed - wide)]
    return [*found, _role("ClusterRole", name, wide)] if wide else found


def is_cluster_wide(right: Right) -> bool:
    """Return whether only a ClusterRole can give the right, or the engine needs it in all namespaces."""
    return right[1] in CLUSTER_WIDE or right in ADOPT | LIST_BINDINGS | ACCESS_REVIEWS


def account_roles(
    accounts: Mapping[str, frozenset[Right]],
    name: str,
    engine: tuple[str, str],
    *,
    namespaced: bool,
) -> list[dict[str, Any]]:
    """Return the roles and bindings for the ServiceAccounts of ``runAs``: those of each, then the engine's.

    The engine gets the right to impersonate exactly these accounts.

    accounts: their rights by name, without the engine's own. name: of the engine's role. engine: namespace and
    name of its ServiceAccount. namespaced: see ``roles``; the RoleBindings have no namespace either.
    """
    if not accounts:
        return []
    namespace, found = engine[0], []
    for account, needed in sorted(accounts.items()):
        made = roles(needed, f"{name}-{account}", namespaced=namespaced)
        found += [one for role in made for one in (role, _binding(role, (namespace, account)))]
    metadata = {"name": f"{name}-impersonate", "namespace": namespace}
    rule = {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]}
    rules = [{**rule, "resourceNames": sorted(accounts)}]
    role = {"apiVersion": _API, "kind": "Role", "metadata": metadata, "rules": rules}
    return [*found, role, _binding(role, engine)]


def _binding(role: dict[str, Any], account: tuple[str, str]) -> dict[str, Any]:
    """Return the binding of a role to a ServiceAccount, given as namespace and name."""
    subject = {"kind": "ServiceAccount", "namespace": account[0], "name": account[1]}
    reference = {"apiGroup": _GROUP, "kind": role["kind"], "name": role["metadata"]["name"]}
    return {
        "apiVersion": _API,
        "kind": f"{role['kind']}Binding",
        "metadata": dict(role["metadata"]),
        "roleRef": reference,
        "subjects": [subject],
    }


def ignore_differences(playbooks: Iterable[Playbook]) -> list[dict[str, Any]]:
    """Return the ``ignoreDifferences`` of an Argo CD Application for what the playbooks change.

    Argo CD then ignores the fields that Tiercel owns, and no others. Disabled playbooks change nothing. A pod
    that a controller created is not compared, an object that Tiercel created is not in Git, and a step that is
    refused on managed objects (without ``evenIfManaged``) does not change them.
    """
    steps = [step for p in playbooks if p.mode != "disabled" for step in p.steps]
    needed = {right for step in filter(_changes_managed, steps) for right in _rights_of(step)}
    patched = {resource.replace("/scale", "") for verb, resource in needed if verb == "patch"}
    changed = {(_group(it), _IN_GIT[it]) for it in patched & _IN_GIT.keys()}
    return [
        {"group": group, "kind": kind, "managedFieldsManagers": [FIELD_MANAGER]}
        for group, kind in sorted(changed)
    ]


def _changes_managed(step: Step) -> bool:
    """Return whether a step also changes an object that Argo CD or Flux manages."""
    action = load_actions()[step.action]
    if action.finds_objects:  # it changes only objects that Tiercel created, or deletes them
        return False
    is_checked = "evenIfManaged" in action.parameters and step.parameters.get("on") in (
        None, "owner",
    )  # fmt: skip
    return not is_checked or step.parameters.get("evenIfManaged") is True


def _rights_of(step: Step) -> frozenset[Right]:
    action = load_actions()[step.action]
    found = action.needs(step.parameters)
    if step.action in _WRITES_POLICIES:
        found |= ADOPT & {("list", resource) for _, resource in found}
    target = action.target(step.effect)
    is_checked = step.effect in ("mark", "disrupt")
    if target == "resource":
        kinds = step.parameters["kinds"]
        in_namespace = any(kind.namespaced or kind == NAMESPACE for kind in kinds)
        return found | {("get", "namespaces")} if is_checked and in_namespace else found
    if target is not None:
        found |= FIND_TARGET
    return found | CHECK_GUARDRAILS if is_checked and target in ("pod", "subject") else found


def _role(kind: str, name: str, needed: frozenset[Right]) -> dict[str, Any]:
    """Return the Role or ClusterRole. It has one rule for all resources of a group with the same verbs."""
    verbs: dict[str, list[str]] = {}
    for verb, resource in sorted(needed, key=lambda right: _VERBS.index(right[0])):
        verbs.setdefault(resource, []).append(verb)
    rules: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for resource in sorted(verbs, key=lambda r: (_group(r), r)):
        rules.setdefault((_group(resource), tuple(verbs[resource])), []).append(
            resource.partition(".")[0]
        )
    return {
        "apiVersion": _API,
        "kind": kind,
        "metadata": {"name": name},
        "rules": [
            {"apiGroups": [group], "resources": resources, "verbs": list(allowed)}
            for (group, allowed), resources in rules.items()
        ],
    }


def _group(resource: str) -> str:
    """Return the API group of ``networkpolicies.networking.k8s.io``. It is empty for the core group."""
    return resource.partition(".")[2]
