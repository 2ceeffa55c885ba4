"""The README of the template, followed literally with the real Argo CD, from ``git init`` to Synced."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from tests.argocd.argocd import ArgoCD
from tests.argocd.node import Node
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fixtures import require
from tests.cluster.kubelet import Kubelet
from tests.gitops import life
from tests.gitops.test_readme import GUARD, SCRIPT

pytestmark = pytest.mark.skipif(
    os.environ.get("TIERCEL_SOAK") != "1", reason="tests/gitops follows the README without Argo CD"
)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """The mirror of this project, also for the git of Argo CD."""
    require("control-plane", "kustomize", "argocd")
    for name in ("mirror", "plane", "argocd", "node", "empty"):
        (tmp_path / name).mkdir()
    made = life.Mirror(tmp_path / "mirror")
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM"):
        monkeypatch.setenv(name, made.environment[name])
    return made


def test_the_readme_leads_to_synced_and_in_force_with_the_real_argocd(tmp_path, mirror, size):
    settings = yaml.safe_load((life.ROOT / "kustomize/argocd/argocd-cm.yaml").read_text())["data"]
    with (
        ControlPlane(tmp_path / "plane") as plane,
        Kubelet(plane.admin),
        ArgoCD(tmp_path / "argocd", plane, settings) as argocd,
        Node(tmp_path / "node", plane) as node,
    ):
        # git daemon does not accept a push. The team's Git server would.
        served = tmp_path / "argocd/git/served/reactions.git"
        key = f"url.{served.as_uri()}.pushInsteadOf"
        mirror.git(tmp_path, "config", "--global", key, argocd.git.url)
        script = re.sub(
            r"^REPOSITORY=.*", f"REPOSITORY={argocd.git.url}", SCRIPT, flags=re.MULTILINE
        )
        environment = {
            **mirror.environment,
            "KUBECONFIG": str(argocd.kubeconfig),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(life.ROOT),
        }
        output = tmp_path / "output"
        with output.open("w") as written:
            reader = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-x", "-c", script],
                cwd=tmp_path / "empty", env=environment, stdout=written, stderr=subprocess.STDOUT,
            )  # fmt: skip
            began = time.monotonic()
            while reader.poll() is None:
                assert time.monotonic() < began + GUARD, output.read_text() + argocd.logs()
                node.work()
                threading.Event().wait(0.1)
        assert reader.returncode == 0, output.read_text() + argocd.logs()
        size.tell(seconds=round(time.monotonic() - began))
        said = output.read_text()
        assert re.search(r"^tiercel +Synced ", said, re.MULTILINE), said
        last = node.run_of("tiercel-in-force")
        assert last.code == 0
        clone = tmp_path / "empty/reactions"
        revision = mirror.git(clone, "rev-parse", "main").strip()
        assert node.engine
        assert revision in last.output
        loaded = json.dumps(node.engine.log)
        assert revision in loaded
