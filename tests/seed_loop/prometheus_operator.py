"""The CustomResourceDefinitions of the Prometheus Operator, from its Go module (see crds/go.mod)."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster import build

MODULE = "github.com/prometheus-operator/prometheus-operator"
FOLDER = Path(__file__).parent / "crds"
KINDS = ("servicemonitors", "prometheusrules")


@functools.cache
def crds() -> tuple[dict[str, Any], ...]:
    """Return the definitions of KINDS. If the module cannot be downloaded, skip, or fail in CI."""
    done = subprocess.run(
        [build.go(), "mod", "download", "-json", MODULE],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        assert not os.environ.get("CI"), done.stdout + done.stderr
        pytest.skip(f"{MODULE} cannot be downloaded")
    folder = Path(json.loads(done.stdout)["Dir"]) / "example" / "prometheus-operator-crd"
    files = (folder / f"monitoring.coreos.com_{kind}.yaml" for kind in KINDS)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return tuple(yaml.load(file.read_text(), Loader=loader) for file in files)  # noqa: S506 - a safe one
