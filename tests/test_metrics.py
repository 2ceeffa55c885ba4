"""What a scrape shows: a counter of every end, histograms, gauges; nothing that an event says."""

from __future__ import annotations

import re

import pytest
from engine.budget import Charge, Ledger
from engine.guard import Guard
from engine.metrics import Metrics
from engine.observe import Received, Reloaded
from engine.playbook import Budget, Guardrails

from tests.serving import engine
from tests.taking import FALCO, PLAYBOOK, alert

WAYS = {
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


@pytest.mark.parametrize("way", WAYS)
def test_each_way_an_event_ends_is_counted(tmp_path, way):
    change, other = WAYS[way]
    playbook = PLAYBOOK
    for old, new in change.items():
        playbook = playbook.replace(old, new)
    with engine(tmp_path, {"a.yaml": playbook}, "--dry-run") as running:
        for number in range(2):
            running.post(alert(number, **other))
        running.post(b"{")
        text = running.get("/metrics")[2]
        assert value(text, "tiercel_events_total", result=way) >= 1
        assert value(text, "tiercel_events_total", result="error") == 1
        assert value(text, "tiercel_bodies_total", status="400") == 1
        assert value(text, "tiercel_accept_seconds_count") == 2


def test_a_run_is_measured_from_its_receipt_to_its_end_and_nothing_of_it_is_named(tmp_path):
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run") as running:
        (run,) = running.post(FALCO)[2]["runs"]
        line = running.wait_for_audit(lambda line: line.get("run") == run)
        text = running.get("/metrics")[2]
        assert value(text, "tiercel_attempt_seconds_count", action="pod.label") == 1
        assert value(text, "tiercel_wait_seconds_count") == 1
        assert value(text, "tiercel_done_seconds_count", outcome="planned") == 1
        assert value(text, "tiercel_playbooks") == 1
        assert value(text, "tiercel_playbooks_loaded_timestamp_seconds") > 1.7e9
        assert value(text, "tiercel_queue_runs", state="waiting") == 0
        assert value(text, "tiercel_journal_writable") == 1
        assert value(text, "tiercel_paused") == 0
        assert (
            value(text, "tiercel_budget_left", effect="disrupt", per="10m", scope="cluster") == 20
        )
        for said in ("nginx", "0a1b2c3d4e5f", FALCO["rule"], run):
            assert said not in text
        assert line["seconds"] >= 0
        assert len(line["event"]) == 32


def test_what_a_budget_has_left_is_that_of_its_fullest_window():
    rails = Guardrails(budgets=(Budget("disrupt", 5, 60.0, "namespace"),))
    ledger = Ledger()
    guard = Guard(rails, ledger=ledger)
    assert [left for _, left in guard.left()] == [5]
    for target, namespace in (("a", "one"), ("b", "one"), ("c", "two")):
        ledger.take(rails, Charge("disrupt", "pod.delete", "p", target, namespace), 0.0)
    ledger.take(rails, Charge("disrupt", "pod.delete", "p", "d", "one", mode="dryRun"), 0.0)
    assert [left for _, left in guard.left()] == [3]
    ledger.take(rails, Charge("disrupt", "pod.delete", "p", "e", "three"), 61.0)
    assert [left for _, left in guard.left()] == [4]


def test_a_refused_reload_shows_until_the_folder_is_good_again():
    metrics = Metrics()
    metrics(Reloaded("d", 3))
    metrics(Reloaded("d", 3, ["broken"]))
    text = metrics.text().decode()
    assert value(text, "tiercel_playbooks_current") == 0
    assert value(text, "tiercel_reloads_total", result="refused") == 1


def test_each_bucket_holds_what_took_no_longer_than_its_bound():
    metrics = Metrics()
    for seconds in (0.001, 0.0015, 0.0025, 7.0, None):
        metrics(Received(202, {"run": 1, "duplicate": 2}, seconds))
    text = metrics.text().decode()
    bounds = ("0.0005", "0.001", "0.002", "0.003", "1.0", "+Inf")
    held = [value(text, "tiercel_accept_seconds_bucket", le=bound) for bound in bounds]
    assert held == [0, 1, 2, 3, 3, 4]
    assert value(text, "tiercel_accept_seconds_sum") == pytest.approx(7.005)
    assert value(text, "tiercel_events_total", result="duplicate") == 10
    assert value(text, "tiercel_bodies_total", status="202") == 5


def test_the_names_are_prometheus_conventions():
    metrics = Metrics()
    metrics(Received(202, {"run": 1}, 0.001))
    for family in metrics.registry.collect():
        assert re.fullmatch(r"tiercel_[a-z_]+", family.name)
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_the_audit_tells_the_value_of_each_condition_once(tmp_path):
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
    told = {one["condition"]: one["value"] for one in first["conditions"]}
    assert told["k8s.ns.name notIn [kube-system]"] == "demo"
    assert len(told["proc.cmdline contains x"]) == 1_000
    assert told["proc.gone exists false"] is None
    assert second["conditions"] == []
    assert first["run"] == run
