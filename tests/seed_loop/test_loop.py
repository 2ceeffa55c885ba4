"""The seed loop of `make loop`: what each component shows after a detection, an alert and an outage.

The tests of this file share one loop and run in their order.
"""

import json
import re
import secrets

import pytest
import yaml
from engine.cluster.network_policies import Peer, is_allowed
from tests.support.components import have

from loop import (
    FOLDER,
    LABELS,
    PROGRAMS,
    SHELL,
    Collector,
    SeedLoop,
    shipped_playbooks,
    tell,
    wait_until,
)
from stand_ins import Loki


def rules_of(name):
    groups = yaml.safe_load((FOLDER / "prometheus" / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RULES = {
    f"{rule['alert']}/{rule['labels'].get('destination', '')}": rule
    for rule in rules_of("tiercel.rules.yaml")
}
WITHOUT_THRESHOLD = "TiercelQueueOld/", "TiercelApiServerUnreachable/", "TiercelBudgetSpent/"
"""The first two need an API server that is away for minutes. The third fired earlier."""


@pytest.fixture(scope="module")
def loop(control_plane, tmp_path_factory):
    for program in PROGRAMS:
        have(program)
    folder = tmp_path_factory.mktemp("seed-loop")
    namespace = f"demo-{secrets.token_hex(3)}"
    with SeedLoop(folder, control_plane, namespace, interval="200ms") as running:
        yield running
    running.admin.delete(f"/api/v1/namespaces/{namespace}")


@pytest.fixture(scope="module")
def said(loop):
    """What `make loop` prints."""
    lines = []
    tell(loop, lines.append)
    return "\n".join(lines)


def audit(loop, pod):
    """The audit lines of a pod in Loki, by playbook and step."""
    found = [
        json.loads(entry.line)
        for labels, entry in loop.loki.query(loop.selector(pod))
        if labels["source"] == "tiercel"
    ]
    return {(line["playbook"], line["action"]): line["state"] for line in found}


def test_a_shell_labels_the_pod_and_is_told(loop, said):
    pod = loop.pods[0]
    found = loop.admin.get(f"/api/v1/namespaces/{loop.namespace}/pods/{pod}")["metadata"]
    assert found["labels"]["security.tiercel.dev/shell"] == "true"
    assert found["annotations"]["security.tiercel.dev/shell-command"] == "bash"
    # two senders, in any order
    about = [text for text in loop.slack.texts() if pod in text and "shell" in text.lower()]
    falco, tiercel = sorted(about, key=lambda text: text.startswith("Shell in"))
    assert "Notice A shell was spawned in a container" in falco
    assert tiercel.startswith(
        f"Shell in {loop.namespace}/{pod} (Terminal shell in container): bash"
    )
    assert said


def test_a_forbidden_connection_isolates_the_pod_until_the_undo(loop, said):
    kept, undone = loop.pods[0], loop.pods[1]
    [policy] = loop.policies()
    pods = {
        pod["metadata"]["name"]: pod
        for pod in loop.admin.list(f"/api/v1/namespaces/{loop.namespace}/pods")
    }
    labels = {"k8s-app": "kube-dns"}
    resolver = {"metadata": {"name": "dns", "namespace": "kube-system", "labels": labels}}
    forbidden, dns = Peer(ip="213.215.222.58"), Peer(pod=resolver)
    assert not is_allowed([policy], pods[kept], "Egress", forbidden, 443)
    assert is_allowed([policy], pods[kept], "Egress", dns, 53, "UDP")
    assert is_allowed([policy], pods[undone], "Egress", forbidden, 443)
    told = f"Isolated {loop.namespace}/{undone} (Connection to vistatech.it): done. Command: curl"
    assert any(text.startswith(told) for text in loop.slack.texts())
    assert re.search(r"NetworkPolicy tiercel-\w+ is deleted", said)


def test_one_selector_shows_the_lines_of_falco_and_of_the_audit(loop, said):
    pod = loop.pods[1]
    assert loop.selector(pod) in said
    found = loop.loki.query(loop.selector(pod))
    assert [labels["source"] for labels, _ in found][:2] == ["syscall", "tiercel"]
    shared = {
        "rule": "Connection to vistatech.it",
        "priority": "Warning",
        "k8s_ns_name": loop.namespace,
    }
    for labels, _ in found:
        assert labels.items() >= {**shared, "k8s_pod_name": pod}.items()
    assert audit(loop, pod)["isolate-forbidden-egress", "pod.isolate"] in ("done", "undone")


def test_prometheus_counts_the_runs(loop, said):
    assert said
    [sample] = loop.prometheus.wait_for(
        'tiercel_runs_total{playbook="isolate-forbidden-egress", outcome="done"} == 2'
    )
    assert sample["metric"]["job"] == "tiercel"
    delivered = loop.prometheus.query(
        'falcosecurity_falcosidekick_outputs_total{destination="webhook", status="ok"}'
    )
    assert [sample["value"][1] for sample in delivered] == ["4"]


def test_an_alert_fires_through_alertmanager(loop, said):
    alert = loop.receiver.firing()["TiercelBudgetSpent"]
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["runbook_url"].endswith("#tiercelbudgetspent")
    assert "TiercelBudgetSpent (critical)" in said
    names = {alert["labels"]["alertname"] for alert in loop.alertmanager.alerts()}
    assert "TiercelBudgetSpent" in names


def test_the_page_shows_what_the_command_prints(loop, said):
    page = (FOLDER.parents[1] / "docs" / "seed-loop.md").read_text()
    [shown] = re.findall(r"checked by \S+ -->\n\n```text\n(.*?)\n```", page, re.DOTALL)
    assert comparable(shown, "demo") == comparable(said.strip(), loop.namespace)


def comparable(text, namespace):
    """Return the first columns of each line, with the names and times that differ in each run replaced."""
    for expression, word in (
        (rf"\b{namespace}\b", "demo"),
        (r"nginx-\w{5,10}-\w{5}", "nginx-POD"),
        (r"\d\d:\d\d:\d\d\.\d{9}", "TIME"),
        (r"\b[0-9a-f]{10,16}\b", "ID"),
    ):
        text = re.sub(expression, word, text)
    return [line[:60].rstrip() for line in text.splitlines()]


def test_the_engine_acts_while_loki_is_away(loop, said):
    assert said
    loop.loki.fault = 503
    loop.detect(SHELL[0], loop.pods[1])
    wait_until(lambda: len(list(loop.slack.texts())) and _told(loop, loop.pods[1]), "a message")
    assert [one.status for one in loop.falcosidekick.deliveries][-2] == 503
    assert (SHELL[1], "slack.post") not in audit(loop, loop.pods[1])
    loop.loki.fault = None
    loop.wait_for_run(SHELL[1], loop.pods[1])
    assert audit(loop, loop.pods[1])[SHELL[1], "slack.post"] == "done"


def _told(loop, pod):
    return any(text.startswith(f"Shell in {loop.namespace}/{pod}") for text in loop.slack.texts())


def test_each_alert_expression_returns_series(loop, said):
    assert said
    found = set()

    def check(*names):
        for name in names:
            expression = RULES[name]["expr"]
            if name in WITHOUT_THRESHOLD:
                expression = re.sub(r" (==|>) \d+", "", expression)
            assert loop.prometheus.wait_for(expression), name
            found.add(name)

    loop.slack.fault = 400
    loop.detect(SHELL[0], loop.pods[2])
    loop.wait_for_run(SHELL[1], loop.pods[2])
    loop.slack.fault = None
    loop.engine.mount.write({"broken.yaml": b"kind: Playbok\n"})
    check("TiercelActionFailing/", "TiercelReloadFailed/", "TiercelStepsHeld/", *WITHOUT_THRESHOLD)
    loop.falco.drops = 1
    loop.prometheus.wait_for("falcosecurity_scap_n_drops_total == 1")
    loop.falco.drops = 9
    check("TiercelEventsLostUpstream/falco")
    for rule in rules_of("replicas.rules.yaml"):  # one engine runs, without CloudNativePG
        fires = rule["alert"] == "TiercelReplicaMissing"
        assert bool(loop.prometheus.query(rule["expr"])) == fires
    loop.engine.journal.rename(loop.engine.journal.with_suffix(".away"))
    check("TiercelJournalNotWritable/")
    loop.engine.stop()
    loop.detect(SHELL[0], loop.pods[2])
    check("TiercelDown/", "TiercelEventsLostUpstream/")
    assert found == RULES.keys()
    lost = loop.receiver.wait_for(lambda: loop.receiver.firing().get("TiercelEventsLostUpstream"))
    assert lost["annotations"]["description"].startswith("Falcosidekick could not deliver 1 events")


def test_the_engine_acts_while_prometheus_and_alertmanager_are_away(loop, said):
    assert said
    loop.engine.stop()
    loop.engine.mount.write(shipped_playbooks())
    loop.engine.journal.with_suffix(".away").rename(loop.engine.journal)
    loop.prometheus.stop()
    loop.alertmanager.stop()
    loop.engine.start()
    path = f"/api/v1/namespaces/{loop.namespace}/pods"
    loop.admin.delete(f"{path}/{loop.pods[2]}")
    loop.admin.wait_for(f"{path}/{loop.pods[2]}", lambda pod: pod is None)
    [fresh] = {pod["metadata"]["name"] for pod in loop.running_pods()} - set(loop.pods)
    loop.detect(SHELL[0], fresh)
    assert loop.wait_for_run(SHELL[1], fresh)["state"] == "done"
    assert audit(loop, fresh)[SHELL[1], "slack.post"] == "done"


def test_the_collector_has_the_labels_of_the_alloy_configuration():
    text = (FOLDER / "alloy" / "config.alloy").read_text()
    [block] = re.findall(r"stage\.json \{\s*expressions = \{(.*?)\}", text, re.DOTALL)
    found = dict(re.findall(r'(\w+)\s*= "(\w+)"', block))
    assert found == {**LABELS, "time": "time"}
    [block] = re.findall(r"stage\.labels \{\s*values = \{(.*?)\}", text, re.DOTALL)
    assert re.findall(r"(\w+)\s*= \"\"", block) == list(LABELS)
    [kept] = re.findall(r"stage\.label_keep \{\s*values = (\[.*?\])", text)
    assert json.loads(kept) == ["source", *LABELS]


def test_the_collector_keeps_lines_until_loki_listens():
    line = b'{"time":"2026-03-01T10:00:00.250Z","attempt":1,"rule":"Terminal shell","pod":null}\n'
    with Loki() as loki:
        port = int(loki.url.rpartition(":")[2])
    with Collector(f"http://127.0.0.1:{port}/loki/api/v1/push") as collector:
        collector.collect(b"not JSON\n")
        collector.collect(b'{"event": "playbooks_loaded"}\n')
        collector.collect(line)
        with Loki(port) as loki:
            [(labels, entry)] = loki.wait_for(lambda: loki.query('{source="tiercel"}'))
    assert labels == {"source": "tiercel", "rule": "Terminal shell"}
    assert (entry.time, entry.line) == (1772359200250000000, line.decode().rstrip("\n"))
