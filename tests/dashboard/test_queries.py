"""The queries of the dashboard and of docs/metrics.md, in a real Prometheus that scrapes real engines.

An engine in a dry run gets events from the stand-in for Falcosidekick. The API server of a second engine does
not answer. Loki is a stand-in, and the audit lines get their labels as from the log collector.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
from docs.metrics_reference import QUERIES, page
from engine.telemetry.metrics import METRICS
from tests.support.engine import call, engine
from tests.support.grafana import ALL, parse_logql, queries, substitute
from tests.support.intake import FALCO, PLAYBOOK, alert
from tests.support.prometheus import Prometheus, static_config

from falcosidekick import Falco, Falcosidekick
from loop import stream
from stand_ins import Entry, Loki

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "examples/seed-loop/dashboard/tiercel.json").read_text())
NOWHERE = "http://127.0.0.1:1"
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "c",
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    "clusters": [{"name": "c", "cluster": {"server": NOWHERE}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
}
FILES = {
    "a.yaml": PLAYBOOK.replace("mark-shell}", "mark-shell, labels: {team: sec}}"),
    "b.yaml": PLAYBOOK.replace("mark-shell", "once").replace(
        "  match:", "  throttle: {once: 10m}\n  match:"
    ),
}
SHELLS = 3
SECOND = (
    "API server", "Attempts that did not succeed", "Playbooks in force", "Rights on the API server",
)  # fmt: skip
"""Only the second engine has these series. The last one is the annotation for a reload."""
BUILT_IN = {"__interval": "1m", "__rate_interval": "1m", "__range": "1h"}


class Servers(NamedTuple):
    prometheus: Prometheus
    loki: Loki
    runs: list[str]


def over(running, runs):
    """Wait until the runs are over. Returns their audit lines."""
    return [running.wait_for_audit(lambda line, run=run: line.get("run") == run) for run in runs]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """The servers after a few events, when Prometheus has scraped them."""
    folder = tmp_path_factory.mktemp("servers")
    (folder / "events.log").touch()
    (folder / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    for name in ("first", "second", "prometheus"):
        (folder / name).mkdir()
    follow = ("--dry-run", "--follow", str(folder / "events.log"))
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(engine(folder / "first", FILES, *follow))
        second = stack.enter_context(
            engine(folder / "second", FILES, "--kubeconfig", str(folder / "kubeconfig"))
        )
        loki = stack.enter_context(Loki())
        sidekick = stack.enter_context(
            Falcosidekick(f"{first.events}/events", f"{loki.url}/loki/api/v1/push", NOWHERE, {})
        )
        falco = stack.enter_context(Falco(sidekick.url))
        jobs = {
            "tiercel": [
                static_config(first.admin, namespace="tiercel", pod="tiercel-0"),
                static_config(second.admin, namespace="second", pod="tiercel-0"),
            ],
            "falcosidekick": [static_config(sidekick.url)],
            "falco": [static_config(falco.url)],
        }
        scrapes = [{"job_name": job, "static_configs": targets} for job, targets in jobs.items()]
        prometheus = stack.enter_context(
            Prometheus(folder / "prometheus", {"scrape_configs": scrapes})
        )
        for number in range(SHELLS):
            falco.send(alert(number))
        falco.send(alert(SHELLS, rule="Another rule"))
        runs = [run["run"] for run in first.get("/runs")[2]["runs"]]
        commands = [command(first, "pause"), command(first, "resume")]
        for line in (*over(first, runs), *commands):
            read = stream(line)
            loki.push([(read["labels"], [Entry(int(read["time"]), json.dumps(line))])])
        second.post(FALCO)
        second.wait_for_audit(lambda line: line.get("state") == "waiting")
        prometheus.wait_for_scrape()
        (folder / "second/playbooks/b.yaml").unlink()
        second.wait_for_log(
            lambda line: line["event"] == "playbooks_loaded" and line["playbooks"] == 1
        )
        for _ in range(2):  # rate needs two samples
            prometheus.wait_for_scrape()
        yield Servers(prometheus, loki, runs)


def command(running, name):
    """Send an operator command. Returns its audit line."""
    status, _, answer = call(
        running.admin, "POST", f"/{name}", b"{}", {"Content-Type": "application/json"}
    )
    assert status == 200, answer
    return running.wait_for_audit(lambda line: line.get("decision") == name)


def value(sample):
    return float(sample["value"][1])


@pytest.mark.parametrize("installation", [ALL, "tiercel"])
def test_every_query_of_the_dashboard_returns_numbers(servers, installation):
    chosen = {"installation": [installation], "playbook": [ALL]}
    for title, query in queries(BOARD, "prometheus"):
        if installation != ALL and title in SECOND:
            continue
        samples = servers.prometheus.query(substitute(query, BOARD, chosen, **BUILT_IN))
        assert samples, title
        assert not [one for one in samples if math.isnan(value(one))], title


def test_the_panels_show_what_happened(servers):
    def shown(title, label="", **chosen):
        query = next(query for name, query in queries(BOARD, "prometheus") if name == title)
        chosen = {"installation": ["tiercel"], "playbook": [ALL], **chosen}
        samples = servers.prometheus.query(substitute(query, BOARD, chosen, **BUILT_IN))
        return {one["metric"].get(label, ""): value(one) for one in samples}

    assert shown("Engine") == {"": 1}
    assert shown("Engine", installation=[ALL]) == {"": 1}
    assert shown("Mode") == {"": 1}
    assert shown("Mode", installation=["second"]) == {"": 0}
    assert shown("API server", installation=["second"]) == {"": 0}
    assert shown("Events by result", "result") == {"run": SHELLS, "unmatched": 1}
    assert shown("Events that start a run") == {"": SHELLS / (SHELLS + 1)}
    assert shown("Suppressed runs", "playbook") == {"once": SHELLS - 1}
    assert shown("Runs by playbook", "playbook") == {"mark-shell": SHELLS, "once": 1}
    assert shown("Runs by playbook", "playbook", playbook=["once"]) == {"once": 1}
    assert shown("Attempts by action", "action") == {"pod.label": SHELLS + 1}
    assert shown("Events that Falcosidekick did not deliver", "destination") == {
        "slack": SHELLS + 1
    }
    assert shown("Sources", "kind") == {"follow": 1}
    assert shown("Operator commands", "decision") == {"pause": 1, "resume": 1}
    assert shown("Failed runs") == {"": 0}


def test_the_first_event_after_the_interval_counts_once(servers):
    """The form that the panels use, against increase, which does not see the first event."""
    counter = 'tiercel_runs_total{namespace="tiercel", playbook="once"}'
    prometheus = servers.prometheus
    assert [
        value(one) for one in prometheus.query(f"{counter} - {counter} offset 1m >= 0 or {counter}")
    ] == [1]
    assert sum(value(one) for one in prometheus.query(f"increase({counter}[1m])")) == 0


def test_the_queries_of_the_variables_return_values(servers):
    found = {}
    for variable in BOARD["templating"]["list"]:
        if variable["type"] != "query":
            continue
        query = variable["query"]
        if variable["datasource"]["type"] == "prometheus":
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query["query"]).groups()
            match = substitute(selector, BOARD, {"installation": ["tiercel"]})
            answer = servers.prometheus.get(f"/api/v1/label/{label}/values", **{"match[]": match})
            found[variable["name"]] = answer["data"]
        else:
            # The stand-in returns the values of all streams.
            answer = call(
                servers.loki.url, "GET", f"/loki/api/v1/label/{quote(query['label'])}/values"
            )
            found[variable["name"]] = answer[2]["data"]
    assert found == {
        "installation": ["second", "tiercel"],
        "playbook": ["mark-shell", "once"],
        "namespace": ["demo"],
        "pod": ["nginx"],
    }


def selected(servers, read, **chosen):
    """The labels and the line of each entry that the selector and the line filters of a query select."""
    selection = substitute(" ".join(read["selectors"] + read["lineFilters"]), BOARD, chosen)
    return [(labels, entry.line) for labels, entry in servers.loki.query(selection)]


def test_the_logs_show_the_lines_of_falco_and_of_tiercel_for_one_pod(servers):
    falco, tiercel = parse_logql(
        [query for title, query in queries(BOARD, "loki") if title.startswith("Falco")]
    )
    pod = {"namespace": ["demo"], "pod": ["nginx"]}
    lines = selected(servers, falco, **pod)
    assert [line for _, line in lines] == [FALCO["output"]] * (SHELLS + 1)
    audit = [json.loads(line) for _, line in selected(servers, tiercel, **pod)]
    assert sorted(line["run"] for line in audit) == sorted(servers.runs)
    assert selected(servers, falco, namespace=["demo"], pod=["other"]) == []
    assert selected(servers, tiercel, namespace=["other"], pod=[ALL]) == []
    assert len(selected(servers, falco, namespace=[ALL], pod=[ALL])) == SHELLS + 1


def printed(query, line):
    """The text that ``line_format`` makes of an audit line. Its template has fields only."""
    (template,) = re.findall(r'line_format "(.*)"', query)
    return re.sub(r"\{\{\.(\w+)\}\}", lambda field: str(line[field[1]] or ""), template)


def test_the_logs_print_audit_lines_as_sentences(servers):
    (step, command) = (query for _, query in queries(BOARD, "loki") if "line_format" in query)
    lines = [json.loads(entry.line) for _, entry in servers.loki.query('{source="tiercel"}')]
    attempt = next(line for line in lines if line["event"])
    said = printed(step, attempt)
    begin = f"tiercel {attempt['playbook']}/pod.label: pod.label planned "
    assert said == f"{begin}{attempt['message']} (run {attempt['run']})"
    paused = next(line for line in lines if line.get("decision") == "pause")
    assert printed(command, paused).strip() == f"{paused['by']}: pause *"


def test_the_typical_query_of_each_metric_returns_series(servers):
    assert list(QUERIES) == list(METRICS)
    empty = {name for name, query in QUERIES.items() if not servers.prometheus.query(query)}
    # No sender of the test gets an error, and its playbooks have the mode enforce.
    assert empty == {"bodies_total", "playbook_info"}
    for name in empty:
        query = QUERIES[name].replace("!=", "=").replace("4..|5..", "2..")
        assert servers.prometheus.query(query)


def test_a_query_joins_the_labels_of_a_playbook(servers):
    (query,) = re.findall(r"```promql\n(.*group_left.*)\n```", page())
    samples = servers.prometheus.query(
        query.replace("tiercel_playbook_info", 'tiercel_playbook_info{namespace="tiercel"}')
    )
    assert {one["metric"].get("label_team") for one in samples} == {"sec", None}
