"""Check of the rights that the API server grants against those that the playbooks need.

A SelfSubjectRulesReview returns all rights of an account with one call. A right that it does not show is asked
for with a SelfSubjectAccessReview, because some authorizers cannot list their rules. Every authenticated account
may create both reviews.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.actions.rbac import is_cluster_wide
from engine.cluster.impersonation import as_account
from engine.model.calls import Call
from engine.model.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.actions.registry import Right
    from engine.cluster.api import Cluster
    from engine.cluster.client import KubernetesCluster
    from engine.model.calls import Object

MAX_ACCOUNTS = 50
"""ServiceAccounts of ``runAs`` that are checked. Each costs one call."""
MAX_REVIEWS = 200
"""SelfSubjectAccessReviews of one check, over all accounts. The shipped playbooks need about 20 rights."""
MAX_EXCESS = 50
"""Excess rights that are listed for one account."""
TIMEOUT = 60.0
"""Seconds for all calls of one check together."""
_API = "authorization.k8s.io/v1"
_EVERY_NAMESPACE = "tiercel-rights-in-every-namespace"
"""A namespace that does not exist. The rules of a review for it come from ClusterRoleBindings only."""
_EVERY_ACCOUNT = frozenset({"authorization.k8s.io", "authentication.k8s.io"})
"""API groups in which Kubernetes itself gives every account rights on its own reviews (system:basic-user)."""


class AccountRights(msgspec.Struct, frozen=True):
    """The rights of one account, as ``VERB on RESOURCE``.

    account: a ServiceAccount of ``runAs``, or "" for the engine's own. missing: needed and not granted.
    excess: granted and not needed. by_namespace: needed, not granted in every namespace, and therefore perhaps
    granted in some: the roles of ``tiercel rbac --namespaced``. error: why the rights are not known, or "".
    """

    account: str
    missing: tuple[str, ...] = ()
    excess: tuple[str, ...] = ()
    by_namespace: tuple[str, ...] = ()
    error: str = ""


class RightsReport(msgspec.Struct, frozen=True):
    """The rights of all accounts. at: epoch seconds. The engine's own account is first."""

    at: float
    accounts: tuple[AccountRights, ...]

    @property
    def complete(self) -> bool:
        """Whether the rights of all accounts are known."""
        return not any(one.error for one in self.accounts)


def check_rights(
    cluster: KubernetesCluster,
    namespace: str | None,
    needed: Mapping[str, frozenset[Right]],
    now: float,
) -> RightsReport:
    """Return which needed rights are missing, and which granted ones are in excess. Never raises.

    namespace: the engine's, None if it is not known. needed: by account (see ``rights_by_account``). now: epoch
    seconds. At most ``MAX_ACCOUNTS + MAX_REVIEWS + 2`` calls are sent. If the API server does not answer, the
    rights are not known.
    """
    cluster = cluster.with_timeout(TIMEOUT)
    accounts = sorted(account for account in needed if account)
    reviews, place = _Reviews(MAX_REVIEWS), _Place(namespace, tuple(accounts) if namespace else ())
    found = [_check(reviews, cluster, AccountRights(""), needed[""], place)]
    for n, account in enumerate(accounts):
        unchecked = AccountRights(account)
        if n >= MAX_ACCOUNTS:
            error = f"not checked: more than {MAX_ACCOUNTS} accounts"
            found.append(msgspec.structs.replace(unchecked, error=error))
            continue
        impersonated = as_account(cluster, namespace, account)
        found.append(_check(reviews, impersonated, unchecked, needed[account], _Place(None)))
    return RightsReport(now, tuple(found))


class _Place(msgspec.Struct, frozen=True):
    """Where rights are looked up.

    namespace: checked in addition to the rights in every namespace. accounts: those to impersonate there.
    """

    namespace: str | None
    accounts: tuple[str, ...] = ()


class _Rule(msgspec.Struct, frozen=True):
    """A rule of a role, as the API server returns it."""

    verbs: list[str]
    groups: list[str] = msgspec.field(name="apiGroups", default_factory=list)
    resources: list[str] = msgspec.field(default_factory=list)
    names: list[str] = msgspec.field(name="resourceNames", default_factory=list)

    def allows(self, verb: str, resource: str, group: str, name: str = "") -> bool:
        """Return whether the rule allows a verb on a resource; name: of the object, "" for any."""
        subresource = resource.partition("/")[2]
        resources = {"*", resource, *({f"*/{subresource}"} if subresource else ())}
        return bool(
            {"*", verb} & set(self.verbs)
            and {"*", group} & set(self.groups)
            and resources & set(self.resources)
            and (not self.names or name in self.names)
        )


class _Reviews:
    """The SelfSubjectAccessReviews that a check may still send."""

    def __init__(self, left: int) -> None:
        self._left = left

    def allows(
        self, cluster: Cluster, right: Right, namespace: str | None = None, name: str = ""
    ) -> bool:
        """Ask for one right; namespace: None for every namespace. Raises TemporaryError, PermanentError."""
        if not self._left:
            raise PermanentError(
                f"not checked: more than {MAX_REVIEWS} rights are not in the rules"
            )
        self._left -= 1
        verb, qualified = right
        resource, group = _split(qualified)
        plural, _, subresource = resource.partition("/")
        attributes = {
            "verb": verb, "group": group, "resource": plural, "subresource": subresource,
            "namespace": namespace or "", "name": name,
        }  # fmt: skip
        status = _review(cluster, "SelfSubjectAccessReview", {"resourceAttributes": attributes})
        return bool(status["allowed"])


def _check(
    reviews: _Reviews,
    cluster: Cluster,
    account: AccountRights,
    needed: frozenset[Right],
    place: _Place,
) -> AccountRights:
    """Return the rights of one account."""
    try:
        rules = _rules(cluster, _EVERY_NAMESPACE)
        missing = [
            right
            for right in sorted(needed)
            if not any(rule.allows(right[0], *_split(right[1])) for rule in rules)
            and not reviews.allows(cluster, right)
        ]
        local = _rules(cluster, place.namespace) if place.namespace and place.accounts else []
        impersonate = [
            name
            for name in place.accounts
            if not any(r.allows("impersonate", "serviceaccounts", "", name) for r in local)
            and not reviews.allows(
                cluster, ("impersonate", "serviceaccounts"), place.namespace, name
            )
        ]
    except (TemporaryError, PermanentError) as error:
        return msgspec.structs.replace(account, error=str(error)[:500])
    by_namespace = _by_namespace(needed, missing)
    return msgspec.structs.replace(
        account,
        missing=(
            *(_text(right) for right in missing if right not in by_namespace),
            *(f"impersonate on serviceaccounts/{name}" for name in impersonate),
        ),
        excess=_excess([*rules, *local], needed, place.accounts),
        by_namespace=tuple(map(_text, by_namespace)),
    )


def _rules(cluster: Cluster, namespace: str) -> list[_Rule]:
    status = _review(cluster, "SelfSubjectRulesReview", {"namespace": namespace})
    return msgspec.convert(status.get("resourceRules") or [], list[_Rule])


def _review(cluster: Cluster, kind: str, spec: Object) -> Object:
    """Return the status of a review. Raises TemporaryError, PermanentError."""
    body = {"apiVersion": _API, "kind": kind, "metadata": {}, "spec": spec}
    reply = cluster.send(Call("create", _API, f"{kind.lower()}s", None, "", body))
    status = reply.get("status")
    if not isinstance(status, dict):
        raise PermanentError(f"{kind}: the API server did not return a status")
    return status


def _by_namespace(needed: frozenset[Right], missing: list[Right]) -> list[Right]:
    """Return the missing rights that Roles probably grant in some namespaces.

    That is so if no right in a namespace is granted in every namespace, and every other right is granted.
    """
    inner = {right for right in needed if not is_cluster_wide(right)}
    return sorted(inner) if inner and set(missing) == inner != needed else []


def _excess(
    rules: Iterable[_Rule], needed: frozenset[Right], accounts: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the granted rights that are not needed."""
    wanted = {(verb, *_split(qualified)) for verb, qualified in needed}
    found = set()
    for rule in rules:
        for group in set(rule.groups) - _EVERY_ACCOUNT:
            for resource in rule.resources:
                for verb in rule.verbs:
                    text = _text((verb, f"{resource}.{group}" if group else resource))
                    is_impersonation = (verb, resource, group) == (
                        "impersonate", "serviceaccounts", "",
                    )  # fmt: skip
                    names = set(rule.names) - set(accounts if is_impersonation else ())
                    if rule.names:
                        found |= {f"{text}/{name}" for name in names}
                    elif (verb, resource, group) not in wanted:
                        found.add(text)
    listed = sorted(found)
    more = len(listed) - MAX_EXCESS
    return (*listed[:MAX_EXCESS], *([f"and {more} more"] if more > 0 else []))


def _split(qualified: str) -> tuple[str, str]:
    """Return resource and API group of ``deployments/scale.apps``."""
    resource, _, group = qualified.partition(".")
    return resource, group


def _text(right: Right) -> str:
    return f"{right[0]} on {right[1]}"
