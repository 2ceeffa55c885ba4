"""The CustomResourceDefinitions of ClusterNetworkPolicy, Cilium and Calico, from their Go modules.

``binaries/policy-kinds/go.mod`` names the versions. The files are cached outside the checkout, beside the
programs of ``build.py``: a module has hundreds of megabytes, and the module cache may be cleaned.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cluster import build

if TYPE_CHECKING:
    from tests.cluster.api import Api

FOLDER = build.MODULES / "policy-kinds"
FILES = {
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
}
"""Module -> the files of the kinds that the engine uses."""
_COLLECTION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def install(admin: Api) -> None:
    """Create the definitions, and wait until the API server serves their kinds.

    If the modules cannot be downloaded, skip the test, or fail in CI.
    """
    found = [json.loads(file.read_bytes()) for file in sorted(_cached().glob("*.json"))]
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


def uninstall(admin: Api) -> None:
    """Delete the definitions, so that other tests see an API server without them."""
    for file in _cached().glob("*.json"):
        name = json.loads(file.read_bytes())["metadata"]["name"]
        admin.delete(f"{_COLLECTION}/{name}")


def _resources(discovery: Any) -> list[Any]:
    return (discovery or {}).get("resources") or []


def _cached() -> Path:
    """Return the folder with the definitions as JSON. Fill it first if it does not exist."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256((FOLDER / "go.sum").read_bytes() + repr(FILES).encode()).hexdigest()[
        :12
    ]
    kept = home / "tiercel" / f"policy-kinds-{digest}"
    if not kept.exists():
        half = kept.with_name(f".policy-kinds.{os.getpid()}")
        half.mkdir(parents=True)
        for module, files in FILES.items():
            for file in files:
                text = (_downloaded(module) / file).read_text()
                loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
                definition = yaml.load(text, Loader=loader)  # noqa: S506 - a safe one
                (half / f"{Path(file).stem}.json").write_text(json.dumps(definition))
        with contextlib.suppress(OSError):  # another test process was faster
            half.rename(kept)
    return kept


def _downloaded(module: str) -> Path:
    command = [build.go(), "mod", "download", "-json", module]
    done = subprocess.run(
        command, cwd=FOLDER, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        assert not os.environ.get("CI"), done.stdout + done.stderr
        pytest.skip(f"{module} cannot be downloaded")
    return Path(json.loads(done.stdout)["Dir"])
