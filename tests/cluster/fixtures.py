"""Fixtures with one real control plane for the whole test run, started at first use.

A conftest takes them with ``pytest_plugins = ["tests.cluster.fixtures"]``.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.cluster import build
from tests.cluster.accounts import wait_for_right
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import Kubelet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.api import Api

BASE = Path(__file__).parents[2] / "kustomize" / "base"
ENGINE = (
    "namespace.yaml",
    "serviceaccount.yaml",
    "clusterrole.yaml",
    "rbac.yaml",
    "admission.yaml",
)
USER = "system:serviceaccount:tiercel:tiercel"
ACCOUNT = "/api/v1/namespaces/tiercel/serviceaccounts/tiercel"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
COLLECTIONS = {
    "ValidatingAdmissionPolicy": f"{ADMISSION}/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": f"{ADMISSION}/validatingadmissionpolicybindings",
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/tiercel/serviceaccounts",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A ready control plane with two nodes that run pods; ``control_plane.server`` is its URL."""
    require("control-plane")
    folder = tmp_path_factory.mktemp("control-plane")
    with ControlPlane(folder) as plane, Kubelet(plane.admin, folder):
        yield plane


@pytest.fixture(scope="session")
def admin(control_plane: ControlPlane) -> Api:
    """A client with all rights."""
    return control_plane.admin


@pytest.fixture
def namespace(admin: Api) -> Iterator[str]:
    """The name of a namespace for one test; it is deleted in the background afterwards."""
    name = f"test-{secrets.token_hex(4)}"
    admin.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    admin.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="session")
def engine_token(admin: Api) -> str:
    """A token of the engine's ServiceAccount, which has the rights and limits of kustomize/base."""
    return create_engine_token(admin)


def create_engine_token(admin: Api) -> str:
    """Create the engine's ServiceAccount with the rights of kustomize/base. Return a token of it."""
    for file in ENGINE:
        for manifest in yaml.safe_load_all((BASE / file).read_text()):
            name = manifest["metadata"]["name"]
            admin.apply(f"{COLLECTIONS[manifest['kind']]}/{name}", manifest)
    wait_for_rights(admin)
    # Two hours: longer than any run, and short enough for the API server to grant it as it is.
    asked = {"spec": {"expirationSeconds": 7200}}
    token: str = admin.create(f"{ACCOUNT}/token", asked)["status"]["token"]
    return token


@pytest.fixture(scope="session")
def engine_kubeconfig(
    control_plane: ControlPlane, engine_token: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The path of a kubeconfig with the token of the engine."""
    folder = tmp_path_factory.mktemp("engine")
    return control_plane.kubeconfig(engine_token, folder / "kubeconfig.json")


def wait_for_rights(admin: Api, user: str = USER) -> None:
    """Wait until the API server's authorizer has read the role through its watch."""
    wait_for_right(admin, user, "patch", "networkpolicies.networking.k8s.io")


def require(*components: str) -> None:
    """Build missing components in CI, which must run all tests; elsewhere skip with the build command."""
    programs = [program for one in components for program in build.COMPONENTS[one].programs]
    if all(build.find(program) for program in programs):
        return
    if not os.environ.get("CI"):
        pytest.skip("run `make control-plane`")
    subprocess.run([sys.executable, build.__file__, *components], check=True)
