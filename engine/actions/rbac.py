"""What playbooks need of the API server: the rights of their steps, and what the engine reads before any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.actions.registry import load_actions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.actions.registry import Right
    from engine.model.playbook import Playbook, Step

WHOSE = frozenset({("get", "pods"), ("list", "pods"), ("get", "nodes")})
"""To find the pod that an event means: by name, else by container on its node."""
GUARDED = frozenset({("get", "namespaces"), ("get", "nodes")})
"""To see whether what is marked or disrupted is protected."""
CLUSTER_WIDE = frozenset({"namespaces", "nodes"})
FOUND = frozenset({("list", "networkpolicies.networking.k8s.io")})
"""To find in the whole cluster, after a journal was lost, what has to end; names and peers, no secrets."""
_VERBS = ("get", "list", "watch", "create", "update", "patch", "delete")
_API = "rbac.authorization.k8s.io/v1"


def rights(playbooks: Iterable[Playbook]) -> frozenset[Right]:
    """The least rights of these playbooks; those that are disabled need none."""
    steps = [step for p in playbooks if p.mode != "disabled" for step in p.steps]
    return frozenset(right for step in steps for right in _of(step))


def roles(needed: frozenset[Right], name: str, *, namespaced: bool) -> list[dict[str, Any]]:
    """The ClusterRole with these rights; namespaced: a Role for what is in namespaces, and one for the rest.

    The rest is what has no namespace, and what the engine must find wherever it is.
    """
    if not namespaced:
        return [_role("ClusterRole", name, needed)]
    wide = frozenset(right for right in needed if right[1] in CLUSTER_WIDE) | (needed & FOUND)
    found = [_role("Role", name, needed - wide)]
    return [*found, _role("ClusterRole", name, wide)] if wide else found


def _of(step: Step) -> frozenset[Right]:
    action = load_actions()[step.action]
    found = action.needs(step.parameters)
    if action.target(step.effect):
        found |= WHOSE
    return found | GUARDED if step.effect in ("mark", "disrupt") else found


def _role(kind: str, name: str, needed: frozenset[Right]) -> dict[str, Any]:
    """The object: one rule for all resources of a group that have the same verbs."""
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
    """The API group of ``networkpolicies.networking.k8s.io``; empty for the core's."""
    return resource.partition(".")[2]
