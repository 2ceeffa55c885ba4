"""The alert rules: promtool accepts them and their unit tests, and the PrometheusRule has the same rules."""

import re
from pathlib import Path

import pytest
import yaml
from engine.telemetry.metrics import METRICS
from tests.support.prometheus import promtool

import prometheus_rule

ROOT = Path(__file__).parents[2]


def unit_tests(file):
    return file.with_name(file.name.replace(".rules.", ".rules.test."))


def rules_of(file):
    groups = yaml.safe_load(file.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


REPLICAS = prometheus_rule.RULES.with_name("replicas.rules.yaml")
FILES = {"runbooks.md": prometheus_rule.RULES, "replicas.md": REPLICAS}
"""The page that says what to do about the alerts of a file."""
RULES = [(page, rule) for page, file in FILES.items() for rule in rules_of(file)]
PAGES = "https://github.com/tiercel/tiercel/blob/main/docs/"


@pytest.mark.parametrize("file", FILES.values(), ids=[*FILES])
def test_promtool_accepts_the_rules_and_their_unit_tests(file):
    checked = promtool("check", "rules", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", unit_tests(file))
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("file", FILES.values(), ids=[*FILES])
def test_each_alert_has_a_unit_test(file):
    text = unit_tests(file).read_text()
    names = {rule["alert"] for rule in rules_of(file)}
    assert set(re.findall(r'alertname(?:: |=")(\w+)', text)) == names


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (prometheus_rule.RULES, (" > 60", " > 90")),
        (prometheus_rule.RULES, ("for: 5m", "for: 1m")),
        (REPLICAS, ("for: 10m", "for: 9m")),
        (REPLICAS, ("< 0.2", "< 0.21")),
        (REPLICAS, ("max(", "min(")),
    ],
)
def test_a_changed_rule_fails_the_unit_tests(tmp_path, file, change):
    changed = file.read_text().replace(*change)
    assert changed != file.read_text()
    (tmp_path / file.name).write_text(changed)
    (tmp_path / unit_tests(file).name).write_text(unit_tests(file).read_text())
    assert promtool("test", "rules", tmp_path / unit_tests(file).name).returncode == 1


def test_the_prometheus_rule_has_the_same_rules():
    assert prometheus_rule.PROMETHEUS_RULE.read_text() == prometheus_rule.prometheus_rule(), (
        "run: python examples/seed-loop/prometheus_rule.py"
    )
    found = yaml.safe_load(prometheus_rule.PROMETHEUS_RULE.read_text())
    assert found["spec"] == yaml.safe_load(prometheus_rule.RULES.read_text())


@pytest.mark.parametrize(("page", "rule"), RULES, ids=[rule["alert"] for _, rule in RULES])
def test_an_alert_says_what_to_do(page, rule):
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{PAGES}{page}#{rule['alert'].lower()}"
    assert f"## {rule['alert']}\n" in (ROOT / "docs" / page).read_text()


def test_the_rules_name_metrics_of_the_engine():
    named = set(
        re.findall(r"\btiercel_(\w+?)\b(?=[{ ]|$)", "\n".join(rule["expr"] for _, rule in RULES))
    )
    assert named
    assert named <= METRICS.keys()
