"""Memory while a large output streams from a container through the API server to an artifact."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.cluster.fixtures import require
from tests.support.object_stores import BUCKET, s3_emulator, s3_variables

CHUNK = 1 << 20
PROGRAM = """
import json, resource, sys, time
from engine.artifacts.live_store import LiveArtifactStore
from engine.artifacts.url import parse_artifact_url
from engine.cluster.client import connect
from engine.model.calls import Call

kubeconfig, namespace, url, *sizes = sys.argv[1:]
cluster, store, found = connect(kubeconfig, None).with_timeout(900), LiveArtifactStore(None, timeout=900), []
for number, size in enumerate(sizes):
    command = ["head", "-c", size, "/dev/zero"]
    body = {"command": command, "container": "web"}
    output = cluster.execute(Call("create", "v1", "pods/exec", namespace, "web-0", body))
    began = time.monotonic()
    target = parse_artifact_url(f"{url}/{number}")
    artifact = store.write(target, output, reserve=lambda: None, media_type="text/plain")
    seconds, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found.append({"size": artifact.size, "seconds": seconds, "peak": peak << 10, "code": output.exit_code})
print(json.dumps(found))
"""


@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_memory_stays_flat_while_an_output_streams_to_an_artifact(
    scheme, admin, namespace, control_plane, tmp_path, size
):
    require("kubelet")
    path = f"/api/v1/namespaces/{namespace}/pods"
    spec = {"containers": [{"name": "web", "image": "nginx"}]}
    admin.create(path, {"metadata": {"name": "web-0"}, "spec": spec})
    admin.wait_for(f"{path}/web-0", lambda it: it["status"].get("phase") == "Running")
    large = size.of(24_000_000, 1_000_000_000)
    kubeconfig = control_plane.kubeconfig(control_plane.admin_token, tmp_path / "kubeconfig")
    with s3_emulator() as address:
        variables = s3_variables(address) if scheme == "s3" else {}
        url = f"s3://{BUCKET}/soak" if scheme == "s3" else f"file://{tmp_path}/soak"
        sizes = [str(large // 3), str(large)]  # the first one fills the buffers
        command = [sys.executable, "-c", PROGRAM, str(kubeconfig), namespace, url, *sizes]
        run = subprocess.run(command, env=variables, check=True, capture_output=True)
    small, whole = json.loads(run.stdout)
    assert (whole["size"], whole["code"]) == (large, 0)
    growth = whole["peak"] - small["peak"]
    assert growth < 16 * CHUNK, f"{growth >> 20} MiB for {large - large // 3:,} more bytes"
    size.tell(
        bytes=large,
        peak_rss_mib=whole["peak"] >> 20,
        growth_mib=round(growth / CHUNK, 1),
        mib_per_second=round(large / CHUNK / whole["seconds"], 1),
    )
