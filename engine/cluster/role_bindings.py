"""RoleBindings and ClusterRoleBindings: which users they name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.model.calls import Object

_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):[^:]+")
BUILT_IN = "kubernetes.io/bootstrapping"
"""The label of the bindings that the API server creates at its start."""


def binding_users(binding: Object) -> set[str]:
    """Return the names of the users and ServiceAccounts in a binding, as the audit log writes them.

    A group is not a user, also if it has the same name.
    """
    users = set()
    for subject in binding.get("subjects") or []:
        kind, name = subject.get("kind"), subject.get("name")
        if kind == "User":
            users.add(str(name))
        elif kind == "ServiceAccount":
            users.add(f"system:serviceaccount:{subject.get('namespace')}:{name}")
    return users


def names_group_of(binding: Object, user: str) -> bool:
    """Return whether a binding names a group of a ServiceAccount: that of its namespace, or that of all."""
    found = _ACCOUNT.fullmatch(user)
    if found is None:
        return False
    groups = {"system:serviceaccounts", f"system:serviceaccounts:{found[1]}"}
    subjects = binding.get("subjects") or []
    return any(one.get("kind") == "Group" and one.get("name") in groups for one in subjects)


def is_built_in(binding: Object) -> bool:
    """Return whether Kubernetes itself needs a binding: its name or its label says so."""
    metadata = binding["metadata"]
    return str(metadata.get("name")).startswith("system:") or BUILT_IN in (
        metadata.get("labels") or {}
    )
