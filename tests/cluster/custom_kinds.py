"""CustomResourceDefinitions of other projects, from their Go modules.

``binaries/NAME/go.mod`` names the versions. The files are cached outside the checkout, beside the programs of
``build.py``: a module has hundreds of megabytes, and the module cache may be cleaned.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cluster import build

if TYPE_CHECKING:
    from tests.cluster.api import Api

_COLLECTION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True)
class CustomKinds:
    """The definitions of some kinds. name: of the folder below ``binaries/``. files: module -> its files."""

    name: str
    files: dict[str, tuple[str, ...]]

    def install(self, admin: Api) -> None:
        """Create the definitions, and wait until the API server serves their kinds.

        If the modules cannot be downloaded, skip the test, or fail in CI.
        """
        found = self.definitions()
        for definition in found:
            name = definition["metadata"]["name"]
            if admin.find(f"{_COLLECTION}/{name}") is None:
                admin.create(_COLLECTION, definition)
        for definition in found:
            spec = definition["spec"]
            version, plural = spec["versions"][0]["name"], spec["names"]["plural"]
            path = f"/apis/{spec['group']}/{version}"
            admin.wait_for(path, lambda it, p=plural: any(r["name"] == p for r in _resources(it)))
            admin.wait_for(f"{path}/{plural}", lambda it: it is not None)

    def uninstall(self, admin: Api) -> None:
        """Delete the definitions, so that other tests see an API server without them."""
        for definition in self.definitions():
            admin.delete(f"{_COLLECTION}/{definition['metadata']['name']}")

    def definitions(self) -> list[Any]:
        """Return the definitions, by file name."""
        return [json.loads(file.read_bytes()) for file in sorted(self._cached().glob("*.json"))]

    def _cached(self) -> Path:
        """Return the folder with the definitions as JSON. Fill it first if it does not exist."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        sums = (build.MODULES / self.name / "go.sum").read_bytes()
        digest = hashlib.sha256(sums + repr(self.files).encode()).hexdigest()[:12]
        kept = home / "tiercel" / f"{self.name}-{digest}"
        if not kept.exists():
            half = kept.with_name(f".{self.name}.{os.getpid()}")
            half.mkdir(parents=True)
            for module, files in self.files.items():
                for file in files:
                    text = (self._downloaded(module) / file).read_text()
                    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
                    definition = yaml.load(text, Loader=loader)  # noqa: S506 - a safe one
                    (half / f"{Path(file).stem}.json").write_text(json.dumps(definition))
            with contextlib.suppress(OSError):  # another test process was faster
                half.rename(kept)
        return kept

    def _downloaded(self, module: str) -> Path:
        done = subprocess.run(
            [build.go(), "mod", "download", "-json", module],
            cwd=build.MODULES / self.name,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            assert not os.environ.get("CI"), done.stdout + done.stderr
            pytest.skip(f"{module} cannot be downloaded")
        return Path(json.loads(done.stdout)["Dir"])


POLICIES = CustomKinds(
    "policy-kinds",
    {
        "sigs.k8s.io/network-policy-api": (
            "config/crd/standard/policy.networking.k8s.io_clusternetworkpolicies.yaml",
        ),
        "github.com/cilium/cilium": (
            "pkg/k8s/apis/cilium.io/client/crds/v2/ciliumnetworkpolicies.yaml",
        ),
        "github.com/projectcalico/calico": (
            "libcalico-go/config/crd/crd.projectcalico.org_networkpolicies.yaml",
            "libcalico-go/config/crd/crd.projectcalico.org_globalnetworkpolicies.yaml",
        ),
    },
)
"""ClusterNetworkPolicy, and the policies of Cilium and Calico that the engine uses."""
CLOUDNATIVE_PG = CustomKinds(
    "database-kinds",
    {
        "github.com/cloudnative-pg/cloudnative-pg": (
            "config/crd/bases/postgresql.cnpg.io_clusters.yaml",
        ),
    },
)
"""The Cluster of CloudNativePG."""


def _resources(discovery: Any) -> list[Any]:
    return (discovery or {}).get("resources") or []
