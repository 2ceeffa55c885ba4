"""Fixtures for tests that apply kustomize/ to a real API server."""

from __future__ import annotations

import pytest

from tests.kustomize.rendering import apply, path_of

STAYS = {
    "Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}  # fmt: skip
"""The engine's identity, which other tests use."""


@pytest.fixture
def applied(admin):
    """A function that applies manifests. They are deleted afterwards, except for the engine's identity."""
    made = {}

    def run(manifests):
        manifests = list(manifests)
        made.update({path_of(it, admin): it for it in manifests})
        apply(manifests, admin)

    yield run
    for path, manifest in reversed(made.items()):
        home = manifest["metadata"].get("namespace", manifest["metadata"]["name"])
        if not (home == "tiercel" and manifest["kind"] in STAYS) and admin.find(path):
            admin.delete(path)
