"""The engine with the rendered environment of its pod. Only folders and addresses differ."""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
from urllib.parse import urlsplit

import pytest

from tests.cluster.keys import make_keys
from tests.kustomize.test_buffered import environment
from tests.kustomize.test_kustomize import pod_spec, with_components
from tests.support.engine import PATIENCE, call, engine
from tests.support.intake import PLAYBOOK, alert
from tests.support.kubelet_files import Mount

TOKEN, OPERATOR = "5e" * 32, "6f" * 32
FIELDS = {
    "metadata.namespace": "tiercel",
    "metadata.name": "tiercel-0",
    "spec.nodeName": "worker-1",
}


@pytest.fixture
def files(tmp_path):
    """The data of the Secrets and ConfigMaps, by name."""
    keys = tmp_path / "keys"
    keys.mkdir()
    make_keys(keys)
    pair = {
        "tls.crt": keys / "server.crt",
        "tls.key": keys / "server.key",
        "ca.crt": keys / "ca.crt",
    }
    return {
        "tiercel-tokens": {"tokens": TOKEN.encode()},
        "tiercel-slack": {"slack-webhook-url": b"https://hooks.slack.com/services/T/B/x"},
        "tiercel-operators": {
            "operators": f"me view {hashlib.sha256(OPERATOR.encode()).hexdigest()}".encode()
        },
        "tiercel-tls": {name: path.read_bytes() for name, path in pair.items()},
        "tiercel-playbooks": {"a.yaml": PLAYBOOK.encode()},
    }


def mount(manifests, root, files, kind="StatefulSet"):
    """Mount every volume of the pod below a folder, as the kubelet does. Return them by name."""
    mounts = {}
    [container] = pod_spec(manifests, kind)["containers"]
    volumes = {it["name"]: it for it in pod_spec(manifests, kind)["volumes"]}
    for one in container["volumeMounts"]:
        volume, folder = volumes.get(one["name"], {}), root / one["mountPath"].lstrip("/")
        if not volume.keys() & {"secret", "projected"}:
            folder.mkdir(parents=True)
            continue
        content = {}
        for source in volume.get("projected", {}).get("sources", [volume]):
            [(_, reference)] = [it for it in source.items() if it[0] != "name"]
            name = reference.get("secretName") or reference["name"]
            if name in files or not reference.get("optional"):
                content |= files[name]
        mounts[one["name"]] = Mount(folder, content)
    return mounts


def variables(manifests, root, kind="StatefulSet"):
    """Return the environment of the container, with paths below the folder and free loopback ports."""
    [container] = pod_spec(manifests, kind)["containers"]
    found = {
        name: f"{root}{value}" if value.startswith("/") else value
        for name, value in environment(manifests, kind, "tiercel").items()
    }
    for one in container["env"]:
        if "fieldRef" in one.get("valueFrom", {}):
            found[one["name"]] = FIELDS.get(one["valueFrom"]["fieldRef"]["fieldPath"], "tiercel")
    for name in ("TIERCEL_LISTEN", "TIERCEL_ADMIN_LISTEN"):
        assert found[name].startswith("0.0.0.0:")
        found[name] = "0.0.0.0:0"
    return found


def test_the_engine_runs_with_the_environment_and_mounts_of_its_pod(tmp_path, files):
    root = tmp_path / "root"
    manifests = with_components(tmp_path / "all", "monitoring", "slack", "mtls", "recording")
    mount(manifests, root, files)
    env = variables(manifests, root)
    assert env["TIERCEL_DRY_RUN"] == "true"
    with engine(tmp_path, root, env=env) as running:
        context = ssl.create_default_context(cafile=str(tmp_path / "keys/ca.crt"))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        port = urlsplit(running.events).port

        def post(given):
            connection = http.client.HTTPSConnection(
                "127.0.0.1", port, context=context, timeout=PATIENCE
            )
            try:
                connection.request("POST", "/events", json.dumps(alert()), given)
                return connection.getresponse().status
            finally:
                connection.close()

        with pytest.raises((ssl.SSLError, ConnectionError)):
            post(headers)  # without a client certificate
        context.load_cert_chain(tmp_path / "keys/server.crt", tmp_path / "keys/server.key")
        assert post({}) == 401
        assert post(headers) == 202
        running.wait_for_audit(lambda line: line.get("playbook") == "mark-shell")
        admin = f"http://127.0.0.1:{urlsplit(running.admin).port}"
        [container] = pod_spec(manifests)["containers"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert call(admin, "GET", container[probe]["httpGet"]["path"])[0] == 200
        assert call(admin, "GET", "/metrics")[0] == 403
        operator = {"Authorization": f"Bearer {OPERATOR}"}
        assert call(admin, "GET", "/metrics", headers=operator)[0] == 200
        running.terminate()
    recorded = root / "var/lib/tiercel-recording/events.ndjson"
    assert [json.loads(it)["rule"] for it in recorded.read_text().splitlines()] == [alert()["rule"]]
