"""The alert rules: promtool accepts them and their unit tests, and the PrometheusRule has the same rules."""

import re
from pathlib import Path

import pytest
import yaml
from engine.telemetry.metrics import METRICS
from tests.support.prometheus import promtool

import prometheus_rule

ROOT = Path(__file__).parents[2]
TESTS = prometheus_rule.RULES.with_name("tiercel.rules.test.yaml")
RULES = [
    rule
    for group in yaml.safe_load(prometheus_rule.RULES.read_text())["groups"]
    for rule in group["rules"]
]
NAMES = sorted({rule["alert"] for rule in RULES})
RUNBOOKS = "https://github.com/tiercel/tiercel/blob/main/docs/runbooks.md#"


def test_promtool_accepts_the_rules_and_their_unit_tests():
    checked = promtool("check", "rules", prometheus_rule.RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", TESTS)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_alert_has_a_unit_test():
    text = TESTS.read_text()
    assert set(re.findall(r'alertname(?:: |=")(\w+)', text)) == set(NAMES)


@pytest.mark.parametrize("change", [(" > 60", " > 90"), ("for: 5m", "for: 1m")])
def test_a_changed_threshold_fails_the_unit_tests(tmp_path, change):
    changed = prometheus_rule.RULES.read_text().replace(*change)
    assert changed != prometheus_rule.RULES.read_text()
    (tmp_path / prometheus_rule.RULES.name).write_text(changed)
    (tmp_path / TESTS.name).write_text(TESTS.read_text())
    assert promtool("test", "rules", tmp_path / TESTS.name).returncode == 1


def test_the_prometheus_rule_has_the_same_rules():
    assert prometheus_rule.PROMETHEUS_RULE.read_text() == prometheus_rule.prometheus_rule(), (
        "run: python examples/seed-loop/prometheus_rule.py"
    )
    found = yaml.safe_load(prometheus_rule.PROMETHEUS_RULE.read_text())
    assert found["spec"] == yaml.safe_load(prometheus_rule.RULES.read_text())


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_says_what_to_do(rule):
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == RUNBOOKS + rule["alert"].lower()
    assert f"## {rule['alert']}\n" in (ROOT / "docs" / "runbooks.md").read_text()


def test_the_rules_name_metrics_of_the_engine():
    named = set(re.findall(r"\btiercel_(\w+?)\b(?=[{ ]|$)", "\n".join(r["expr"] for r in RULES)))
    assert named
    assert named <= METRICS.keys()
