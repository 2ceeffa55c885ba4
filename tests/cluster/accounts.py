"""ServiceAccounts with chosen rights on the API server of the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.cluster.api import Api

RBAC = "/apis/rbac.authorization.k8s.io/v1"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


def create_account(admin: Api, namespace: str, name: str) -> None:
    """Create a ServiceAccount."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    admin.create(path, {"metadata": {"name": name}})


def token_of(admin: Api, namespace: str, name: str) -> str:
    """Return a token of a ServiceAccount that is valid for two hours."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    token: str = admin.create(path, {"spec": {"expirationSeconds": 7200}})["status"]["token"]
    return token


def apply_manifests(admin: Api, manifests: Iterable[dict[str, Any]]) -> list[str]:
    """Apply manifests of RBAC. Return their paths, the last one first."""
    paths = []
    for manifest in manifests:
        metadata = manifest["metadata"]
        namespace = metadata.get("namespace")
        place = f"{RBAC}/namespaces/{namespace}" if namespace else RBAC
        paths.append(f"{place}/{manifest['kind'].lower()}s/{metadata['name']}")
        admin.apply(paths[-1], manifest)
    return paths[::-1]


def wait_for_right(
    admin: Api,
    user: str,
    verb: str,
    right: str,
    *,
    namespace: str = "",
    name: str = "",
    allowed: bool = True,
) -> None:
    """Wait until the authorizer of the API server has read a role or a binding through its watch.

    right: the resource with its group, as in RBAC: ``deployments/scale.apps``.
    """
    plural, _, group = right.partition(".")
    resource, _, subresource = plural.partition("/")
    attributes = {
        "verb": verb, "resource": resource, "subresource": subresource, "group": group,
        "namespace": namespace, "name": name,
    }  # fmt: skip
    spec = {"user": user, "groups": ["system:authenticated"], "resourceAttributes": attributes}
    wait_until(
        lambda: admin.create(REVIEWS, {"spec": spec})["status"]["allowed"] is allowed,
        lambda: f"{user}: {verb} {right} is not {allowed}",
    )
