"""ServiceAccounts that the calls of a playbook impersonate (``spec.runAs``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, cast

from engine.model.errors import PermanentError

if TYPE_CHECKING:
    from engine.cluster.client import KubernetesCluster
    from engine.model.calls import Object

_PREFIX = "system:serviceaccount:"


def as_account(
    cluster: KubernetesCluster, namespace: str | None, account: str
) -> KubernetesCluster:
    """Return the cluster whose calls impersonate a ServiceAccount; the same cluster if ``account`` is "".

    namespace: the engine's namespace, None if it is not known. The calls then fail, because the engine must not
    use its own rights in place of those of the account.
    """
    if not account:
        return cluster
    if namespace is None:
        return cast("KubernetesCluster", _UnknownNamespaceCluster(account))
    return cluster.impersonate(f"{_PREFIX}{namespace}:{account}")


def missing_right(verbs: str, resource: str, user: str | None, body: Object) -> str:
    """Return which right a 403 means: that of the call, or that to impersonate the user.

    user: the user that the call impersonates, or None. body: the Status.
    """
    if user is None:
        return f"missing right: {verbs} on {resource}"
    namespace, _, name = user.removeprefix(_PREFIX).partition(":")
    if "cannot impersonate" in str(body.get("message")):
        return (
            f"missing right: impersonate on serviceaccounts/{name} in the namespace {namespace}; "
            "tiercel rbac prints the roles for runAs"
        )
    return (
        f"missing right: {verbs} on {resource}; the ServiceAccount {namespace}/{name} of runAs does not have "
        "it, or does not exist"
    )


class _UnknownNamespaceCluster:
    """A cluster for an account whose namespace is not known. Each use raises PermanentError."""

    def __init__(self, account: str) -> None:
        self.__account = account

    def __getattr__(self, name: str) -> NoReturn:
        what = f"runAs: {self.__account}: the engine's namespace is not known"
        raise PermanentError(f"{what}; set TIERCEL_POD_NAMESPACE")
