"""The playbooks of the load, and what they allow."""

from __future__ import annotations

from tests.history.records import Limits

FEW = 2
"""Pods that the playbook ``few`` may touch in each namespace."""
PODS = 4
"""Pods in each namespace, more than FEW."""
RULES = ("tell", "mark", "hold", "once", "few")
LIMITS = Limits(once=frozenset({"once"}), few={"few": FEW}, until=frozenset({"hold"}))
_HEAD = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {{name: {name}}}
spec:
  match: {{rules: [{name}]}}
"""
_REQUEST = """\
    - action: http.request
      retry: {delay: 500ms}
      with:
        url: "http://ADDRESS/request/%k8s.ns.name/%k8s.pod.name"
        headers: {Process: {fromSecret: process}}
"""
_ANNOTATE = """\
    - {{action: pod.annotate, with: {{annotations: {{history.test/{name}: "%run.id"}}}}}}
"""
_HOLD = """\
    - {action: pod.label, with: {labels: {history.test/hold: "%run.id"}, ttl: 3s}}
"""
_RAILS = f"""\
apiVersion: tiercel.dev/v1
kind: Guardrails
metadata: {{name: default}}
spec:
  budgets:
    - {{effect: mark, limit: {FEW}, per: 1h, scope: namespace, playbooks: [few], onExceeded: drop}}
"""


def playbooks(address: str) -> dict[str, str]:
    """Return the files: path -> text. address: HOST:PORT of the receiver of requests."""
    throttle = "  throttle: {key: [k8s.ns.name, k8s.pod.name], once: 1h}\n"
    request = _REQUEST.replace("ADDRESS", address)
    actions = {
        "tell": "  actions:\n" + request,
        "mark": "  actions:\n" + _ANNOTATE.format(name="mark") + request,
        "hold": "  actions:\n" + _HOLD,
        "once": throttle + "  actions:\n" + _ANNOTATE.format(name="once"),
        "few": "  actions:\n" + _ANNOTATE.format(name="few"),
    }
    made = {f"{name}.yaml": _HEAD.format(name=name) + text for name, text in actions.items()}
    return {**made, "rails.yaml": _RAILS}
