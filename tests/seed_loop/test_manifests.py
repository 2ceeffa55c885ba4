"""`kubectl apply -k examples/seed-loop`: what it renders, and what a real API server makes of it."""

from pathlib import Path

import pytest
import yaml
from tests.kustomize.rendering import apply, find, path_of, render, validate
from tests.seed_loop.prometheus_operator import crds
from tests.support.prometheus import promtool

ROOT = Path(__file__).parents[2]
SEED_LOOP = ROOT / "examples" / "seed-loop"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OTHERS = ("falco", "monitoring")
"""Namespaces of other charts, which exist before."""
STAY = {"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"}
"""The identity of the engine, which other tests use."""


@pytest.fixture(scope="module")
def manifests():
    return render(SEED_LOOP)


@pytest.fixture
def cluster(admin):
    """An API server with the namespaces and definitions of the other charts."""
    paths = [f"{DEFINITIONS}/{crd['metadata']['name']}" for crd in crds()]
    for path, crd in zip(paths, crds(), strict=True):
        admin.apply(path, crd)
    for path in paths:
        admin.wait_for(path, established)
    for name in OTHERS:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        admin.apply(f"/api/v1/namespaces/{name}", namespace)
    yield admin
    for path in paths:
        admin.delete(path)


@pytest.fixture
def of_this_test(manifests, namespace):
    """The manifests with a namespace of this test instead of `demo`, which other tests use."""
    text = yaml.safe_dump_all(manifests).replace("namespace: demo\n", f"namespace: {namespace}\n")
    found = list(yaml.safe_load_all(text))
    return [it for it in found if it["metadata"]["name"] != "demo"]


def established(crd):
    conditions = (crd or {}).get("status", {}).get("conditions") or ()
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def test_the_schemas_accept_everything(admin, manifests):
    validate(manifests, admin, crds())


def test_a_real_api_server_accepts_everything(cluster, of_this_test):
    try:
        apply(of_this_test, cluster)
        for manifest in of_this_test:
            assert cluster.find(path_of(manifest, cluster)) is not None
        for kind in ("PrometheusRule", "ServiceMonitor"):
            manifest = find(of_this_test, kind)
            stored = cluster.get(path_of(manifest, cluster))
            assert stored["spec"] == manifest["spec"]  # nothing was pruned
    finally:
        for manifest in reversed(of_this_test):
            path = path_of(manifest, cluster)
            if manifest["kind"] not in STAY and cluster.find(path) is not None:
                cluster.delete(path)


def test_the_engine_acts_and_the_secrets_have_the_names_of_the_page(manifests):
    pod = find(manifests, "StatefulSet")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert variables["TIERCEL_DRY_RUN"] == "false"
    page = (ROOT / "docs" / "seed-loop.md").read_text()
    named = {
        source["secret"]["name"]
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if "secret" in source and not source["secret"].get("optional")
    } | {v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
    assert {"tiercel-tokens", "tiercel-slack", "tiercel-operators"} <= named
    for name in named:
        assert f"secret generic {name} " in page, name
    monitor = find(manifests, "ServiceMonitor")
    [endpoint] = monitor["spec"]["endpoints"]
    assert f"generic {endpoint['authorization']['credentials']['name']} " in page


def test_the_monitor_finds_the_port_of_the_metrics(manifests):
    monitor = find(manifests, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = [it for it in manifests if it["kind"] == "Service"]
    found = [
        port
        for service in services
        if service["metadata"]["namespace"] == "tiercel"
        and wanted <= service["metadata"].get("labels", {}).items()
        for port in service["spec"]["ports"]
        if port["name"] == monitor["endpoints"][0]["port"]
    ]
    assert [port["port"] for port in found] == [8081]
    [job] = {
        service["metadata"]["labels"][monitor["jobLabel"]]
        for service in services
        if service["metadata"]["name"] == "tiercel-metrics"
    }
    assert job == "tiercel"


def test_the_rules_of_falco_are_the_file_of_the_repository(manifests):
    config = find(manifests, "ConfigMap", "tiercel-falco-rules")
    assert config["metadata"]["namespace"] == "falco"
    [(name, text)] = config["data"].items()
    assert text == (ROOT / "rules" / name).read_text()
    values = yaml.safe_load((SEED_LOOP / "falco-values.yaml").read_text())
    [volume] = values["mounts"]["volumes"]
    assert volume["configMap"]["name"] == config["metadata"]["name"]


def test_the_addresses_of_the_values_are_those_of_the_services(manifests):
    values = yaml.safe_load((SEED_LOOP / "falco-values.yaml").read_text())
    service = find(manifests, "Service")
    [port] = service["spec"]["ports"]
    address = f"http://tiercel.{service['metadata']['namespace']}:{port['port']}/events"
    assert values["falcosidekick"]["config"]["webhook"]["address"] == address
    alloy = yaml.safe_load((SEED_LOOP / "alloy-values.yaml").read_text())["alloy"]["configMap"]
    config = find(manifests, "ConfigMap", alloy["name"])
    assert alloy["key"] in config["data"]
    loki = values["falcosidekick"]["config"]["loki"]["hostport"]
    assert f'url = "{loki}/loki/api/v1/push"' in config["data"][alloy["key"]]


def test_promtool_accepts_the_configuration(tmp_path):
    config = yaml.safe_load((SEED_LOOP / "prometheus" / "prometheus.yaml").read_text())
    # Debian builds Prometheus without the discovery of Kubernetes.
    for job in config["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None):
            job["static_configs"] = [{"targets": ["127.0.0.1:8765"]}]
    config["rule_files"] = [str(SEED_LOOP / "prometheus" / name) for name in config["rule_files"]]
    file = tmp_path / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    checked = promtool("check", "config", "--syntax-only", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr
