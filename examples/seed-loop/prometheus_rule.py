"""Write prometheus-rule.yaml from the plain rules file (`python examples/seed-loop/prometheus_rule.py`)."""

from __future__ import annotations

import textwrap
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
RULES = FOLDER / "prometheus" / "tiercel.rules.yaml"
PROMETHEUS_RULE = FOLDER / "prometheus-rule.yaml"
_HEAD = """\
# The alert rules for the Prometheus Operator, written by `python examples/seed-loop/prometheus_rule.py` from
# prometheus/tiercel.rules.yaml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tiercel
  namespace: tiercel
  labels:
    release: kube-prometheus-stack  # the default ruleSelector of the chart
spec:
"""


def prometheus_rule() -> str:
    """Return the text of the PrometheusRule, with the comments of the rules."""
    text = RULES.read_text(encoding="utf-8")
    return _HEAD + textwrap.indent(text[text.index("groups:") :], "  ")


if __name__ == "__main__":
    PROMETHEUS_RULE.write_text(prometheus_rule(), encoding="utf-8")
