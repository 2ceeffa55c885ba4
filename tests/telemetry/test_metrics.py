"""The metrics: a counter for each result, histograms and gauges, without content of events."""

from __future__ import annotations

import json
import re

import pytest
from engine.execution.budgets import BudgetLedger, Charge
from engine.execution.guardrails import GuardrailChecker
from engine.intake.deferred_records import DeferredRecords
from engine.journal.records import Decision
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.playbook import Budget, Guardrails
from engine.model.run import Outcome
from engine.telemetry.events import AttemptEnded, Received, Reloaded
from engine.telemetry.metrics import METRICS, Metrics, WorkMetrics
from prometheus_client.parser import text_string_to_metric_families
from tests.support.engine import PATIENCE, call, engine
from tests.support.intake import FALCO, NOW, ONCE, PLAYBOOK, InstantJournal, alert, intake_of, take
from tests.support.playbooks import playbook_from_snapshot

RESULTS = {
    "run": ({}, {}),
    "unmatched": ({}, {"rule": "another"}),
    "throttle": ({"  match:": "  throttle: {key: [rule], once: 10m}\n  match:"}, {}),
    "mode": ({"  match:": "  mode: disabled\n  match:"}, {}),
}


def value(text, name, **labels):
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    found = re.search(
        rf"^{re.escape(name + (f'{{{inner}}}' if inner else ''))} (\S+)$", text, re.MULTILINE
    )
    return float(found[1]) if found else None


@pytest.mark.parametrize("way", RESULTS)
def test_each_result_of_an_event_is_counted(tmp_path, way):
    change, other = RESULTS[way]
    playbook = PLAYBOOK
    for old, new in change.items():
        playbook = playbook.replace(old, new)
    with engine(tmp_path, {"a.yaml": playbook}, "--dry-run") as running:
        for number in range(2):
            running.post(alert(number, **other))
        running.post(b"{")
        text = running.get("/metrics")[2]
        assert value(text, "tiercel_events_total", result=way, source="http") >= 1
        assert value(text, "tiercel_events_total", result="error", source="http") == 1
        assert value(text, "tiercel_bodies_total", status="400") == 1
        assert value(text, "tiercel_accept_seconds_count") == 2


def test_a_run_is_measured_from_its_receipt_to_its_end_without_names_in_labels(tmp_path):
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run") as running:
        (run,) = running.post(FALCO)[2]["runs"]
        line = running.wait_for_audit(lambda line: line.get("run") == run)
        text = running.get("/metrics")[2]
        assert value(text, "tiercel_attempt_seconds_count", action="pod.label") == 1
        assert value(text, "tiercel_wait_seconds_count") == 1
        assert value(text, "tiercel_done_seconds_count", outcome="planned") == 1
        assert value(text, "tiercel_playbooks", mode="enforce") == 1
        assert value(text, "tiercel_playbooks_loaded_timestamp_seconds") > 1.7e9
        assert value(text, "tiercel_queue_runs", state="waiting") == 0
        assert value(text, "tiercel_journal_writable") == 1
        assert value(text, "tiercel_paused") == 0
        budget = {
            "actions": "",
            "effect": "disrupt",
            "limit": "20",
            "per": "10m",
            "playbooks": "",
            "scope": "cluster",
        }
        assert value(text, "tiercel_budget_left", **budget) == 20
        for said in ("nginx", "0a1b2c3d4e5f", FALCO["rule"], run):
            assert said not in text
        assert line["seconds"] >= 0
        assert len(line["event"]) == 32


def test_what_a_budget_has_left_is_that_of_its_fullest_window():
    rails = Guardrails(budgets=(Budget("disrupt", 5, 60.0, "namespace"),))
    ledger = BudgetLedger()
    checker = GuardrailChecker(rails, ledger=ledger)
    assert [left for _, left in checker.remaining_budgets()] == [5]
    for target, namespace in (("a", "one"), ("b", "one"), ("c", "two")):
        ledger.charge(rails, Charge("disrupt", "pod.delete", "p", target, namespace), 0.0)
    ledger.charge(rails, Charge("disrupt", "pod.delete", "p", "d", "one", mode="dryRun"), 0.0)
    assert [left for _, left in checker.remaining_budgets()] == [3]
    ledger.charge(rails, Charge("disrupt", "pod.delete", "p", "e", "three"), 61.0)
    assert [left for _, left in checker.remaining_budgets()] == [4]


def test_a_refused_reload_shows_until_the_folder_is_good_again():
    metrics = Metrics()
    metrics(Reloaded("d", 3))
    metrics(Reloaded("d", 3, ["broken"]))
    text = metrics.text().decode()
    assert value(text, "tiercel_playbooks_current") == 0
    assert value(text, "tiercel_reloads_total", result="refused") == 1


def test_each_bucket_counts_values_up_to_its_bound():
    metrics = Metrics()
    for seconds in (0.001, 0.0015, 0.0025, 7.0, None):
        metrics(Received(202, {"run": 1, "duplicate": 2}, seconds))
    text = metrics.text().decode()
    bounds = ("0.0005", "0.001", "0.002", "0.003", "1.0", "+Inf")
    held = [value(text, "tiercel_accept_seconds_bucket", le=bound) for bound in bounds]
    assert held == [0, 1, 2, 3, 3, 4]
    assert value(text, "tiercel_accept_seconds_sum") == pytest.approx(7.005)
    assert value(text, "tiercel_events_total", result="duplicate", source="http") == 10
    assert value(text, "tiercel_bodies_total", status="202") == 5


BUDGETS = """
apiVersion: tiercel.dev/v1
kind: Guardrails
metadata: {name: default}
spec:
  budgets:
    - {effect: disrupt, limit: 5, per: 10m, scope: cluster}
    - {effect: disrupt, limit: 7, per: 10m, scope: cluster}
    - {effect: disrupt, limit: 7, per: 10m, scope: cluster, actions: [pod.delete, "node.*"]}
    - {effect: disrupt, limit: 7, per: 10m, scope: cluster, onExceeded: drop}
"""
NAMED = PLAYBOOK.replace(
    "mark-shell}", "mark-shell, labels: {team: sec, example.com/on-call: a b}}"
)
SECOND = NAMED.replace("mark-shell", "second").replace("  match:", "  mode: dryRun\n  match:")


def families(text):
    """The families of an exposition, parsed by Prometheus's client library."""
    return [*text_string_to_metric_families(text)]


def check(text):
    """Check everything that Prometheus would refuse, and names and texts. Returns the names of the families."""
    found = families(text)
    heads = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    assert len({name for name, _ in heads}) == len(heads)
    assert {name for name, _ in heads} == set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    for name, kind in heads:
        described = METRICS[name.removeprefix("tiercel_")]
        assert (kind, name.endswith("_total")) == (described.kind, kind == "counter")
        assert (kind == "histogram") <= name.endswith("_seconds")
    for family in found:
        assert family.documentation
        series = [(one.name, *sorted(one.labels.items())) for one in family.samples]
        assert len(set(series)) == len(series), family.name
        name = family.name.removeprefix("tiercel_") + ("_total" if family.type == "counter" else "")
        for sample in family.samples:
            labels = {label for label in sample.labels if not label.startswith("label_")} - {"le"}
            assert labels == set(METRICS[name].labels)
    return {name.removeprefix("tiercel_") for name, _ in heads}


def test_the_exposition_of_both_processes_is_valid_and_complete(tmp_path):
    files = {"a.yaml": NAMED, "b.yaml": SECOND, "guardrails.yaml": BUDGETS}
    with engine(tmp_path, files, "--dry-run", "--follow", str(tmp_path / "falco.log")) as running:
        (run, _) = running.post(FALCO)[2]["runs"]
        running.wait_for_audit(lambda line: line.get("run") == run)
        running.post(FALCO)
        running.post(b"", method="GET")
        call(running.admin, "POST", "/pause", b"{}", {"content-type": "application/json"})
        running.post(alert(7))
        text = running.get("/metrics")[2]
    shown = check(text)
    without_cluster = {"cluster_answers", "rights_known", "rights_missing", "rights_excess"}
    assert shown == set(METRICS) - without_cluster
    left = [s for f in families(text) if f.name == "tiercel_budget_left" for s in f.samples]
    budgets = [(sample.labels["limit"], sample.labels["actions"]) for sample in left]
    assert budgets == [("5", ""), ("7", ""), ("7", "pod.delete,node.*")]
    (info,) = [f for f in families(text) if f.name == "tiercel_playbook_info"]
    assert [sample.labels for sample in info.samples] == [
        {"playbook": name, "mode": mode, "label_team": "sec", "label_example_com_on_call": "a b"}
        for name, mode in (("mark-shell", "enforce"), ("second", "dryRun"))
    ]
    assert value(text, "tiercel_dry_run") == 1
    assert value(text, "tiercel_paused") == 1
    assert value(text, "tiercel_playbooks", mode="dryRun") == 1
    assert value(text, "tiercel_playbooks", mode="disabled") == 0
    assert value(text, "tiercel_source_connected", kind="follow") in (0, 1)
    assert 0 < value(text, "tiercel_journal_fill_ratio") < 0.1
    paused = {"playbook": "mark-shell", "reason": "paused"}
    assert value(text, "tiercel_suppressed_runs_total", **paused) == 1


def test_a_body_that_is_refused_before_it_is_read_is_counted_by_status(tmp_path):
    (tmp_path / "tokens").write_text("0123456789abcdef0123456789abcdef\n")
    flags = ("--dry-run", "--token-file", str(tmp_path / "tokens"))
    bearer = {"authorization": "Bearer 0123456789abcdef0123456789abcdef"}
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, *flags) as running:
        assert running.post(FALCO)[0] == 401
        assert running.post(b"", method="GET")[0] == 405
        assert running.post(b"[" + b"7," * 1_000 + b"7]", headers=bearer)[0] == 413
        assert running.post(b" " * (4 << 20) + b"{}", headers=bearer)[0] == 413
        assert running.post(FALCO, headers={**bearer, "x": "y" * 600_000})[0] == 431
        text = running.get("/metrics")[2]
    counts = [value(text, "tiercel_bodies_total", status=s) for s in ("401", "405", "413", "431")]
    assert counts == [1, 1, 2, 1]


def test_the_events_of_a_source_are_not_counted_as_http_requests():
    metrics = Metrics()
    metrics(Received(None, {"run": 2}, source="nats"))
    text = metrics.text().decode()
    assert value(text, "tiercel_events_total", result="run", source="nats") == 2
    assert "tiercel_bodies_total{" not in text


def test_a_suppressed_run_is_counted_even_if_another_playbook_runs():
    records = DeferredRecords()
    intake = intake_of(
        InstantJournal(), PLAYBOOK, ONCE.replace("mark-shell", "once"), deferred_records=records
    )
    for number in range(3):
        assert take(intake, json.dumps(alert(number)).encode()).results == {"run": 1}
    metrics = Metrics()
    metrics.add_series(records.series)
    text = metrics.text().decode()
    throttled = {"playbook": "once", "reason": "throttle"}
    assert value(text, "tiercel_suppressed_runs_total", **throttled) == 2


def test_a_retried_run_is_counted_again_but_its_duration_is_not(tmp_path):
    metrics = WorkMetrics()
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    try:
        take(intake_of(journal), json.dumps(FALCO).encode()).written.result(PATIENCE)
        for again in range(2):
            (claim,) = journal.claim("cluster", 1, NOW + 60)
            became = journal.settle(claim, Outcome("failed", "no"), NOW + 60)
            metrics(AttemptEnded(claim, Outcome("failed", "no"), became, NOW + 60 + again * 3_600))
            journal.retry(claim.run.id, 0, Decision("retry", "alice", NOW + 60))
    finally:
        journal.close()
    text = metrics.text().decode()
    assert value(text, "tiercel_runs_total", outcome="failed", playbook="mark-shell") == 2
    assert value(text, "tiercel_done_seconds_count", outcome="failed") == 1
    assert value(text, "tiercel_wait_seconds_count") == 1


def test_the_audit_log_has_the_value_of_each_condition_once(tmp_path):
    conditions = """  conditions:
    - {field: k8s.ns.name, notIn: [kube-system]}
    - any:
        - {field: proc.cmdline, contains: x}
        - {field: proc.gone, exists: false}
  match:"""
    playbook = PLAYBOOK.replace("  match:", conditions).replace(
        "  actions:", "  actions:\n    - {action: pod.annotate, with: {annotations: {a: b}}}"
    )
    event = FALCO | {"output_fields": FALCO["output_fields"] | {"proc.cmdline": "x" * 3_000}}
    with engine(tmp_path, {"a.yaml": playbook}, "--dry-run") as running:
        (run,) = running.post(event)[2]["runs"]
        first = running.wait_for_audit(lambda line: line.get("step") == "pod.annotate")
        second = running.wait_for_audit(lambda line: line.get("step") == "pod.label")
    values = {one["condition"]: one["value"] for one in first["conditions"]}
    assert values["k8s.ns.name notIn [kube-system]"] == "demo"
    assert len(values["proc.cmdline contains x"]) == 1_000
    assert values["proc.gone exists false"] is None
    assert second["conditions"] == []
    assert first["run"] == run
