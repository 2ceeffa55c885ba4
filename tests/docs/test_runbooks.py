"""Each alert leads to a section of the runbooks, and each section belongs to an alert."""

from __future__ import annotations

import re

import yaml
from tests.support.engine import ROOT

RULES = ROOT / "examples/seed-loop/prometheus/tiercel.rules.yaml"
PAGE = (ROOT / "docs/runbooks.md").read_text()
URL = "https://github.com/tiercel/tiercel/blob/main/docs/runbooks.md#"
PARTS = ("**Meaning.**", "**Impact.**", "**Check.**", "**Fix.**")


def alerts():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_each_alert_has_a_section_and_each_section_an_alert():
    sections = re.findall(r"^## (\S+)$", PAGE, re.MULTILINE)
    assert len(sections) > 6
    assert {*sections} == {alert["alert"] for alert in alerts()}


def test_each_alert_links_to_its_section():
    links = {alert["alert"]: alert["annotations"]["runbook_url"] for alert in alerts()}
    assert links == {name: URL + name.lower() for name in links}


def test_each_section_says_what_it_means_what_it_does_and_how_to_check_and_fix_it():
    for section in PAGE.split("\n## ")[1:]:
        places = [section.find(part) for part in PARTS]
        assert -1 not in places, section.splitlines()[0]
        assert places == sorted(places)
        assert "```sh\n" in section
