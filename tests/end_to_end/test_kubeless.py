"""The function and the playbook of docs/migrate-from-kubeless.md, both on a real API server."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.cluster.network_policies import Peer, is_allowed
from kubernetes import client, config
from tests.end_to_end.test_undo import alert
from tests.support.engine import ROOT, engine

PAGE = (ROOT / "docs/migrate-from-kubeless.md").read_text()
FUNCTION = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
PLAYBOOK = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]
RULE = "Connection to vistatech.it"
RESOLVER = Peer(
    pod={"metadata": {"name": "dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}}
)


@pytest.fixture
def isolate(engine_kubeconfig, monkeypatch):
    """The function of the page. Its credentials come from a kubeconfig, not from a pod."""
    load = config.load_kube_config
    monkeypatch.setattr(config, "load_incluster_config", lambda: load(str(engine_kubeconfig)))
    found = {}
    exec(FUNCTION, found)  # noqa: S102 - the text is in this repository
    return lambda given: found["isolate"]({"data": given}, None)


@pytest.fixture
def cluster(admin, namespace):
    """Pods of two applications; returns which of them reach the forbidden address and a resolver."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    for name, app in (("web-0", "nginx"), ("web-1", "nginx"), ("api-0", "api")):
        spec = {"containers": [{"name": "c", "image": "nginx"}]}
        admin.create(path, {"metadata": {"name": name, "labels": {"app": app}}, "spec": spec})

    def reach():
        policies = admin.list(f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies")
        targets = {"out": (Peer(ip="213.215.222.58"), 443), "dns": (RESOLVER, 53)}
        return {
            pod["metadata"]["name"]: {
                name
                for name, (peer, port) in targets.items()
                if is_allowed(policies, pod, "Egress", peer, port, "UDP" if port == 53 else "TCP")
            }
            for pod in admin.list(path)
        }

    return reach


def test_the_function_cuts_all_pods_of_one_label_and_their_dns_and_fails_at_the_second_event(
    namespace, cluster, isolate
):
    assert isolate(alert(namespace, "web-0", RULE)) == "isolated"
    assert cluster() == {"web-0": set(), "web-1": set(), "api-0": {"out", "dns"}}
    with pytest.raises(client.ApiException) as raised:
        isolate(alert(namespace, "api-0", RULE))
    assert (raised.value.status, "AlreadyExists" in raised.value.body) == (409, True)
    assert cluster()["api-0"] == {"out", "dns"}


def test_the_playbook_cuts_the_pod_of_each_event_keeps_dns_and_can_be_undone(
    tmp_path, namespace, cluster, engine_kubeconfig
):
    files = {"a.yaml": PLAYBOOK}
    with engine(tmp_path, files, "--kubeconfig", str(engine_kubeconfig)) as running:

        def post(pod):
            event = {**alert(namespace, pod, RULE), "source": "syscall"}
            (run,) = running.post(event)[2]["runs"]
            running.wait_for_audit(lambda line: line.get("run") == run)
            return event, run

        event, first = post("web-0")
        assert cluster() == {"web-0": {"dns"}, "web-1": {"out", "dns"}, "api-0": {"out", "dns"}}
        assert running.post(event)[2]["duplicates"] == 1
        post("api-0")
        assert cluster() == {"web-0": {"dns"}, "web-1": {"out", "dns"}, "api-0": {"dns"}}

        undo = CliRunner().invoke(cli, ["undo", first, "--server", running.admin])
        assert undo.exit_code == 0
        running.wait_for_audit(lambda line: line.get("state") == "undone")
        assert cluster()["web-0"] == {"out", "dns"}
