"""The README of the template, followed literally in an empty directory.

git, kubectl, kustomize, tiercel and the API server are real. The test takes the part of Argo CD: it reads the
Application and brings its source into force with the same Jobs. tests/argocd does it with the real Argo CD.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fixtures import require
from tests.cluster.kubelet import Kubelet
from tests.gitops import life

README = (life.TEMPLATE / "README.md").read_text()
SCRIPT = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
GROUP = "argoproj.io"
GUARD = 300.0
"""Seconds after which a command of the README that hangs is ended."""
APPLICATION = f"/apis/{GROUP}/v1alpha1/namespaces/argocd/applications/tiercel"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

pytestmark = pytest.mark.cluster


@pytest.fixture
def plane(tmp_path):
    """An empty cluster with the kinds of Argo CD, but without Argo CD."""
    require("control-plane", "kustomize")
    folder = tmp_path / "plane"
    folder.mkdir()
    with ControlPlane(folder) as made, Kubelet(made.admin):
        for kind in ("Application", "AppProject"):
            define(made.admin, kind)
        made.admin.create("/api/v1/namespaces", {"metadata": {"name": "argocd"}})
        yield made


def define(admin, kind):
    """Define a kind of Argo CD that accepts every content."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1", "served": True, "storage": True}
    version["schema"] = {"openAPIV3Schema": schema}
    names = {"kind": kind, "plural": plural, "singular": kind.lower()}
    spec = {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]}
    body = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    admin.create(DEFINITIONS, {**body, "metadata": {"name": f"{plural}.{GROUP}"}, "spec": spec})
    admin.wait_for(f"/apis/{GROUP}/v1alpha1/{plural}", lambda it: it is not None)


def test_the_readme_leads_from_git_init_to_playbooks_in_force(tmp_path, plane):
    admin = plane.admin
    for name in ("mirror", "empty", "cluster"):
        (tmp_path / name).mkdir()
    mirror = life.Mirror(tmp_path / "mirror")
    [address] = re.findall(r"^REPOSITORY=(\S+)$", SCRIPT, re.MULTILINE)
    origin = tmp_path / "origin.git"
    mirror.git(tmp_path, "init", "--quiet", "--bare", str(origin))
    mirror.redirect(address, origin)

    with life.Installation(tmp_path / "cluster", plane) as installation:
        environment = {
            **mirror.environment,
            "KUBECONFIG": str(installation.kubeconfig),
            "HOME": str(tmp_path),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(life.ROOT),
        }
        with (tmp_path / "output").open("w+") as output:
            reader = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-x", "-c", SCRIPT],
                cwd=tmp_path / "empty", env=environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                application = admin.wait_for(
                    APPLICATION, lambda it: it is not None or reader.poll() is not None, GUARD
                )
                assert application, (tmp_path / "output").read_text()
                source = application["spec"]["source"]
                assert source["repoURL"] == address
                assert source["kustomize"]["commonLabels"] == {
                    "tiercel.dev/revision": "${ARGOCD_APP_REVISION}"
                }
                checkout = life.Repository.clone(address, tmp_path / "checkout", mirror)
                overlay = source["path"].removeprefix("overlays/")
                installation.sync(checkout.render(overlay))
                phase = {"operationState": {"phase": "Succeeded"}, "sync": {"status": "Synced"}}
                admin.patch(APPLICATION, {"status": phase})
                assert reader.wait(GUARD) == 0, (tmp_path / "output").read_text()
            finally:
                reader.kill()
                reader.wait()
        assert "replay" in SCRIPT
        before = installation.status()
        assert (before["mode"], before["playbooks"]["error"]) == ("dry-run", None)
        workflow = (tmp_path / "empty/reactions/.github/workflows/playbooks.yml").read_text()
        assert re.search(r"uses: tiercel/tiercel@[0-9a-f]{40} ", workflow)

        # The pull request is merged.
        checkout.pull("longer-quarantine")
        merged = checkout.render(overlay)
        installation.apply(merged)
        installation.mount()
        installation.wait_until_in_force(merged)
        assert life.mounted(admin)["values.yaml"].endswith(b"quarantineFor: 30m\n")
        assert installation.status()["playbooks"]["digest"] != before["playbooks"]["digest"]
